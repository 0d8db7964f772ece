"""The alarm rings at its time, not before, and again."""

from __future__ import annotations

import asyncio
import time

import pytest

from lccl_client.load.alarm import Alarm, alarm


@pytest.mark.parametrize("make", [alarm, Alarm])
def test_an_alarm_rings_when_it_is_due(make):
    async def late(delays):
        clock, found = make(), []
        for delay in delays:
            due = time.monotonic() + delay
            await clock.until(due)
            found.append(time.monotonic() - due)
        clock.close()
        return found

    found = asyncio.run(late([0.02, 0.0005, -1.0, 0.01]))
    # A loop's own timer may ring as much early as its clock is coarse.
    assert min(found) > -0.002
    if make is alarm:
        assert found[0] >= 0
        assert found[1] >= 0
