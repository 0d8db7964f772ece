"""Long bodies are read in slices: the event loop serves others meanwhile, one slice of all long bodies in each turn."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.event_loop import bodies
from benchmarks.loop_probe import PATH, add_probe
from service.api.turns import DETACHED_BYTES, LoopTurns, joined
from tests.service.conftest import serve

BOUND_MS = 100  # `python -m benchmarks.event_loop` has the real one; test machines are busy with other tests
MB = 1 << 20


def test_long_work_takes_turns_and_short_work_never_waits_for_two_slices():
    async def scenario():
        turns, order = LoopTurns(), []

        async def long(name):
            for _ in range(3):
                await turns.next()
                order.append(name)

        async def short():
            while len(order) - order.count("short") < 9:
                if order and order[-1] != "short":
                    order.append("short")
                await asyncio.sleep(0)

        await asyncio.gather(long("a"), long("b"), long("c"), short())
        return order

    order = asyncio.run(scenario())
    assert [one for one in order if one != "short"] == ["a", "b", "c"] * 3
    assert order[1::2] == ["short"] * 8


def test_a_turn_that_is_not_waited_for_any_more_is_the_next_ones():
    async def scenario():
        turns = LoopTurns()
        leaving, staying = asyncio.create_task(turns.next()), asyncio.create_task(turns.next())
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait_for(staying, 5)
        return leaving.cancelled()

    assert asyncio.run(scenario())


@pytest.mark.parametrize("count", [0, 1, 2, 5])
@pytest.mark.parametrize("size", [0, 10, DETACHED_BYTES])
def test_pieces_are_joined(count, size):
    pieces = [bytes([index]) * size for index in range(count)]
    assert asyncio.run(joined(pieces)) == b"".join(pieces)


@pytest.fixture(scope="module")
def probed(small_folder):
    with serve(models=small_folder) as client:
        add_probe(client.app)
        yield client


@pytest.fixture(scope="module")
def long_bodies():
    return {name: rest for name, *rest in bodies("small", 32, total=6 * MB)}


@pytest.mark.parametrize(
    "name", [name for name, *_ in bodies("small", 1, total=MB // 16)]
)  # the same, but made quickly
def test_no_body_holds_the_event_loop_up(probed, long_bodies, name):
    path, body, headers = long_bodies[name]
    gaps_ms = []
    for _ in range(3):
        probed.get(PATH)
        answer = probed.post(path, content=body, headers=headers)
        gaps_ms.append(probed.get(PATH).json()["gap_ms"])
        assert answer.status_code in {200, 400, 413, 415, 422}
        if gaps_ms[-1] < BOUND_MS:
            break
    assert min(gaps_ms) < BOUND_MS
