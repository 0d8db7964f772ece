"""The network that skips is held against the fastest peer, and that one's accuracy stands beside its time."""

from __future__ import annotations

import pytest

from benchmarks.equal_accuracy import row
from benchmarks.models import at
from benchmarks.serving.workload import SHIPPED
from lccl.bundle import format as bundles


def contestant(name: str, milliseconds: float, speed: float) -> dict[str, object]:
    return {"name": name, "absent": None, "median_ms": milliseconds, "speed_against_best_baseline": speed}


@pytest.mark.parametrize(
    ("best", "accuracy"), [("OpenVINO int8", 0.8), ("OpenVINO fp32", 0.9), ("ncnn int8", None), (None, None)]
)
def test_the_point_is_held_against_the_fastest_peer(best, accuracy):
    point = at(bundles.load(SHIPPED), sparsity=0.5)
    absent = {"name": "ncnn fp32", "absent": "not installed"}
    rows = [contestant(f"LCCL {point.skip_ratio:g}", 2.0, 1.5), contestant("LCCL −∞", 4.0, 0.75), absent]
    if best:
        rows.append(contestant(best, 3.0, 1.0))
    found = row({"contestants": rows, "best_baseline": best}, point, {"openvino int8": 0.8, "fp32": 0.9})
    assert (found["own_ms"], found["times_as_fast"]) == (2.0, 1.5)
    assert (found["best_peer"], found["best_peer_ms"]) == (best, 3.0 if best else None)
    assert found["best_peer_accuracy"] == accuracy
    assert "ncnn fp32" not in found["all_ms"]
