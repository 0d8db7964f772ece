"""Long work on the event loop, in slices of a few milliseconds between which the loop serves everybody else."""

import asyncio
from collections.abc import Sequence

SHORT_BYTES = 1 << 16  # up to here bodies are read at once
DETACHED_BYTES = 1 << 20  # from here on joining bytes gives the interpreter's lock away, so that a thread helps


class LoopTurns:
    """Gives out the turns of an event loop: long pieces of work get one after the other, a slice each.

    Parsers keep the interpreter's lock for a whole call. In a thread they would hold the event loop up all the same;
    here what is short never waits for more than the one slice that is being done.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def next(self) -> None:
        """Return in a later turn of the loop, in which no other long work has its slice."""
        async with self._lock:
            await asyncio.sleep(0)


async def joined(pieces: Sequence[bytes]) -> bytes:
    """The pieces as one; many bytes are copied in a thread."""
    if len(pieces) > 1 and sum(map(len, pieces)) > DETACHED_BYTES:
        return await asyncio.to_thread(b"".join, pieces)
    return b"".join(pieces)
