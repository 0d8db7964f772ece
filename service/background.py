"""Work that goes on beside requests, at intervals, whatever becomes of one round of it."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

Value = TypeVar("Value")
log = logging.getLogger(__name__)


async def call_beside(call: Callable[[], Value]) -> Value:
    """Call a function in a thread that the process does not wait for when it ends: what may take minutes to give up."""
    home = asyncio.get_running_loop()
    done: asyncio.Future[Value] = home.create_future()

    def settle(settling: Callable[[Any], None], outcome: Any) -> None:
        if not done.done():
            settling(outcome)

    def run() -> None:
        try:
            outcome = partial(settle, done.set_result, call())
        except Exception as error:
            outcome = partial(settle, done.set_exception, error)
        with suppress(RuntimeError):  # the loop is closed, and nobody waits
            home.call_soon_threadsafe(outcome)

    threading.Thread(target=run, name="beside", daemon=True).start()
    return await done


async def repeat(what: str, interval_s: float, step: Callable[[], Awaitable[object]]) -> None:
    """Call ``step`` at intervals until cancelled; one that fails is logged, and the next is due after an interval."""
    while True:
        await asyncio.sleep(interval_s)
        try:
            await step()
        except Exception:
            log.exception("%s failed; the next round is in %g s", what, interval_s)
