"""``lccl sidenet``: early exits for a trained network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lccl.cli.terminal import (
    BundleFolder,
    Data,
    NewBundle,
    Threads,
    console,
    load_data,
    new_table,
    one_sentence_errors,
    training_progress,
    use_threads,
)
from lccl.errors import LcclError

if TYPE_CHECKING:
    from lccl.bundle.format import Bundle

app = typer.Typer(no_args_is_help=True, help="Early exits: let images that are already clear leave the network.")


@app.command()
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
    threads: Threads = 0,
) -> None:
    """Fit SideNets to a bundle's network, which stays as it is, and write a new bundle."""
    from lccl.bundle import format as bundles
    from lccl.bundle.model_card import write_card
    from lccl.bundle.self_test import record as record_canary
    from lccl.data import hold_out
    from lccl.networks.sidenet import SideNetSpec
    from lccl.train.sidenets import SideNetRecipe, fit_sidenets, usual_places

    with one_sentence_errors():
        use_threads(threads)
        recipe = SideNetRecipe(epochs=epochs, batch=batch, lr=lr, seed=seed)
        loaded = bundles.load(bundle)
        if loaded.network.skip_convs and len(loaded.table.points) == 1:
            console.print(
                f"{bundle} has no operating points yet: SideNets are fitted to exact gates alone, and worth less under "
                "others. lccl calibrate before gives them all",
                highlight=False,
            )
        dataset = load_data(data, loaded.preprocessing).in_order_of(loaded.labels)
        specs = [SideNetSpec(block, grid, hidden) for block in after or usual_places(loaded.network)]
        with training_progress() as report:
            made = fit_sidenets(loaded, specs, hold_out(dataset.train), recipe, report, engine, threads)
        made = replace(made, self_test=record_canary(made))
        bundles.save(made, out)
        write_card(made, out)
        _print_exits(made)
        if made.network.skip_convs:
            console.print(f"now lccl calibrate {out} {data} finds points that use the exits", highlight=False)


@app.command()
def diagram(
    bundle: BundleFolder,
    out: Annotated[Path, typer.Option(help="The image: .svg, .png or .pdf.")] = Path("reliability.svg"),
) -> None:
    """Draw how far each exit's confidence can be believed: accuracy against confidence on unseen images."""
    from lccl.bundle import format as bundles
    from lccl.train.reliability_diagram import draw

    with one_sentence_errors():
        draw(_record(bundles.load(bundle)), out)
        console.print(str(out), highlight=False)


def _record(bundle: Bundle) -> dict[str, Any]:
    record: dict[str, Any] | None = bundle.training.get("sidenets")
    if not record:
        raise LcclError("this bundle has no SideNets: fit some with lccl sidenet train")
    try:
        for one in (*record["exits"], record["end"]):
            numbers = [one["accuracy"], one["calibration_error"], one["calibration_error_before"]]
            numbers += [part[name] for part in one["reliability"] for name in ("images", "confidence", "accuracy")]
            if not all(isinstance(number, int | float) for number in numbers):
                raise TypeError("no number")
    except (TypeError, KeyError) as error:
        raise LcclError("this bundle's record of its SideNets is not readable: fit them anew") from error
    return record


def _print_exits(bundle: Bundle) -> None:
    record, table = _record(bundle), new_table("exit after", "accuracy", "calibration error before", "after")
    for exit_ in (*record["exits"], record["end"]):
        table.add_row(
            f"block {exit_['after']}" if "after" in exit_ else "the end", f"{exit_['accuracy']:.4f}",
            f"{exit_['calibration_error_before']:.4f}", f"{exit_['calibration_error']:.4f}",
        )  # fmt: skip
    console.print(table)
