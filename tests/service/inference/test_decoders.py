"""The decoders: clients take turns, large images leave a thread to small ones, pixels at once are bounded."""

from __future__ import annotations

import asyncio
import logging
import threading
from functools import partial
from pathlib import Path

import pytest

from lccl.engines.cpu import cores
from service.inference.decoders import LARGE_PIXELS, Decoders
from tests.service.engines import wait_for

SMALL, LARGE = 1000, 2 * LARGE_PIXELS


class Bench:
    """Decoders whose calls note their names and wait until they are let go."""

    def __init__(self, threads, most_pixels=10 * LARGE):
        self.decoders = Decoders(threads, most_pixels)
        self.begun, self.gates = [], {}

    def submit(self, client, pixels, name):
        self.gates[name] = threading.Event()
        return self.decoders.submit(client, pixels, partial(self._call, name))

    def _call(self, name):
        self.begun.append(name)
        assert self.gates[name].wait(20)
        return name

    async def let_go(self, *names):
        """End these calls, and wait until as many others as may have begun."""
        for name in names:
            self.gates[name].set()
        await asyncio.sleep(0.05)

    async def end(self):
        for gate in self.gates.values():
            gate.set()
        self.decoders.close()
        await asyncio.sleep(0.05)


def run(scenario, *arguments):
    async def whole():
        bench = Bench(*arguments)
        try:
            await scenario(bench)
        finally:
            await bench.end()

    asyncio.run(whole())


def test_clients_take_turns():
    async def scenario(bench):
        for number in range(3):
            bench.submit("hog", SMALL, f"hog {number}")
        bench.submit("one", SMALL, "one")
        bench.submit("two", SMALL, "two")
        for name in ("hog 0", "hog 1", "one", "two", "hog 2"):
            await bench.let_go(name)
        assert bench.begun == ["hog 0", "hog 1", "one", "two", "hog 2"]

    run(scenario, 1)


def test_large_images_leave_a_thread_to_small_ones():
    async def scenario(bench):
        for number in range(4):
            bench.submit("hog", LARGE, f"large {number}")
        bench.submit("hog", SMALL, "its small one")
        await bench.let_go()
        assert sorted(bench.begun) == ["its small one", "large 0", "large 1"]
        await bench.let_go("its small one")
        bench.submit("one", SMALL, "one")
        await bench.let_go("one", "large 0")
        assert bench.begun[-2:] == ["one", "large 2"]

    run(scenario, 3)


def test_with_one_thread_small_ones_go_between_large_ones():
    async def scenario(bench):
        for number in range(3):
            bench.submit("hog", LARGE, f"large {number}")
        for number in range(2):
            bench.submit("one", SMALL, f"small {number}")
        for name in ("large 0", "small 0", "large 1", "small 1", "large 2"):
            await bench.let_go(name)
        assert bench.begun == ["large 0", "small 0", "large 1", "small 1", "large 2"]

    run(scenario, 1)


def test_small_ones_do_not_keep_large_ones_waiting():
    async def scenario(bench):
        for number in range(6):
            bench.submit("hog", SMALL, f"small {number}")
        bench.submit("one", LARGE, "large")
        await bench.let_go("small 0", "small 1")
        assert "large" in bench.begun

    run(scenario, 2)


def test_pixels_at_once_are_bounded_and_one_may_have_more():
    async def scenario(bench):
        bench.submit("one", 5 * LARGE, "huge")
        bench.submit("two", LARGE, "large 0")
        bench.submit("two", LARGE, "large 1")
        bench.submit("two", LARGE, "large 2")
        await bench.let_go()
        assert bench.begun == ["huge"]
        await bench.let_go("huge")
        assert bench.begun == ["huge", "large 0", "large 1"]

    run(scenario, 8, 2 * LARGE)


def test_what_nobody_waits_for_is_not_begun():
    async def scenario(bench):
        bench.submit("hog", LARGE, "first")
        waiting = [bench.submit("hog", LARGE, f"gone {number}") for number in range(50)]
        last = bench.submit("hog", LARGE, "last")
        for future in waiting:
            future.cancel()
        bench.gates["last"].set()
        await bench.let_go("first")
        assert await last == "last"
        assert bench.begun == ["first", "last"]

    run(scenario, 1)


def test_an_error_is_its_callers():
    def fail():
        raise ValueError("no image")

    async def scenario(bench):
        with pytest.raises(ValueError, match="no image"):
            await bench.decoders.submit("one", SMALL, fail)
        assert await bench.decoders.submit("one", SMALL, lambda: 5) == 5

    run(scenario, 1)


def test_closed_ones_cancel_what_waits():
    async def scenario(bench):
        first, waiting = bench.submit("one", SMALL, "first"), bench.submit("one", SMALL, "second")
        wait_for(lambda: bench.begun)
        bench.decoders.close()
        bench.gates["first"].set()
        assert await first == "first"
        assert waiting.cancelled()

    run(scenario, 1)


def test_default_thread_counts_follow_the_quota(serve, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "service.app")
    monkeypatch.setattr(cores, "_quotas", lambda _: iter([(0.5, Path("/sys/fs/cgroup/cpu.max"))]))
    with serve() as client:
        assert {model.engine.threads for model in client.app.state.registry} == {1}
    assert "cores to compute on: 1; " in caplog.text
    assert "/sys/fs/cgroup/cpu.max allows 0.5 of them" in caplog.text
