"""The same weights, and three ways to choose thresholds for a skip ratio.

    python -m benchmarks.threshold_paths DATA [--model FOLDER]

One threshold for all layers; one for each layer, raised by what that costs; and as calibration does it, where a block
may also be shut at once. Costs are weighed on images of the choosing part, accuracies are of the measuring part. No
image leaves at an early exit.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import lccl
from benchmarks import results
from benchmarks.models import load_model, model_command_line
from benchmarks.recipes import along
from lccl.calibration.choice import WEIGHED
from lccl.calibration.search import (
    LARGEST_COST,
    ThresholdCurve,
    Values,
    gate_candidates,
    gate_values,
    search_thresholds,
)
from lccl.data import Split, hold_out
from lccl.engines.base import Engine
from lccl.measurement import exact_setting, measure

STEPS = 40


def main() -> None:
    """Find the three ways, measure along them, print, write the result file."""
    options = model_command_line(__doc__).parse_args()
    bundle, dataset = load_model(options)
    data = hold_out(dataset.train, by=bundle.held_out_by)
    engine = lccl.compile(bundle, precision="fp32")
    weighed, values = data.choose.first(WEIGHED), gate_values(bundle.network, bundle.preprocessing, data.choose)
    candidates = [*gate_candidates(values), *[np.array([])] * len(engine.shape.exits)]
    ways = {
        "one threshold for all layers": common_curve(engine, values, weighed),
        "one for each layer, by what raising it costs": search_thresholds(
            engine, candidates, weighed, LARGEST_COST, closing="layers"
        ),
        "so, and a block may be shut at once": search_thresholds(engine, candidates, weighed, LARGEST_COST),
    }
    figures = {
        "model": options.model.name,
        "digest": bundle.digest,
        "images": len(data.measure),
        "ways": [{"way": name, **along(curve, engine, data.measure)} for name, curve in ways.items()],
    }
    results.publish("threshold_paths", figures)


def common_curve(engine: Engine, values: list[Values], split: Split) -> ThresholdCurve:
    """One threshold for all layers, that rises through the gates' values; no image leaves early."""
    rising = np.unique([0.0, *np.quantile(np.concatenate(values), np.linspace(0, 1, STEPS)).clip(0)]).tolist()
    knots = [replace(exact_setting(engine), thresholds=(threshold,) * len(values)) for threshold in rising]
    ratios = [measure(engine, split, knot).skip_ratio(engine.shape) for knot in knots]
    return ThresholdCurve(tuple(knots), np.array(ratios))


if __name__ == "__main__":
    main()
