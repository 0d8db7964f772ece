"""Draws the documentation's pictures: the example to classify, and the shipped model's curve.

python -m benchmarks.figures
"""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image, ImageDraw

DOCS = Path(__file__).parents[1] / "docs"
MODEL = Path(__file__).parents[1] / "models" / "resnet20-cifar10"
REACHED = Path(__file__).parent / "results" / "stated_and_reached.json"


def main() -> None:
    """Write ``docs/example.png`` and ``docs/curve.svg``."""
    draw_example(DOCS / "example.png")
    draw_curve(DOCS / "curve.svg")


def draw_example(file: Path) -> None:
    """A ship on the sea, 256 × 256."""
    image = Image.new("RGB", (256, 256), (176, 205, 228))
    draw = ImageDraw.Draw(image)
    for row in range(130):
        draw.line([(0, row), (256, row)], fill=(150 + row // 2, 190 + row // 4, 228))
    for row in range(130, 256):
        draw.line([(0, row), (256, row)], fill=(30, 95 - (row - 130) // 4, 140 - (row - 130) // 4))
    draw.polygon([(18, 132), (238, 132), (206, 178), (52, 178)], fill=(58, 62, 78))
    draw.polygon([(18, 132), (238, 132), (234, 140), (24, 140)], fill=(168, 44, 38))
    draw.rectangle((84, 96, 190, 132), fill=(238, 238, 234))
    draw.rectangle((104, 68, 162, 96), fill=(226, 226, 220))
    draw.rectangle((120, 34, 142, 68), fill=(190, 60, 44))
    draw.rectangle((120, 34, 142, 44), fill=(40, 40, 46))
    for left in range(92, 184, 16):
        draw.ellipse((left, 108, left + 8, 116), fill=(60, 90, 120))
    for row, left in ((192, 20), (206, 120), (222, 60), (238, 160)):
        draw.arc((left, row, left + 56, row + 12), 200, 340, fill=(150, 185, 210), width=2)
    image.save(file, optimize=True)


def draw_curve(file: Path) -> None:
    """Accuracy over work: the model's table, what was reached over HTTP on test pictures, and the plain twin."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "lccl"
    import matplotlib.pyplot as plt

    bundle = json.loads((MODEL / "bundle.json").read_text(encoding="utf-8"))
    points = bundle["operating_points"]["points"]
    ratios = [point["skip_ratio"] for point in points]
    accuracies = [100 * point["accuracy"] for point in points]
    below = [100 * (point["accuracy"] - point["accuracy_interval"]["low"]) for point in points]
    above = [100 * (point["accuracy_interval"]["high"] - point["accuracy"]) for point in points]
    figure, axes = plt.subplots(figsize=(7, 3.8))
    axes.errorbar(
        ratios, accuracies, [below, above], marker="o", markersize=4, capsize=2, color="#1f5fa8",
        label="operating points, held-out pictures (95 %)",
    )  # fmt: skip
    twin = bundle["training"].get("plain_twin")
    if twin:
        axes.axhline(100 * twin["accuracy"], color="#777777", linestyle="--", linewidth=1, label="plain twin")
    if REACHED.is_file():
        rows = json.loads(REACHED.read_text(encoding="utf-8"))["rows"]
        axes.scatter(
            [row["skip_reached"] for row in rows], [100 * row["accuracy_reached"] for row in rows],
            marker="x", color="#c4501b", zorder=3, label="reached over HTTP, test pictures",
        )  # fmt: skip
    axes.set_xlabel("skip ratio: share of gated convolutions' cells not needed")
    axes.set_ylabel("accuracy %")
    axes.set_title("resnet20-cifar10: one set of weights, every trade-off", loc="left", fontsize=11)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left")
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    main()
