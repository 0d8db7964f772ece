"""The batcher: bounds, order, fairness between clients and keys, abandoned items, closing."""

from __future__ import annotations

import asyncio
import threading

import pytest

from service.errors import ServiceError
from service.inference.batcher import LATELY_S, Batcher
from tests.service.refusals import refused


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


@pytest.fixture(autouse=True)
def _loop():
    """Jobs belong to an event loop; these tests look at queues alone, so one that stands still will do."""
    loop = asyncio.new_event_loop()
    asyncio._set_running_loop(loop)
    yield
    asyncio._set_running_loop(None)
    loop.close()


def make(limit=8, batch=4, clock=None):
    return Batcher(limit, lambda item: batch, clock or Clock())


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


def test_the_batch_limit_is_that_of_the_items():
    batcher = Batcher(8, lambda item: item, Clock())
    batcher.put("a", [2, 2, 2])
    batcher.put("b", [3, 3, 3])
    assert items(batcher.take(0)) == ("a", [2, 2])
    assert items(batcher.take(0)) == ("a", [2])
    assert items(batcher.take(0)) == ("b", [3, 3, 3])


def test_items_are_queued_all_or_none():
    batcher = make(limit=4)
    batcher.put("a", [1, 2, 3])
    with refused("overloaded"):
        batcher.put("a", [4, 5], "another")
    assert batcher.depth("a") == 3
    batcher.put("a", [4], "another")
    assert batcher.depth("a") == 4


def test_an_empty_queue_takes_one_request_as_large_as_itself():
    batcher = make(limit=4)
    batcher.put("a", [1, 2, 3, 4])
    with refused("overloaded"):
        batcher.put("a", [5], "another")


@pytest.mark.parametrize("hogs", [1, 2, 5])
def test_clients_that_take_what_they_can_leave_room_for_another(hogs):
    batcher = make(limit=256)
    open_ones = [f"hog{number}" for number in range(hogs)]
    while open_ones:
        for hog in list(open_ones):
            try:
                batcher.put("a", [hog], hog)
            except ServiceError:
                open_ones.remove(hog)
    assert batcher.depth("a") >= 200
    batcher.put("a", ["polite"], "polite")


def test_a_client_past_its_share_is_told_so():
    batcher = make(limit=9)
    for number in range(8):
        batcher.put("a", [number], "hog")
    with refused("overloaded", "of this client"):
        batcher.put("a", [8], "hog")


def test_clients_take_turns():
    batcher = make(limit=100, batch=4)
    batcher.put("a", ["hog"] * 20, "hog")
    batcher.put("a", ["one"], "one")
    batcher.put("a", ["two"] * 3, "two")
    assert items(batcher.take(0))[1] == ["hog", "one", "two", "hog"]
    assert items(batcher.take(0))[1] == ["two", "hog", "two", "hog"]


def test_advice_follows_the_drain_rate():
    batcher = make(limit=4)
    batcher.drained("a", 4, 2.0)
    batcher.put("a", [1, 2, 3, 4])
    assert batcher.waiting_s() == pytest.approx(2.0)
    with refused("overloaded") as full:
        batcher.put("a", [5])
    assert full.value.retry_after_s == pytest.approx(2.0)


def test_each_keys_rate_is_its_own():
    batcher = make()
    batcher.drained("slow", 1, 1.0)
    batcher.drained("quick", 2000, 1.0)
    assert batcher.drained_per_s("quick") == pytest.approx(2000)
    assert batcher.drained_per_s("slow") == pytest.approx(1)
    assert batcher.drained_per_s("new") == 0


def test_others_that_wait_share_the_device():
    clock = [10.0]
    batcher = make(clock=lambda: clock[0])
    assert not batcher.is_shared("a", {"one"})
    batcher.put("a", [1], "one")
    assert not batcher.is_shared("a", {"one"})
    assert batcher.is_shared("a", {"two"})
    assert batcher.is_shared("b", {"one"})
    batcher.put("a", [2], "two")
    clock[0] += LATELY_S
    assert batcher.is_shared("a", {"one"})
    assert not batcher.is_shared("a", {"one", "two"})


@pytest.mark.parametrize("other", [("a", "two"), ("b", "one")])
def test_others_that_came_lately_share_the_device(other):
    clock = [10.0]
    batcher = make(clock=lambda: clock[0])
    for key, client in (("a", "one"), other, ("a", "one")):
        batcher.put(key, [1], client)
    while batcher.take(0):
        pass
    assert batcher.is_shared("a", {"one"})
    clock[0] += LATELY_S
    assert not batcher.is_shared("a", {"one"})


def test_room_can_be_asked_for_before():
    batcher = make(limit=9)
    batcher.check_room("a", 9, "hog")
    batcher.put("a", list(range(8)), "hog")
    with refused("overloaded"):
        batcher.check_room("a", 1, "hog")
    batcher.check_room("a", 1, "one")
    assert batcher.depth("a") == 8


def test_batches_that_ran_at_once_count_their_time_once():
    clock = [10.0]
    batcher = make(clock=lambda: clock[0])
    batcher.drained("a", 4, 2.0)  # from 8 to 10
    clock[0] = 11.0
    batcher.drained("a", 4, 2.0)  # from 9 to 11
    batcher.put("a", [1, 2, 3, 4])
    left, seconds = 0.8 * 4 + 4, 0.8 * 2 + 1
    assert batcher.waiting_s() == pytest.approx(4 * seconds / left)


def test_the_key_that_had_the_device_least_goes_first():
    batcher = make()
    batcher.put("slow", [1, 2, 3, 4, 5])
    batcher.put("quick", [6])
    assert items(batcher.take(0)) == ("slow", [1, 2, 3, 4])
    batcher.drained("slow", 4, 5.0)
    for number in range(6, 10):
        assert items(batcher.take(0)) == ("quick", [number])
        batcher.drained("quick", 1, 1.0)
        batcher.put("quick", [number + 1])
    assert items(batcher.take(0)) == ("quick", [10])
    batcher.drained("quick", 1, 1.0)
    batcher.put("quick", [11])
    assert items(batcher.take(0)) == ("slow", [5])


def test_a_key_that_was_idle_does_not_save_up_time():
    batcher = make(batch=1)
    batcher.put("busy", [1, 2, 3])
    for _ in range(2):
        assert batcher.take(0)[0] == "busy"
        batcher.drained("busy", 1, 100.0)
    batcher.put("idle", [4, 5, 6])
    taken = []
    while (one := batcher.take(0)) is not None:
        taken.append(one[0])
        batcher.drained(one[0], 1, 80.0)
    assert taken == ["idle", "idle", "busy", "idle"]


def test_abandoned_items_are_dropped_and_take_no_place():
    batcher = make(batch=2)
    jobs = batcher.put("a", [1, 2, 3])
    jobs[0].future.cancel()
    assert items(batcher.take(0)) == ("a", [2, 3])


def test_what_is_given_back_comes_first_again():
    batcher = make(batch=3)
    batcher.put("a", [1, 2, 3, 4], "one")
    _, jobs = batcher.take(0)
    batcher.give_back("a", jobs[1:])
    assert batcher.depth("a") == 3
    assert items(batcher.take(0)) == ("a", [2, 3, 4])


def test_take_wakes_up_for_work():
    batcher = make()
    taken = []
    thread = threading.Thread(target=lambda: taken.append(batcher.take(10)))
    thread.start()
    batcher.put("a", [1])
    thread.join(5)
    assert items(taken[0]) == ("a", [1])


def test_a_forgotten_key_leaves_nothing_but_what_waits():
    batcher = make()
    batcher.put("a", [1])
    batcher.put("a", [2])
    batcher.forget("a")
    assert items(batcher.take(0)) == ("a", [1, 2])
    assert not batcher._queues
    batcher.drained("a", 1, 1.0)
    batcher.forget("a")
    assert not batcher._queues


def test_a_closed_batcher_hands_out_what_waits_and_takes_nothing_new():
    batcher = make()
    batcher.put("a", [1])
    batcher.close()
    with refused("unavailable"):
        batcher.put("a", [2])
    assert items(batcher.take(0)) == ("a", [1])
    assert batcher.take(10) is None
