"""Requests begin at once, and under load in turns of their clients."""

from __future__ import annotations

import asyncio

from service.transport.starts import AT_ONCE, Starts


def client_of(scope):
    return scope["client"]


def test_requests_begin_at_once_while_few_are_under_way():
    begun = []
    Starts(lambda: False, client_of).begin({"client": "a"}, lambda: begun.append("a"))
    assert begun == ["a"]


def test_clients_take_turns_while_many_are_under_way():
    begun = []

    async def come():
        starts = Starts(lambda: True, client_of)
        for client in ["greedy"] * 20 + ["modest"] + ["greedy"] * 20 + ["other"]:
            starts.begin({"client": client}, lambda client=client: begun.append(client))
        assert not begun
        await asyncio.sleep(0)
        assert len(begun) == AT_ONCE  # so that other work of the loop comes between
        while len(begun) < 42:
            await asyncio.sleep(0)

    asyncio.run(come())
    assert begun[:4] == ["greedy", "modest", "other", "greedy"]
    assert begun.count("greedy") == 40


def test_what_comes_while_others_wait_has_its_turn_too():
    begun = []
    crowded = [True]

    async def come():
        starts = Starts(lambda: crowded[0], client_of)
        for _ in range(6):
            starts.begin({"client": "greedy"}, lambda: begun.append("greedy"))
        crowded[0] = False
        starts.begin({"client": "modest"}, lambda: begun.append("modest"))
        await asyncio.sleep(0)
        assert begun == ["greedy", "modest", "greedy", "greedy"]
        await asyncio.sleep(0)
        starts.begin({"client": "late"}, lambda: begun.append("late"))

    asyncio.run(come())
    assert begun[4:] == ["greedy"] * 3 + ["late"]


def test_one_that_fails_does_not_keep_the_others_waiting():
    begun = []

    def fail():
        raise RuntimeError("of this one alone")

    async def come():
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        starts = Starts(lambda: True, client_of)
        starts.begin({"client": "a"}, fail)
        starts.begin({"client": "b"}, lambda: begun.append("b"))
        for _ in range(3):
            await asyncio.sleep(0)

    asyncio.run(come())
    assert begun == ["b"]
