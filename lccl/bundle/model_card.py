"""The model card: a bundle described for people, written from the bundle alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lccl.bundle.format import Bundle
from lccl.networks import Architecture
from lccl.networks.lowering import lower
from lccl.plan.geometry import NetworkShape, shape_of

CARD = "README.md"


def write_card(bundle: Bundle, folder: Path) -> None:
    """Write ``README.md`` into the bundle's folder."""
    shape = shape_of(lower(bundle.network, bundle.preprocessing))
    parts = (_head(bundle, folder.name, shape), _points(bundle, shape), _exits(bundle, shape), _layers(bundle))
    lines = [line for part in (*parts, _training(bundle)) for line in part]
    (folder / CARD).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _head(bundle: Bundle, name: str, shape: NetworkShape) -> Iterator[str]:
    network = bundle.architecture
    yield f"# {name}"
    yield ""
    yield (
        f"{network.name}, {network.form}-activation blocks, {_gates(network)}, {network.classes} classes; "
        f"{bundle.preprocessing.size} × {bundle.preprocessing.size} pixels. "
        f"Plain twin: {shape.dense:,} MACs; gates: {shape.gates:,} MACs"
        f"{f'; means of split convolutions: {shape.means:,} MACs' if shape.means else ''}."
    )
    yield ""
    yield f"Labels: {', '.join(bundle.labels)}."
    yield ""


def _gates(network: Architecture) -> str:
    placed = "" if network.placement == "aft-aft" else f" placed {network.placement}"
    bare = "" if network.gate_norm else " without normalisation"
    split = "" if network.split == "none" else f", 3×3 convolutions split at {network.split}"
    return f"{network.gate} gates{placed}{bare}{split}"


def _points(bundle: Bundle, shape: NetworkShape) -> Iterator[str]:
    yield "## Operating points"
    yield ""
    yield (
        f"Skip ratios and losses are measured on {bundle.table.images:,} held-out images that neither trained the "
        "weights nor chose the thresholds; accuracies add what exact got right on the part that chose them. "
        "Intervals are 95 %; the bound is one-sided."
    )
    yield ""
    yield "| point | skip ratio | gated / dense MACs | accuracy % | lost against exact, points | at most |"
    yield "|---|---|---|---|---|---|"
    for point in bundle.table.points:
        low, high = (100 * bound for bound in (point.accuracy_interval.low, point.accuracy_interval.high))
        yield (
            f"| {point.name} | {point.skip_ratio:.3f} | {point.gated_macs / shape.dense:.3f} | "
            f"{100 * point.accuracy:.2f} ({low:.2f} – {high:.2f}) | {point.drop:.2f} "
            f"({point.drop_interval.low:.2f} – {point.drop_interval.high:.2f}) | {point.drop_bound:.2f} |"
        )
    yield ""
    twin = bundle.training.get("plain_twin")
    if twin:
        low, high = twin["accuracy_interval"]
        alike = "attached_to" not in twin and twin.get("epochs") == bundle.epochs
        yield (
            f"{_twin_name(bundle)}{', trained with the same budget,' if alike else ''} has "
            f"{100 * twin['accuracy']:.2f} % ({100 * low:.2f} – {100 * high:.2f}) on the same images."
        )
        if twin.get("may_know_the_images"):
            yield (
                "It may have been trained on them, which flatters its accuracy and this network's: "
                "only images that neither was trained on, the test images, show what to expect."
            )
        yield ""


def _exits(bundle: Bundle, shape: NetworkShape) -> Iterator[str]:
    record = bundle.training.get("sidenets")
    if not record:
        return
    answers = [*record["exits"], record["end"]]
    yield "## Early exits"
    yield ""
    yield (
        f"What each answer is worth on {record['measured_on']:,} held-out images if all of them took it, with exact "
        "gates. The calibration error is the expected one over 15 bins, before and after the temperature that the "
        "other held-out images gave. Risk is the share of wrong answers among the surest ones: a steep rise says "
        "that an exit knows whom it may let go."
    )
    yield ""
    covered = [f"risk % of the surest {coverage:.0%}" for coverage, _ in answers[0]["risk_coverage"]]
    heads = ["answer", "MACs spent / dense", "accuracy %", "calibration error %", "temperature", *covered]
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    ways = np.arange(len(answers))
    spent = shape.gated(shape.reached(ways) * shape.cells, ways) / shape.dense
    for number, one in enumerate(answers):
        name = f"exit {number}, after block {one['after']}" if "after" in one else "the network's end"
        errors = f"{100 * one['calibration_error_before']:.1f} → {100 * one['calibration_error']:.1f}"
        cells = [name, f"{spent[number]:.3f}", f"{100 * one['accuracy']:.2f}", errors, f"{one['temperature']:.2f}"]
        yield f"| {' | '.join([*cells, *(f'{100 * risk:.1f}' for _, risk in one['risk_coverage'])])} |"
    yield ""
    yield from _exit_points(bundle, shape)
    yield from _shares_by_exit(bundle, len(shape.exits))


def _exit_points(bundle: Bundle, shape: NetworkShape) -> Iterator[str]:
    yield "With exact gates and the same confidence asked of every exit:"
    yield ""
    yield "| exit confidence | skip ratio | gated / dense MACs | accuracy % | lost against exact, points | at most |"
    yield "|---|---|---|---|---|---|"
    for point in bundle.table.exit_points:
        yield (
            f"| {point.setting.exit_confidence[0]:g} | {point.skip_ratio:.3f} | {point.gated_macs / shape.dense:.3f} | "
            f"{100 * point.accuracy:.2f} | {point.drop:.2f} ({point.drop_interval.low:.2f} – "
            f"{point.drop_interval.high:.2f}) | {point.drop_bound:.2f} |"
        )
    yield ""


def _shares_by_exit(bundle: Bundle, exits: int) -> Iterator[str]:
    shares = bundle.calibration.get("images_by_exit")
    if not shares:
        return
    yield "Percent of the images that each exit answers:"
    yield ""
    yield "| point | " + " | ".join([*(f"exit {number}" for number in range(exits)), "the network's end"]) + " |"
    yield "|---" * (exits + 2) + "|"
    for point in _few(list(shares), 9):
        yield f"| {point} | " + " | ".join(f"{100 * share:.1f}" for share in shares[point]) + " |"
    yield ""


def _layers(bundle: Bundle) -> Iterator[str]:
    spread = bundle.calibration.get("skip_ratio_mean_std")
    if not spread:
        return
    shown = _few(list(spread))
    yield "## Skip ratio of each layer"
    yield ""
    yield "Mean ± standard deviation between images. A layer without spread skips the same share of every image."
    yield ""
    yield "| layer | " + " | ".join(shown) + " |"
    yield "|---|" + "---|" * len(shown)
    for number, layer in enumerate(bundle.calibration["layers"]):
        cells = (f"{spread[point][number][0]:.2f} ± {spread[point][number][1]:.2f}" for point in shown)
        yield f"| {layer} | " + " | ".join(cells) + " |"
    yield ""


def _training(bundle: Bundle) -> Iterator[str]:
    record = bundle.training
    recipe, data, epochs = record.get("recipe", {}), record.get("data", {}), record.get("epochs", [])
    yield "## Training"
    yield ""
    hours = sum(epoch.get("seconds", 0) for epoch in epochs) / 3600
    earlier = bundle.epochs - len(epochs)
    trained = f"{earlier} epochs, and {len(epochs)} more as recorded," if earlier else f"{len(epochs)} epochs"
    threads = record.get("machine", {}).get("threads")
    yield (
        f"{trained} over {data.get('train', 0):,} images, batch {recipe.get('batch')}, "
        f"{recipe.get('precision')}, seed {recipe.get('seed')}; {hours:.1f} hours on "
        f"{threads} thread{'' if threads == 1 else 's'} of {record.get('machine', {}).get('device')}. "
        "The figures are those of the last epoch. The whole record is in bundle.json."
    )
    if record.get("teacher") and recipe.get("distill", 1):
        accuracy = 100 * record["teacher"]["accuracy"]
        yield f"It also learned the answers of another network with {accuracy:.2f} % of the held-out images."
    for name, figures in (("This network, exact", record.get("test")), (_twin_name(bundle), _twin_test(bundle))):
        if figures:
            yield f"{name}: {100 * figures['accuracy']:.2f} % of {figures['images']:,} test images."


def _twin_name(bundle: Bundle) -> str:
    source = (bundle.training.get("plain_twin") or {}).get("attached_to")
    return f"The plain network it was attached to ({source})" if source else "The plain twin"


def _twin_test(bundle: Bundle) -> dict[str, float] | None:
    found: dict[str, float] | None = (bundle.training.get("plain_twin") or {}).get("test")
    return found


def _few(points: list[str], most: int = 5) -> list[str]:
    """At most that many points, evenly spread, first and last among them."""
    if len(points) <= most:
        return points
    return [points[round(index * (len(points) - 1) / (most - 1))] for index in range(most)]
