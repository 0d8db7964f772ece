"""``lccl sidenet``: early exits for a trained network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import lccl
from lccl.cli.terminal import (
    BundleFolder,
    Cache,
    Data,
    NewBundle,
    Threads,
    console,
    load_data,
    one_sentence_errors,
    print_table,
    save_with_self_test,
    say_skipped,
    training_progress,
    use_threads,
)
from lccl.errors import LcclError

if TYPE_CHECKING:
    from lccl.bundle.training_record import SideNetsRecord

app = typer.Typer(no_args_is_help=True, help="Early exits: images with a confident answer leave the network early.")


@app.command()
@one_sentence_errors()
def train(
    bundle: BundleFolder,
    data: Data,
    out: NewBundle,
    after: Annotated[
        list[int] | None, typer.Option(help="Number of a block to put one after, from 0; may be given again.")
    ] = None,
    grid: Annotated[int, typer.Option(help="Parts a side of the map, whose means it reads.")] = 4,
    hidden: Annotated[int, typer.Option(help="Units of its hidden layer.")] = 128,
    epochs: int = 6,
    batch: int = 256,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 3e-3,
    seed: int = 0,
    engine: Annotated[str, typer.Option(help="What measures: auto, cpu or reference.")] = "auto",
    cache: Cache = None,
    threads: Threads = 0,
) -> None:
    """Fit SideNets to a bundle's network, which stays as it is, and write a new bundle."""
    from lccl.bundle.model_card import write_card
    from lccl.data import hold_out
    from lccl.networks.sidenet import SideNetSpec
    from lccl.train.sidenets import SideNetRecipe, fit_sidenets, usual_blocks

    use_threads(threads)
    recipe = SideNetRecipe(epochs=epochs, batch=batch, lr=lr, seed=seed)
    loaded = lccl.load(bundle)
    if loaded.network.skip_convs and len(loaded.table.points) == 1:
        console.print(
            f"{bundle} has no operating points yet: SideNets are fitted to exact gates alone, and worth less under "
            "others. Run lccl calibrate first",
            highlight=False,
        )
    dataset = load_data(data, loaded.preprocessing, cache).in_order_of(loaded.labels)
    specs = [SideNetSpec(block, grid, hidden) for block in after or usual_blocks(loaded.network)]
    held = hold_out(dataset.train, by=loaded.held_out_by)
    with training_progress() as report:
        fitted = fit_sidenets(loaded, specs, held, recipe, report, engine, threads)
    save_with_self_test(fitted, out)
    write_card(fitted, out)
    _print_exits(_record(fitted))
    say_skipped(dataset)
    if fitted.network.skip_convs:
        console.print(f"now lccl calibrate {out} {data} finds points that use the exits", highlight=False)


@app.command()
@one_sentence_errors()
def diagram(
    bundle: BundleFolder,
    out: Annotated[Path, typer.Option(help="The image: .svg, .png or .pdf.")] = Path("reliability.svg"),
) -> None:
    """Draw how well each exit's confidence matches its accuracy on unseen images."""
    from lccl.train.reliability_diagram import draw

    draw(_record(lccl.load(bundle)), out)
    console.print(str(out), highlight=False)


def _record(bundle: lccl.Bundle) -> SideNetsRecord:
    if bundle.training.sidenets is None:
        raise LcclError("this bundle has no SideNets: fit some with lccl sidenet train")
    return bundle.training.sidenets


def _print_exits(record: SideNetsRecord) -> None:
    print_table(
        ("exit after", "accuracy", "calibration error before", "after"),
        (
            (
                "the end" if answer.after is None else f"block {answer.after}", f"{answer.accuracy:.4f}",
                f"{answer.calibration_error_before:.4f}", f"{answer.calibration_error:.4f}",
            )
            for answer in record.answers
        ),
    )  # fmt: skip
