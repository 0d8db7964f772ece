"""Draws reliability diagrams: accuracy against confidence, a panel for each exit; darker bars hold more images."""

from pathlib import Path

from lccl.bundle.training_record import SideNetsRecord
from lccl.errors import LcclError
from lccl.train.reliability import BINS

KINDS = (".svg", ".png", ".pdf")
COLOUR = (0.23, 0.43, 0.65)


def draw(record: SideNetsRecord, to: Path) -> None:
    """Draw what a bundle records of its SideNets.

    Raises:
        LcclError: matplotlib is not installed, or this kind of file cannot be drawn.

    """
    if to.suffix not in KINDS:
        raise LcclError(f"{to} cannot be drawn: use a name that ends in {', '.join(KINDS)}")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise LcclError('drawing needs matplotlib: pip install "lccl[figures]"') from error
    panels = record.answers
    figure = Figure(figsize=(2.6 * len(panels), 3.1), layout="constrained")
    for number, (axes, panel) in enumerate(zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True)):
        bins = panel.reliability
        most = max(each.images for each in bins)
        colours = [(*COLOUR, 0.25 + 0.75 * each.images / most) for each in bins]
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--")
        axes.bar([each.confidence for each in bins], [each.accuracy for each in bins], 0.8 / BINS, color=colours)
        axes.set_title(f"{panel.name(number)}\ncalibration error {100 * panel.calibration_error:.1f} %", fontsize=9)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="confidence")
    figure.axes[0].set_ylabel("accuracy")
    figure.savefig(to, metadata={"Date": None} if to.suffix == ".svg" else None)
