"""Goals are reached at their least and missed below, and not reached where nothing was measured."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from benchmarks import cpu
from benchmarks.goals import on_cpu, on_gpu, show


def case(name, own_dense, at_half, share, baseline="torch.compile frozen fp16"):
    settings = [{"name": "0.3"}, {"name": "0.5", "realised": share, "speed_up_against_best_baseline": at_half}]
    rows = [{"name": baseline, "absent": None}]
    rows.append({"name": "own dense", "absent": None, "speed_against_best_baseline": own_dense})
    return {"case": name, "contestants": rows, "settings": settings}


def test_goals_are_reached_at_their_least_and_missed_below():
    made = {"cases": [case("wrn-28-10 b256", 1.1, 1.8, 0.9), case("resnet18 b256", 1.099, 1.599, 0.799)]}
    reached = {(goal.what, goal.measurement): goal.reached for goal in on_gpu(None, made) if goal.figure is not None}
    assert reached == {
        (what, name): name.startswith("wrn")
        for what in ("own dense / best baseline", "realised at 0.5", "speed-up / best baseline at 0.5")
        for name in ("wrn-28-10 b256", "resnet18 b256")
    }


def test_goals_that_were_not_measured_are_not_reached():
    found = on_gpu(None, None)
    assert len(found) == 16
    assert not any(goal.reached for goal in found)
    out = StringIO()
    show(found, Console(file=out, width=120))
    assert out.getvalue().count("not measured") == len(found)


def test_every_layer_has_a_goal_of_its_own():
    rows = [{"layer": "a", "rate_against_cudnn": 0.9}, {"layer": "b", "rate_against_cudnn": 0.89}]
    found = on_gpu({"all_rows": rows}, None)[:2]
    assert [(goal.measurement, goal.reached) for goal in found] == [("a", True), ("b", False)]


def test_eager_baselines_alone_reach_no_goal():
    made = {"cases": [case("resnet18 b256", 9.0, 9.0, 0.9, "eager fp16")]}
    reached = [(goal.measurement, goal.what) for goal in on_gpu(None, made) if goal.reached]
    assert reached == [("resnet18 b256", "realised at 0.5")]


def test_every_goal_on_the_cpu_is_of_a_measurement_that_is_committed():
    assert all(goal.figure is not None for goal in on_cpu(cpu.measured()))
