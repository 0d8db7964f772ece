"""Somebody's own photographs: a network fine-tuned on them beside one trained on them from nothing, on test images.

    python -m benchmarks.fine_tuning DATA --tuned FOLDER --fresh FOLDER

DATA is a data set with test images, as for ``lccl evaluate``. FOLDER holds a bundle that ``lccl train DATA`` made, with
``--start`` and without. Both are exact.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lccl
from benchmarks import results
from benchmarks.models import data_of, paired
from lccl.bundle.format import Bundle
from lccl.errors import LcclError
from lccl.measurement import exact_setting, measure

AHEAD_BY = 15.0


def main() -> None:
    """Measure, print, write the result file."""
    options = results.command_line(
        __doc__,
        results.argument("data", type=Path),
        results.argument("--tuned", type=Path, required=True),
        results.argument("--fresh", type=Path, required=True),
    ).parse_args()
    figures = {"data": options.data.name, **compared(lccl.load(options.tuned), lccl.load(options.fresh), options.data)}
    results.print_rows([figures], "fine-tuned and from nothing")
    print(results.write("fine_tuning", figures))


def compared(tuned: Bundle, fresh: Bundle, data: Path) -> dict[str, Any]:
    """Accuracy of both on the test images, the difference image by image, and the seconds that training took.

    Raises:
        LcclError: they were not trained on the same images.

    """
    if tuned.splits.get("digest") != fresh.splits.get("digest"):
        raise LcclError("the two networks were not trained on the same images")
    rights = []
    for bundle in (tuned, fresh):
        engine = lccl.compile(bundle, precision="fp32")
        rights.append(measure(engine, data_of(bundle, data).test, exact_setting(engine)).right)
    ahead, interval = paired(*rights)
    return {
        "images": len(rights[0]), "tuned": float(rights[0].mean()), "fresh": float(rights[1].mean()),
        "seconds_tuned": _seconds(tuned), "seconds_fresh": _seconds(fresh), "ahead": ahead, "interval": interval,
        "goal": AHEAD_BY,
    }  # fmt: skip


def _seconds(bundle: Bundle) -> float:
    return sum(epoch["seconds"] for epoch in bundle.training.epochs)


if __name__ == "__main__":
    main()
