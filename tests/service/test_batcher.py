"""The batcher: bounds, order, fairness between keys, abandoned items, closing."""

from __future__ import annotations

import threading

import pytest

from service.batcher import Batcher
from service.errors import OverloadedError, UnavailableError


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


def make(limit=8, batch=4):
    return Batcher(limit, lambda key: batch, Clock())


def items(taken):
    key, jobs = taken
    return key, [job.item for job in jobs]


def test_all_that_waits_is_taken_up_to_the_batch_limit():
    batcher = make()
    batcher.put("a", [1, 2, 3])
    batcher.put("a", [4, 5])
    assert items(batcher.take(0)) == ("a", [1, 2, 3, 4])
    assert items(batcher.take(0)) == ("a", [5])
    assert batcher.take(0) is None


def test_items_are_queued_all_or_none():
    batcher = make(limit=4)
    batcher.put("a", [1, 2, 3])
    with pytest.raises(OverloadedError):
        batcher.put("a", [4, 5])
    assert batcher.depth("a") == 3
    batcher.put("a", [4])
    assert batcher.depth("a") == 4


def test_advice_follows_the_drain_rate():
    batcher = make(limit=4)
    batcher.drained(4, 2.0)
    batcher.put("a", [1, 2, 3, 4])
    with pytest.raises(OverloadedError) as full:
        batcher.put("a", [5])
    assert full.value.retry_after_s == pytest.approx(2.0)


def test_a_batch_has_one_key_and_the_longest_waiting_goes_first():
    batcher = make()
    batcher.put("a", [1])
    batcher.put("b", [2])
    batcher.put("a", [3])
    assert items(batcher.take(0)) == ("a", [1, 3])
    assert items(batcher.take(0)) == ("b", [2])


def test_abandoned_items_are_dropped_and_take_no_place():
    batcher = make(batch=2)
    jobs = batcher.put("a", [1, 2, 3])
    jobs[0].future.cancel()
    assert items(batcher.take(0)) == ("a", [2, 3])
    assert not jobs[1].future.cancel()  # it is running


def test_take_wakes_up_for_work():
    batcher = make()
    taken = []
    thread = threading.Thread(target=lambda: taken.append(batcher.take(10)))
    thread.start()
    batcher.put("a", [1])
    thread.join(5)
    assert items(taken[0]) == ("a", [1])


def test_a_closed_batcher_hands_out_what_waits_and_takes_nothing_new():
    batcher = make()
    batcher.put("a", [1])
    batcher.close()
    with pytest.raises(UnavailableError):
        batcher.put("a", [2])
    assert items(batcher.take(0)) == ("a", [1])
    assert batcher.take(10) is None
