"""Two tables of the same weights are compared point by point; tables of other weights are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.recalibration import compared
from benchmarks.training_tables import recalibration_table
from lccl.compiler import compile_network
from lccl.data import Split
from lccl.errors import LcclError


@pytest.fixture(scope="module")
def split():
    random = np.random.default_rng(0)
    return Split(random.integers(0, 256, (24, 32, 32, 3), dtype=np.uint8), random.integers(0, 10, 24))


def test_points_that_are_the_same_are_no_news(bundle, split):
    points = bundle.table.points
    changed = replace(points[1], setting=replace(points[1].setting, thresholds=(0.15,) * 18))
    after = replace(bundle, table=replace(bundle.table, points=(points[0], changed, *points[2:])))
    engine = compile_network(bundle)
    rows = compared(bundle, after, engine, split)
    assert [row["same"] for row in rows] == [True, False, True, True]
    assert [row["ahead"] for row in rows if row["same"]] == [0, 0, 0]
    assert rows[0]["before"] == rows[0]["after"]
    text = list(recalibration_table({"rows": rows}))
    assert len([line for line in text if line.startswith(f"| {points[1].name} |")]) == 1
    assert not any(line.startswith(f"| {points[0].name} |") for line in text)


def test_other_weights_are_refused(bundle, random_bundle, split):
    other = random_bundle()
    other.network.classifier.bias.data += 1
    with pytest.raises(LcclError, match="other weights"):
        compared(other, bundle, compile_network(bundle), split)
