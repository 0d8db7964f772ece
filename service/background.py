"""Work that goes on beside requests, at intervals, whatever becomes of one round of it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)


async def repeat(what: str, interval_s: float, step: Callable[[], Awaitable[object]]) -> None:
    """Call ``step`` at intervals until cancelled; one that fails is logged, and the next is due after an interval."""
    while True:
        await asyncio.sleep(interval_s)
        try:
            await step()
        except Exception:
            log.exception("%s failed; the next round is in %g s", what, interval_s)
