"""Work beside requests: a call in a thread that nobody has to wait for."""

from __future__ import annotations

import asyncio
import threading

import pytest

from service.background import call_beside


def test_its_value_and_its_error_come_back():
    async def ask():
        assert await call_beside(lambda: 7) == 7
        with pytest.raises(ValueError, match="no"):
            await call_beside(lambda: int("no"))

    asyncio.run(ask())


def test_the_loop_s_end_does_not_wait_for_it():
    go_on, began = threading.Event(), threading.Event()

    def stall():
        began.set()
        go_on.wait(60)

    async def give_up():
        asking = asyncio.create_task(call_beside(stall))
        await asyncio.to_thread(began.wait)
        asking.cancel()

    asyncio.run(give_up())
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "beside"]
    go_on.set()
    thread.join(60)
    assert not thread.is_alive()
