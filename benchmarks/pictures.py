"""The pictures of the documentation, as SVG: the same figures give the same file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.paper.overview import Place
from benchmarks.photographs.families import IMAGES, NETWORKS, OWN, REMOVED

Figures = dict[str, Any]


def draw_curve(
    file: Path, model: str, points: Sequence[Figures], twin: Figures | None, reached: Figures | None
) -> None:
    """Accuracy over work: a model's table, what was reached over HTTP on test images, and the plain twin."""
    plt = _plots()
    ratios = [point["skip_ratio"] for point in points]
    accuracies = [100 * point["accuracy"] for point in points]
    below = [100 * (point["accuracy"] - point["accuracy_interval"]["low"]) for point in points]
    above = [100 * (point["accuracy_interval"]["high"] - point["accuracy"]) for point in points]
    figure, axes = plt.subplots(figsize=(7, 3.8))
    axes.errorbar(
        ratios, accuracies, [below, above], marker="o", markersize=4, capsize=2, color="#1f5fa8",
        label="operating points, held-out images (95 %)",
    )  # fmt: skip
    if twin:
        axes.axhline(100 * twin["accuracy"], color="#777777", linestyle="--", linewidth=1, label="plain twin")
    if reached is not None:
        rows = reached["rows"]
        axes.scatter(
            [row["skip_reached"] for row in rows], [100 * row["accuracy_reached"] for row in rows],
            marker="x", color="#c4501b", zorder=3, label="reached over HTTP, test images",
        )  # fmt: skip
    axes.set_xlabel("skip ratio: share of gated convolutions' cells not needed")
    axes.set_ylabel("accuracy %")
    axes.set_title(f"{model}: one set of weights, every trade-off", loc="left", fontsize=11)
    _save(figure, file)


def draw_overload(file: Path, result: Figures) -> None:
    """Goodput and p99 over offered load, with and without brown-out."""
    plt = _plots()
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.4))
    for name, colour in (("with", "#1f5fa8"), ("without", "#c4501b")):
        rows = [row for row in result["rows"] if row["brownout"] == name]
        loads = [row["load"] for row in rows]
        left.plot(loads, [row["goodput_per_s"] for row in rows], marker="o", color=colour, label=f"{name} brown-out")
        right.plot(loads, [row["p99_ms"] for row in rows], marker="o", color=colour, label=f"{name} brown-out")
    left.set_ylabel(f"answers within {result['deadline_ms']:.0f} ms, a second")
    right.set_ylabel("p99 of answers, ms")
    right.axhline(result["deadline_ms"], color="#777777", linestyle="--", linewidth=1, label="deadline")
    for axes in (left, right):
        axes.set_xlabel("offered load, times capacity")
        axes.set_ylim(bottom=0)
    _save(figure, file)


SHOWN_POINTS = 12  # of accuracy below the plain twin's
LINES = {
    OWN[0]: "#1f5fa8",
    OWN[1]: "#123a66",
    OWN[2]: "#6aa5e0",
    REMOVED: "#777777",
    NETWORKS: "#2e8b57",
    IMAGES: "#c4501b",
}


def draw_photographs(file: Path, compared: Figures, times: Figures | None) -> None:
    """Accuracy over MACs, and over measured time where it was taken, of what skips and of its rivals."""
    plt = _plots()
    rows = [("MACs / plain twin", "work", compared["positions"])]
    if times is not None:
        rows.append(("time / plain twin, batch 1", "share", [row for row in times["rows"] if row["batch"] == 1]))
    figure, panels = plt.subplots(1, len(rows), figsize=(4.2 * len(rows) + 0.4, 3.8), sharey=True, squeeze=False)
    for axes, (label, column, points) in zip(panels[0], rows, strict=True):
        for family, colour in LINES.items():
            places = sorted((row[column], 100 * row["accuracy"]) for row in points if row["family"] == family)
            if places:
                style = "-" if family in OWN else "--"
                axes.plot(*zip(*places, strict=True), style, marker="o", markersize=3, color=colour, label=family)
        axes.scatter([1], [100 * compared["twin"]["accuracy"]], marker="*", color="black", zorder=3, label="plain twin")
        axes.set_xlabel(label)
    panels[0][0].set_ylim(bottom=100 * compared["twin"]["accuracy"] - SHOWN_POINTS)
    panels[0][0].set_ylabel(f"accuracy %, {compared['twin']['images']:,} test images")
    _save(figure, file)


METHOD_COLOURS = ("#1f5fa8", "#c4501b", "#2e8b57", "#8a4fa3", "#b08a1e", "#777777", "#123a66", "#6aa5e0", "#d0608a")


def draw_methods(file: Path, places: Sequence[Place]) -> None:
    """Points lost over operations saved: what was measured here filled, what is published hollow."""
    plt = _plots()
    figure, axes = plt.subplots(figsize=(7.2, 4.2))
    methods = dict.fromkeys(place.method for place in places)
    for colour, method in zip(METHOD_COLOURS, methods, strict=False):
        mine = [place for place in places if place.method == method]
        here = [(100 * place.saved, place.lost) for place in mine if place.saved is not None and place.lost is not None]
        published = [place.published[:2] for place in mine if place.published is not None]
        if here:
            axes.plot(*zip(*here, strict=True), marker="o", markersize=4, color=colour, label=method)
        if published:
            hollow = {"marker": "o", "facecolors": "none", "edgecolors": colour}
            axes.scatter(*zip(*published, strict=True), **hollow, label=f"{method}, published")
    axes.set_xlabel("operations saved %")
    axes.set_ylabel("points of accuracy lost against the plain network")
    _save(figure, file, "upper left")


def _plots() -> Any:
    """Pyplot that writes the same SVG every time."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "lccl"
    import matplotlib.pyplot as plt

    return plt


def _save(figure: Any, file: Path, legend: str = "lower left") -> None:
    for axes in figure.axes:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc=legend if len(figure.axes) == 1 else "best")
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
