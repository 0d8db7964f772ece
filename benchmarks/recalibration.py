"""What calibrating a model again changed: its table and the one before, at equal MACs.

    python -m benchmarks.recalibration DATA --before FOLDER [--model FOLDER]

DATA is the data set that the model was trained on; FOLDER holds the bundle before, of the same weights. Both tables are
measured on the part that only measures, image by image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import lccl
from benchmarks import results
from benchmarks.models import Position, accuracy_at, ahead_at, load_model, model_command_line
from lccl.bundle.format import Bundle
from lccl.data import Split, hold_out
from lccl.engines.base import Engine
from lccl.errors import LcclError
from lccl.measurement import measure


def main() -> None:
    """Measure, print, write the result file."""
    options = model_command_line(__doc__, results.argument("--before", type=Path, required=True)).parse_args()
    bundle, dataset = load_model(options)
    before, held = lccl.load(options.before), hold_out(dataset.train)
    figures = {
        "model": options.model.name,
        "digest": bundle.digest,
        "before": before.digest,
        "images": len(held.measure),
        "rows": compared(before, bundle, lccl.compile(bundle, precision="fp32"), held.measure),
    }
    results.publish("recalibration", figures)


def compared(before: Bundle, after: Bundle, engine: Engine, split: Split) -> list[dict[str, Any]]:
    """A row for each point of the table before: its accuracy, and the new table's at its MACs, linear between points.

    Raises:
        LcclError: the bundles have different weights.

    """
    weights, others = after.network.state_dict(), before.network.state_dict()
    if weights.keys() != others.keys() or not all(torch.equal(weights[name], others[name]) for name in weights):
        raise LcclError("the bundle before has other weights: its table cannot be compared")
    old, new = (
        [Position.of(engine, measure(engine, split, point.setting)) for point in bundle.table.points]
        for bundle in (before, after)
    )
    rows = []
    for point, position in zip(before.table.points, old, strict=True):
        ahead, interval = ahead_at(new, old, position.work)
        rows.append({
            "point": point.name, "skip_ratio": point.skip_ratio, "work": position.work,
            "before": float(position.right.mean()), "after": accuracy_at(new, position.work),
            "ahead": ahead, "interval": interval,
            "same": any(point.setting == other.setting for other in after.table.points),
        })  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
