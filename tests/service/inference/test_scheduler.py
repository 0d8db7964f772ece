"""The scheduler: deadlines choose quality, brown-out stops at the floor, the late cost no compute."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lccl.request import QualityRequest, Resolution, resolve
from service.inference.scheduler import ANSWER_S, schedule
from tests.conftest import make_table

TABLE = make_table(3, (0.1, 0.25, 0.4, 0.6))  # drops 0, 2, 8, 18 and bounds 0.4 more
EXACT, P25, P40, P60 = TABLE.points


@dataclass
class Item:
    resolution: Resolution
    deadline: float


@dataclass
class Job:
    item: Item


def job(deadline=math.inf, **quality):
    return Job(Item(resolve(TABLE, QualityRequest(**quality)), deadline))


def cost(count, macs):
    """A millisecond a batch and one for every ten million MACs: exact is 4.6 ms alone, p60 2.6."""
    return 0.001 + macs / 1e10


def names(plan):
    return [point.name for _, point in plan.run]


def test_without_haste_everyone_gets_what_was_asked_for():
    jobs = [job(), job(sparsity=0.4), job(operating_point="exact", max_accuracy_drop=9), job(deadline_ms=1000)]
    plan = schedule(jobs, 0.0, 0.0, cost)
    assert names(plan) == ["exact", "p40", "exact", "exact"]
    assert not plan.late
    assert not plan.later


@pytest.mark.parametrize(("most_s", "count"), [(math.inf, 10), (1.0, 10), (0.02, 5), (0.0047, 1), (0.0, 1)])
def test_a_batch_takes_no_longer_than_it_may(most_s, count):
    jobs = [job() for _ in range(10)]
    plan = schedule(jobs, 0.0, 0.0, cost, most_s)
    assert [one for one, _ in plan.run] == jobs[:count]
    assert plan.later == jobs[count:]
    assert not plan.late


def test_what_is_cut_off_comes_behind_what_waits_for_a_deadline():
    jobs = [job(), job(0.006 + ANSWER_S), job(), job()]
    plan = schedule(jobs, 0.0, 0.0, cost, 0.015)  # three of them, of which the second is in haste
    assert [one for one, _ in plan.run] == [jobs[1]]
    assert plan.later[-1] is jobs[3]
    assert set(map(id, plan.later)) == set(map(id, (jobs[0], jobs[2], jobs[3])))


@pytest.mark.parametrize(("left", "name"), [(0.0047, "exact"), (0.0041, "p25"), (0.0035, "p40"), (0.0027, "p60")])
def test_a_deadline_gets_the_least_sparse_point_in_time(left, name):
    assert names(schedule([job(5 + left + ANSWER_S, deadline_ms=100)], 0.0, 5.0, cost)) == [name]


def test_a_deadline_never_goes_past_its_floor():
    urgent = job(0.0035 + ANSWER_S, deadline_ms=100, max_accuracy_drop=2.4)
    plan = schedule([urgent], 0.0, 0.0, cost)
    assert plan.late == [urgent]
    assert names(schedule([job(0.0041 + ANSWER_S, deadline_ms=100, max_accuracy_drop=2.4)], 0.0, 0.0, cost)) == ["p25"]


def test_the_late_are_told_before_any_compute():
    late, fine = job(0.002, deadline_ms=100), job()
    plan = schedule([late, fine], 0.0, 0.0, cost)
    assert plan.late == [late]
    assert plan.run == [(fine, EXACT)]


def test_a_server_side_limit_lowers_nobody_without_permission():
    plan = schedule([job(0.003), job(0.003, sparsity=0.25)], 0.0, 0.0, cost)
    assert len(plan.late) == 2


def test_a_target_with_a_floor_may_be_lowered_for_a_deadline():
    plan = schedule([job(0.0041 + ANSWER_S, operating_point="exact", max_accuracy_drop=9)], 0.0, 0.0, cost)
    assert names(plan) == ["p25"]
    ((lowered, point),) = plan.run
    assert lowered.item.resolution.is_downgrade(point)


def test_a_tight_deadline_leaves_the_patient_for_the_next_batch():
    urgent = job(0.005 + ANSWER_S, deadline_ms=100)
    patient = [job() for _ in range(7)]
    plan = schedule([*patient, urgent], 0.0, 0.0, cost)
    assert plan.run == [(urgent, EXACT)]
    assert sorted(map(id, plan.later)) == sorted(map(id, patient))


@pytest.mark.parametrize(("level", "name"), [(0.0, "exact"), (0.1, "p25"), (0.5, "p25"), (0.6, "p40"), (1.0, "p40")])
def test_brown_out_goes_to_the_floor_of_those_who_allow_it(level, name):
    jobs = [
        job(operating_point="exact", max_accuracy_drop=9), job(), job(sparsity=0.25), job(max_accuracy_drop=9),
        job(deadline_ms=1000),
    ]  # fmt: skip
    assert names(schedule(jobs, level, 0.0, cost)) == [name, "exact", "p25", "p40", "exact"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([{}, {"sparsity": 0.3}, {"deadline_ms": 5}, {"sparsity": 0.2, "max_accuracy_drop": 9}]),
            st.one_of(st.just(math.inf), st.floats(0, 0.05)),
        ),
        min_size=1,
        max_size=12,
    ),
    st.floats(0, 1),
)
def test_every_job_is_placed_once_and_every_deadline_that_is_run_is_met(asked, level):
    jobs = [job(deadline, **quality) for quality, deadline in asked]
    plan = schedule(jobs, level, 0.0, cost)
    placed = [one for one, _ in plan.run] + plan.later + plan.late
    assert sorted(map(id, placed)) == sorted(map(id, jobs))
    assert plan.run or len(plan.late) == len(jobs)
    for one, point in plan.run:
        assert point in one.item.resolution.points
    if plan.run:
        seconds = cost(len(plan.run), sum(point.gated_macs for _, point in plan.run))
        assert seconds <= min(one.item.deadline for one, _ in plan.run) + 1e-9
