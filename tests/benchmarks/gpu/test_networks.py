"""Cases are measured in turn; what fails is noted."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import torch
from rich.console import Console

from benchmarks import goals
from benchmarks.gpu import networks
from benchmarks.gpu.networks import CASES, SKIP
from lccl.bench.gpu import Gpu
from lccl.bench.turns import WallClock
from lccl.errors import LcclError

GPU = Gpu(torch.device("cpu"), WallClock(), None, "fp16")


def test_cases_that_fail_or_come_too_late_are_noted_and_kept(monkeypatch):
    def fail(*arguments):
        raise LcclError("no thresholds")

    monkeypatch.setattr(networks, "make_workload", fail)
    case, kept = networks.Case("resnet20", 1), []
    late = networks.measure_all([case], replace(GPU, until=0), 1, None, kept.append)
    assert late["not_measured"] == {"resnet20 b1": "no time was left"}
    made = networks.measure_all([case], GPU, 1, None, kept.append)
    assert made["not_measured"] == {"resnet20 b1": "LcclError: no thresholds"}
    assert kept == [made]
    out = StringIO()
    networks.show(made, Console(file=out))
    assert "no thresholds" in out.getvalue()


def test_a_case_is_shown_with_its_speeds():
    rows = [{"name": name, "median_ms": 2.0, "speed_against_best_baseline": speed} for name, speed in (
        ("torch.compile fp16", 1.0), ("own dense", 1.11), ("LCCL 0.3", 1.22), ("LCCL 0.5", 1.33), ("LCCL 0.7", 1.44)
    )]  # fmt: skip
    settings = [{"name": "0.5", "realised": 0.875}]
    case = {"case": "toy b1", "best_baseline": "torch.compile fp16", "contestants": rows, "settings": settings}
    out = StringIO()
    networks.show({"cases": [case], "not_measured": {}}, Console(file=out, width=150))
    assert all(figure in out.getvalue() for figure in ("toy b1", "1.11", "1.22", "1.33", "1.44", "0.875"))


def test_names_of_cases_are_what_the_goals_name():
    assert len({case.name for case in CASES}) == len(CASES)
    assert f"{goals.AT}" in {f"{skip:g}" for skip in SKIP}
    named = {goal.measurement for goal in goals.on_gpu(None, None)[1:]}
    assert named == {case.name for case in CASES}
