"""``lccl calibrate`` and ``lccl evaluate``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import lccl
from lccl.cli import options as asked
from lccl.cli.terminal import (
    BundleFolder,
    Cache,
    Data,
    Threads,
    console,
    counting,
    load_data,
    print_points,
    print_table,
    save_with_self_test,
    say_skipped,
    use_threads,
    working,
)
from lccl.errors import LcclError

if TYPE_CHECKING:
    from lccl.data import Dataset, Split
    from lccl.measurement import Measurement
    from lccl.operating_points import OperatingPoint
    from lccl.plan.geometry import NetworkShape

CERTAIN = 1000  # held-out images
EngineName = Annotated[str, typer.Option(help="auto, cpu or reference.")]
Precision = Annotated[str, typer.Option(help="fp32, or int8 of a bundle that was quantised.")]


def calibrate(
    bundle: BundleFolder,
    data: Data,
    engine: EngineName = "auto",
    search: Annotated[
        int | None,
        typer.Option(
            min=1, help="Images on which the costs of skipping are found.  [default: 1000; 200 of photographs]"
        ),
    ] = None,
    closing: asked.Closing = "blocks",
    precision: Precision = "fp32",
    cache: Cache = None,
    threads: Threads = 0,
) -> None:
    """Choose and measure a bundle's operating points in one precision, and write its model card."""
    from lccl.bundle.model_card import write_card
    from lccl.calibration.choice import calibrate as choose_points
    from lccl.calibration.choice import usual_search
    from lccl.data import hold_out

    use_threads(threads)
    loaded = lccl.load(bundle)
    dataset = load_data(data, loaded.preprocessing, cache).in_order_of(loaded.labels)
    with working("calibrating") as update:
        runner = lccl.compile(loaded, precision=_known(precision), engine=engine, threads=threads)
        held = hold_out(dataset.train, by=loaded.held_out_by)
        searched = search or usual_search(loaded.preprocessing.size)
        calibrated = choose_points(loaded, runner, held, update, searched, closing)
    save_with_self_test(calibrated, bundle)
    write_card(calibrated, bundle)
    print_points(calibrated.in_precision(precision))
    _say_what_is_certain(calibrated.in_precision(precision))
    say_skipped(dataset)


def _say_what_is_certain(bundle: lccl.Bundle) -> None:
    """Of few held-out images: which losses they cannot tell from none."""
    images, least = bundle.table.images, bundle.table.smallest_certified_drop
    if images >= CERTAIN:
        return
    most = "any loss" if least is None else f"a loss below {least:.1f} points"
    console.print(
        f"{images} held-out images cannot exclude {most}: requests for a smaller max_accuracy_drop are answered "
        "exactly, and stated accuracies have the wide intervals of the model card. More images would tell",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def evaluate(
    bundle: BundleFolder,
    data: Data,
    part: Annotated[str, typer.Option(help="test, or the held-out measure.")] = "test",
    sparsity: Annotated[list[float] | None, typer.Option(help="Wanted skip ratio; may be given again.")] = None,
    exit_confidence: Annotated[
        list[float] | None, typer.Option(help="How confident every early exit must be; may be given again.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Other pixels a side than the network was trained for; its table is not of them.")
    ] = None,
    engine: EngineName = "auto",
    precision: Precision = "fp32",
    cache: Cache = None,
    threads: Threads = 0,
    out: Annotated[Path | None, typer.Option(help="Write the figures here as JSON.")] = None,
) -> None:
    """Compare what a bundle states with what it reaches, at every operating point or as the options ask."""
    from lccl import provenance
    from lccl.measurement import measure

    use_threads(threads)
    loaded = lccl.load(bundle).in_precision(_known(precision))
    if size is not None:
        loaded = replace(loaded, preprocessing=loaded.preprocessing.at(size))
    dataset = load_data(data, loaded.preprocessing, cache).in_order_of(loaded.labels)
    split = _part(dataset, part, loaded, size)
    runner = lccl.compile(loaded, precision=precision, engine=engine, threads=threads)
    requests = [lccl.QualityRequest(sparsity=value) for value in sparsity or []]
    requests += [lccl.QualityRequest(exit_confidence=value) for value in exit_confidence or []]
    requests = requests or [lccl.QualityRequest(operating_point=point.name) for point in loaded.table.points]
    points = [lccl.resolve(loaded.table, request).wanted for request in requests]
    with counting("images", len(points) * len(split)) as advance:
        rows = [_row(point, measure(runner, split, point.setting, advance), runner.shape) for point in points]
    _print_rows(rows)
    if out is not None:
        figures = {
            "bundle": bundle.name, "digest": loaded.digest, "precision": precision, "part": part,
            "size": loaded.preprocessing.size, "dense_macs": runner.shape.dense, "skipped": list(dataset.skipped),
        }  # fmt: skip
        console.print(provenance.write(out, figures | {"rows": rows}))
    say_skipped(dataset)


def _known(precision: str) -> str:
    if precision not in ("fp32", "int8"):
        raise LcclError(f"operating points are measured in fp32 or int8, not in {precision!r}")
    return precision


def _part(dataset: Dataset, part: str, bundle: lccl.Bundle, size: int | None) -> Split:
    """The test images, or those held out for measuring, none of which the bundle was trained on."""
    from lccl.data import hold_out

    if part not in ("test", "measure"):
        raise LcclError(f"unknown part {part!r}: use test or measure")
    if part == "test":
        if not len(dataset.test):
            raise LcclError("the data has no test images: use --part measure")
        return dataset.test
    if size is not None and bundle.held_out_by == "pixels":
        raise LcclError("this bundle's held-out images follow from their pixels: leave --size out, or use --part test")
    held = hold_out(dataset.train, by=bundle.held_out_by)
    bundle.check_held_out(held.digest)
    return held.measure


def _row(point: OperatingPoint, reached: Measurement, shape: NetworkShape) -> dict[str, Any]:
    from lccl.calibration.intervals import wilson

    return {
        "point": point.name, "skip_stated": point.skip_ratio, "skip_reached": reached.skip_ratio(shape),
        "accuracy_stated": point.accuracy, "accuracy_reached": reached.accuracy,
        "accuracy_interval": wilson(int(reached.right.sum()), len(reached.right)),
        "gated_macs": reached.gated_macs(shape), "images": len(reached.right),
    }  # fmt: skip


def _print_rows(rows: list[dict[str, Any]]) -> None:
    print_table(
        ("point", "skip stated", "reached", "accuracy stated", "reached", "95 %", "gated MACs"),
        (
            (
                row["point"] or "between", f"{row['skip_stated']:.3f}", f"{row['skip_reached']:.3f}",
                f"{row['accuracy_stated']:.4f}", f"{row['accuracy_reached']:.4f}",
                " – ".join(f"{bound:.4f}" for bound in row["accuracy_interval"]), f"{row['gated_macs'] / 1e6:.2f} M",
            )
            for row in rows
        ),
    )  # fmt: skip
