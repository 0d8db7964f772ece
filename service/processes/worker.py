"""One of several processes: the whole service, on connections that the supervisor hands to it.

Run by the supervisor as ``python -m service.processes.worker CHANNEL CONNECTIONS WINDOWS``, which are open files; its
number and settings come over standard input.
"""

import asyncio
import itertools
import logging
import os
import pickle
import signal
import socket
import sys
from contextlib import suppress
from typing import Any

from lccl.errors import LcclError

from ..auth.shared_windows import SharedWindows
from ..errors import ServiceError
from ..everywhere import Everywhere
from ..run import run, stand_by
from ..telemetry.logs import configure
from ..transport.acceptor import Handed
from .channel import Channel, Outcome, pack

log = logging.getLogger(__name__)
PATIENCE_S = 1.0  # with the supervisor
FAILED = ServiceError("internal", "one of the processes failed: the log says why")


class Siblings(Everywhere):
    """All workers of the supervisor at the other end of a channel."""

    def __init__(self) -> None:
        super().__init__()
        self._channel: Channel
        self._questions: dict[int, asyncio.Future[list[Outcome]]] = {}
        self._serial, self._left, self._joined = itertools.count(1), asyncio.Event(), asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def join(self, channel: Channel) -> None:
        """Tell the supervisor that this worker can serve, and do what it asks from now on."""
        self._channel = channel
        self._begin(self._read())
        channel.send("started")

    @property
    def serves_at_once(self) -> bool:
        return False

    async def serving(self) -> None:
        await self._joined.wait()

    async def metrics(self) -> object:
        """Those of this worker alone."""
        return await self._acts["metrics"]()

    async def leave(self) -> None:
        """Have no more connections handed to this worker."""
        self._channel.send("leaves")
        with suppress(TimeoutError):
            await asyncio.wait_for(self._left.wait(), PATIENCE_S)

    async def ask(self, name: str, *args: object) -> list[Any]:
        outcomes = await self._ask(name, args, is_change=False)
        return await asyncio.to_thread(lambda: [outcome.read() for outcome in outcomes])  # metrics take their time

    async def change(self, name: str, *args: object) -> None:
        for outcome in await self._ask(name, args, is_change=True):
            outcome.read()

    async def _ask(self, name: str, args: tuple[object, ...], *, is_change: bool) -> list[Outcome]:
        number = next(self._serial)
        answer: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        self._questions[number] = answer
        self._channel.send("ask", number, name, args, is_change)
        try:
            return await answer
        finally:
            del self._questions[number]

    def _begin(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read(self) -> None:
        while (message := await self._channel.receive()) is not None:
            match message:
                case ("act", int(number), str(name), tuple(args)):
                    self._begin(self._act(number, name, args))
                case ("joined",):
                    self._joined.set()
                case ("left",):
                    self._left.set()
                case ("asked", int(number), list(outcomes)):
                    answer = self._questions.get(number)
                    if answer is not None and not answer.done():
                        answer.set_result(outcomes)
        if not self._left.is_set():
            self._left.set()
            log.warning("the supervisor is gone")
            os.kill(os.getpid(), signal.SIGTERM)

    async def _act(self, number: int, name: str, args: tuple[object, ...]) -> None:
        try:
            outcome = await asyncio.to_thread(Outcome, await self._acts[name](*args))
        except LcclError as error:
            outcome = Outcome(error=error)
        except Exception:
            log.exception("%s failed", name)
            outcome = Outcome(error=FAILED)
        self._channel.send("answer", number, outcome)


def main() -> None:
    """Serve until SIGTERM, or the supervisor is gone."""
    stand_by(what="")  # the supervisor tells
    own, handing, windows = map(int, sys.argv[1:])
    number, settings = pickle.load(sys.stdin.buffer)
    configure(settings.log_level, number)
    with socket.socket(fileno=own) as channel, socket.socket(fileno=handing) as source:
        siblings = Siblings()

        async def join() -> None:
            siblings.join(await Channel.open(channel.dup()))

        try:
            run(settings, siblings, SharedWindows(windows), Handed(source), join, siblings.leave)
        except LcclError as error:
            channel.sendall(pack("failed", str(error)))
            raise SystemExit(1) from None
        channel.setblocking(True)  # the event loop that took it over is gone
        with suppress(OSError):
            channel.sendall(pack("counted", Outcome(asyncio.run(siblings.metrics()))))


if __name__ == "__main__":
    main()
