"""One timer ends every task that takes too long, and no other."""

from __future__ import annotations

import asyncio

import pytest

from service.api.time_limit import TimeLimit


async def limited(limit, seconds):
    """Whether a task was ended for its time."""
    task = limit.begin()
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        if not limit.end(task):
            raise
        return True
    finally:
        limit.end(task)
    return False


def test_tasks_end_at_their_own_time_with_one_timer_at_a_time():
    async def scenario():
        limit, loop = TimeLimit(0.2), asyncio.get_running_loop()
        began = loop.time()

        async def timed(seconds):
            return await limited(limit, seconds), loop.time() - began

        first, short = asyncio.create_task(timed(5)), asyncio.create_task(timed(0))
        await asyncio.sleep(0.1)
        second = asyncio.create_task(timed(5))
        assert await short == (False, pytest.approx(0, abs=0.1))
        (over, first_s), (also_over, second_s) = await first, await second
        assert over
        assert also_over
        assert 0.2 <= first_s < second_s
        assert second_s >= 0.3
        assert not await limited(limit, 0)  # begins the timer anew
        return limit

    limit = asyncio.run(scenario())
    assert not limit._ends
    assert not limit._over


def test_who_is_cancelled_by_others_is_not_told_of_its_time():
    async def scenario():
        limit = TimeLimit(5)
        task = asyncio.create_task(limited(limit, 10))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return limit

    limit = asyncio.run(scenario())
    assert not limit._ends
    assert not limit._over


def test_an_error_that_comes_with_the_end_stays_that_error_and_the_task_goes_on():
    async def scenario():
        limit = TimeLimit(0.05)

        async def fails():
            task = limit.begin()
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                raise ValueError("of its own") from None
            finally:
                assert limit.end(task)

        with pytest.raises(ValueError, match="of its own"):
            await fails()
        await asyncio.sleep(0.01)  # the task is not cancelled for good

    asyncio.run(scenario())
