"""Draws reliability diagrams: accuracy against confidence, a panel for each exit; darker bars hold more images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lccl.errors import LcclError
from lccl.train.reliability import BINS

KINDS = (".svg", ".png", ".pdf")
COLOUR = (0.23, 0.43, 0.65)


def draw(record: Mapping[str, Any], to: Path) -> None:
    """Draw what a bundle's ``training["sidenets"]`` holds.

    Raises:
        LcclError: matplotlib is not installed, or this kind of file cannot be drawn.

    """
    if to.suffix not in KINDS:
        raise LcclError(f"{to} cannot be drawn: use a name that ends in {', '.join(KINDS)}")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise LcclError('drawing needs matplotlib: pip install "lccl[figures]"') from error
    panels = [*record["exits"], record["end"]]
    figure = Figure(figsize=(2.6 * len(panels), 3.1), layout="constrained")
    for number, (axes, panel) in enumerate(zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True)):
        bins = panel["reliability"]
        most = max(one["images"] for one in bins)
        colours = [(*COLOUR, 0.25 + 0.75 * one["images"] / most) for one in bins]
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--")
        axes.bar([one["confidence"] for one in bins], [one["accuracy"] for one in bins], 0.8 / BINS, color=colours)
        place = f"exit {number}, after block {panel['after']}" if "after" in panel else "the network's end"
        axes.set_title(f"{place}\ncalibration error {100 * panel['calibration_error']:.1f} %", fontsize=9)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="confidence")
    figure.axes[0].set_ylabel("accuracy")
    figure.savefig(to, metadata={"Date": None} if to.suffix == ".svg" else None)
