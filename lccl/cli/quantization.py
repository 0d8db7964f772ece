"""``lccl quantize``: int8 weights for a bundle."""

from typing import Annotated

import typer

import lccl
from lccl.cli.terminal import (
    BundleFolder,
    Cache,
    Data,
    Threads,
    load_data,
    print_table,
    save_with_self_test,
    say_skipped,
    use_threads,
    working,
)


def quantize(
    bundle: BundleFolder,
    data: Data,
    engine: Annotated[str, typer.Option(help="auto, cpu or reference.")] = "auto",
    images: Annotated[int, typer.Option(min=1, help="Images on which the costs of rounding are found.")] = 512,
    cache: Cache = None,
    threads: Threads = 0,
) -> None:
    """Give a bundle int8 weights, and say what they lose; then lccl calibrate --precision int8 measures its points."""
    from lccl.bundle.model_card import write_card
    from lccl.calibration.int8 import quantise_bundle
    from lccl.data import hold_out

    use_threads(threads)
    loaded = lccl.load(bundle)
    dataset = load_data(data, loaded.preprocessing, cache).in_order_of(loaded.labels)
    with working("quantising") as update:
        held = hold_out(dataset.train, by=loaded.held_out_by)
        quantised = quantise_bundle(loaded, held, engine, threads, update, images)
    save_with_self_test(quantised, bundle)
    write_card(quantised, bundle)
    assert quantised.int8 is not None
    print_table(
        ("point", "fp32", "int8", "lost (points)", "95 %", "skips fp32", "int8"),
        (
            (
                name, *(f"{value:.4f}" for value in loss.accuracy), f"{loss.drop:.2f}",
                f"{loss.interval.low:.2f} – {loss.interval.high:.2f}",
                *(f"{value:.3f}" for value in loss.skip_ratio),
            )
            for name, loss in quantised.int8.losses.items()
        ),
    )  # fmt: skip
    say_skipped(dataset)
