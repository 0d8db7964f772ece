"""The model card: a bundle described for people, written from the bundle alone."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from lccl.bundle.format import Bundle
from lccl.bundle.int8 import Loss
from lccl.bundle.training_record import TrainingRecord, TwinRecord
from lccl.networks import Architecture
from lccl.operating_points import OperatingPoint
from lccl.plan.geometry import NetworkShape

CARD, FEW = "README.md", 1000
FIGURES = ("skip ratio", "gated / dense MACs", "accuracy %", "lost against exact, points", "at most")


def write_card(bundle: Bundle, folder: Path) -> None:
    """Write ``README.md`` into the bundle's folder."""
    shape = bundle.shape
    head, points = _head(bundle, folder.name, shape), _points(bundle, shape)
    parts = (head, points, _int8(bundle, shape), _exits(bundle, shape), _layers(bundle))
    lines = [line for part in (*parts, _training(bundle.training)) for line in part]
    (folder / CARD).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _head(bundle: Bundle, name: str, shape: NetworkShape) -> Iterator[str]:
    network = bundle.architecture
    yield f"# {name}\n"
    yield (
        f"{network.name}, {network.form}-activation blocks, {_gates(network)}, {network.classes} classes; "
        f"{bundle.preprocessing.size} × {bundle.preprocessing.size} pixels. "
        f"Plain twin: {shape.dense:,} MACs; gates: {shape.gates:,} MACs"
        f"{f'; means of split convolutions: {shape.means:,} MACs' if shape.means else ''}.\n"
    )
    yield f"Labels: {', '.join(bundle.labels)}.\n"


def _gates(network: Architecture) -> str:
    placed = "" if network.placement == "aft-aft" else f" placed {network.placement}"
    bare = "" if network.gate_norm else " without normalisation"
    split = "" if network.split == "none" else f", 3×3 convolutions split at {network.split}"
    return f"{network.gate} gates{placed}{bare}{split}"


def _table(*rows: Iterable[str]) -> Iterator[str]:
    """Markdown rows, the first as the head, and an empty line."""
    head, *body = ([*row] for row in rows)
    for row in (head, ["---"] * len(head), *body):
        yield f"| {' | '.join(row)} |".replace(" --- ", "---")
    yield ""


def _points(bundle: Bundle, shape: NetworkShape) -> Iterator[str]:
    yield "## Operating points\n"
    yield (
        f"Skip ratios and losses are measured on {bundle.table.images:,} held-out images that neither trained the "
        "weights nor chose the thresholds; accuracies also use exact's answers to the images that chose them. "
        "Intervals are 95 %; the bound is one-sided.\n"
    )
    least = bundle.table.smallest_certified_drop
    if bundle.table.images < FEW and (least is None or least >= 0.05):
        unsure = "any loss" if least is None else f"a loss below {least:.1f} points"
        yield f"So few images cannot exclude {unsure}: requests that allow less are answered exactly.\n"
    points = bundle.table.points
    yield from _table(["point", *FIGURES], *([str(each.name), *_figures(each, shape, spread=True)] for each in points))
    twin = bundle.training.plain_twin
    if twin is None:
        return
    alike = twin.attached_to is None and twin.epochs == bundle.training.total_epochs
    yield (
        f"{_twin_name(twin)}{', trained with the same budget,' if alike else ''} has {100 * twin.accuracy:.2f} % "
        f"{_range(*(100 * bound for bound in twin.accuracy_interval))} on the same images."
    )
    if twin.may_know_the_images:
        yield (
            "It may have been trained on them, which flatters its accuracy and this network's: "
            "only images that neither was trained on, the test images, show what to expect."
        )
    yield ""


def _int8(bundle: Bundle, shape: NetworkShape) -> Iterator[str]:
    """What int8 loses against fp32, and the points that were measured in it."""
    int8 = bundle.int8
    if int8 is None:
        return
    yield "## int8\n"
    if int8.losses:
        yield "What int8 loses at the settings of points above, image by image:\n"
        head = ["point", "images", "fp32 accuracy %", "int8 accuracy %", "lost, points"]
        yield from _table(head, *([name, *_loss(loss)] for name, loss in int8.losses.items()))
    if int8.table is not None:
        yield f"Points measured in int8, on {int8.table.images:,} images; losses are against exact in int8:\n"
        points = int8.table.points
        yield from _table(["point", *FIGURES], *([str(each.name), *_figures(each, shape)] for each in points))


def _loss(loss: Loss) -> list[str]:
    accuracies = [f"{100 * accuracy:.2f}" for accuracy in loss.accuracy]
    return [f"{loss.images:,}", *accuracies, f"{loss.drop:.2f} {_range(loss.interval.low, loss.interval.high)}"]


def _figures(point: OperatingPoint, shape: NetworkShape, *, spread: bool = False) -> list[str]:
    """The columns ``FIGURES`` of a point; ``spread`` adds its accuracy's interval."""
    sure, lost = point.accuracy_interval, point.drop_interval
    return [
        f"{point.skip_ratio:.3f}",
        f"{point.gated_macs / shape.dense:.3f}",
        f"{100 * point.accuracy:.2f}{f' {_range(100 * sure.low, 100 * sure.high)}' if spread else ''}",
        f"{point.drop:.2f} {_range(lost.low, lost.high)}",
        f"{point.drop_bound:.2f}",
    ]


def _range(low: float, high: float) -> str:
    return f"({low:.2f} – {high:.2f})"


def _exits(bundle: Bundle, shape: NetworkShape) -> Iterator[str]:
    record = bundle.training.sidenets
    if record is None:
        return
    yield "## Early exits\n"
    yield (
        f"What each answer is worth on {record.measured_on:,} held-out images if all of them took it, with exact "
        "gates. The calibration error is the expected one over 15 bins, before and after the temperature that the "
        "other held-out images gave. Risk is the share of wrong answers among the most confident ones: where it "
        "rises steeply with coverage, the exit's confidence separates right from wrong answers.\n"
    )
    covered = [f"risk % of the most confident {coverage:.0%}" for coverage, _ in record.end.risk_coverage]
    exits = np.arange(len(record.answers))
    spent = shape.gated(shape.reached(exits) * shape.cells, exits) / shape.dense
    rows = []
    for number, answer in enumerate(record.answers):
        errors = f"{100 * answer.calibration_error_before:.1f} → {100 * answer.calibration_error:.1f}"
        figures = [f"{spent[number]:.3f}", f"{100 * answer.accuracy:.2f}", errors, f"{answer.temperature:.2f}"]
        rows.append([answer.name(number), *figures, *(f"{100 * risk:.1f}" for _, risk in answer.risk_coverage)])
    head = ["answer", "MACs spent / dense", "accuracy %", "calibration error %", "temperature", *covered]
    yield from _table(head, *rows)
    yield "With exact gates and the same confidence for every exit:\n"
    exit_points = bundle.table.exit_points
    stated = ([f"{each.setting.exit_confidence[0]:g}", *_figures(each, shape)] for each in exit_points)
    yield from _table(["exit confidence", *FIGURES], *stated)
    shares = bundle.calibration.get("images_by_exit")
    if shares:
        yield "Percent of the images that each exit answers:\n"
        named = (f"exit {number}" for number in range(len(shape.exits)))
        answered = ([point, *(f"{100 * share:.1f}" for share in shares[point])] for point in _few(list(shares), 9))
        yield from _table(["point", *named, "the network's end"], *answered)


def _layers(bundle: Bundle) -> Iterator[str]:
    spread = bundle.calibration.get("skip_ratio_mean_std")
    if not spread:
        return
    shown = _few(list(spread))
    yield "## Skip ratio of each layer\n"
    yield "Mean ± standard deviation between images. A layer without spread skips the same share of every image.\n"
    rows = (
        [layer, *(f"{spread[point][number][0]:.2f} ± {spread[point][number][1]:.2f}" for point in shown)]
        for number, layer in enumerate(bundle.calibration["layers"])
    )
    yield from _table(["layer", *shown], *rows)


def _training(record: TrainingRecord) -> Iterator[str]:
    yield "## Training\n"
    earlier = record.total_epochs - len(record.epochs)
    more = f"{earlier} epochs, and {len(record.epochs)} more as recorded,"
    recipe, data, machine = record.recipe, record.data, record.machine
    if recipe and data and machine:
        hours = sum(epoch.get("seconds", 0) for epoch in record.epochs) / 3600
        yield (
            f"{more if earlier else f'{len(record.epochs)} epochs'} over {data.train:,} images, batch "
            f"{recipe.get('batch')}, {recipe.get('precision')}, seed {recipe.get('seed')}; {hours:.1f} hours on "
            f"{machine['threads']} thread{'' if machine['threads'] == 1 else 's'} of {machine['device']}. "
            "The figures are those of the last epoch. The whole record is in bundle.json."
        )
        if record.teacher and recipe.get("distill", 1):
            accuracy = 100 * record.teacher.accuracy
            yield f"It also learned the answers of another network with {accuracy:.2f} % of the held-out images."
    twin = record.plain_twin
    named = {"This network, exact": record.test} | ({_twin_name(twin): twin.test} if twin else {})
    for name, figures in named.items():
        if figures:
            yield f"{name}: {100 * figures.accuracy:.2f} % of {figures.images:,} test images."


def _twin_name(twin: TwinRecord) -> str:
    source = twin.attached_to
    return f"The plain network it was attached to ({source})" if source else "The plain twin"


def _few(points: list[str], most: int = 5) -> list[str]:
    """At most that many points, evenly spread, first and last among them."""
    if len(points) <= most:
        return points
    return [points[round(index * (len(points) - 1) / (most - 1))] for index in range(most)]
