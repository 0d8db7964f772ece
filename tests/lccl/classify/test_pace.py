"""Which point is chosen so that a job ends in time."""

from __future__ import annotations

import math

import pytest

from lccl.classify.pace import Pace
from tests.conftest import make_table

POINTS = make_table(3).points  # 36, 30, 24 and 16 million MACs


def test_without_an_end_it_is_always_the_first():
    pace = Pace(POINTS[1:2])
    pace.learn(POINTS[1], 8, 1e6)
    assert pace.choose(1 << 40, 0.0) is POINTS[1]
    assert pace.ends_at == math.inf


def run(pace, images, cost, batch=32):
    """Play a job whose images take ``cost(point, done)`` seconds; when it ends, and the points it used."""
    now, used, done = 0.0, [], 0
    while done < images:
        point = pace.choose(images - done, now)
        count = min(batch, images - done)
        seconds = count * cost(point, done)
        now, done = now + seconds, done + count
        pace.learn(point, count, seconds)
        used += [point.name] * count
    return now, used


@pytest.mark.parametrize("fixed", [0.0, 0.2])
@pytest.mark.parametrize("share", [1.05, 0.9, 0.7, 0.6])
def test_it_ends_in_time_and_is_not_sparser_than_that_needs(fixed, share):
    def cost(point, _):
        return fixed + point.gated_macs / POINTS[0].gated_macs

    fastest = cost(POINTS[-1], 0)
    allowed = 6400 * max(share * cost(POINTS[0], 0), 1.02 * fastest)
    ended, used = run(Pace(POINTS, allowed), 6400, cost)
    assert 0.9 * min(allowed, 6400 * cost(POINTS[0], 0)) < ended <= 1.01 * allowed
    assert share < 1 or set(used) == {"exact"}


def test_a_machine_that_gets_slower_is_made_up_for():
    def cost(point, done):
        return point.gated_macs / POINTS[0].gated_macs * (1.5 if done > 3200 else 1.0)

    ended, used = run(Pace(POINTS, 6400), 6400, cost)
    assert ended <= 1.01 * 6400
    assert set(used[:3000]) == {"exact"}
    assert "exact" not in used[-1000:]


def test_the_last_point_is_the_floor():
    ended, used = run(Pace(POINTS[:2], 100), 6400, lambda point, _: point.gated_macs / 4e7)
    assert ended > 100
    assert set(used[100:]) == {POINTS[1].name}
