"""A worker as the supervisor sees it: a process, the channel to it, and the connections that it has."""

import asyncio
import itertools
import pickle
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

from ..errors import StartError
from ..settings import Settings
from .channel import Channel, Outcome

WORKER = f"{__package__}.worker"  # what Python runs
Ask = Callable[["Hired", int, str, tuple[Any, ...], bool], None]


class Hired:
    """One worker.

    Args:
        on_ask: told what the worker asks all for: the number of the question, a name, arguments, and whether it is a
            change.

    Attributes:
        number: from 1; whoever takes an ended worker's place has its number.
        connections: that it was handed and has not ended.
        started: done when it could serve; StartError where it cannot.
        joined: whether it serves what the others do.
        leaves: whether it has begun to end.
        dismissed: whether it was told to end.
        metrics: as it told them last, packed.

    """

    def __init__(
        self, number: int, process: asyncio.subprocess.Process, channel: Channel, handing: socket.socket, on_ask: Ask
    ) -> None:
        self.number, self.connections, self.metrics = number, 0, Outcome([])
        self.joined = self.leaves = self.dismissed = False
        self._process, self._channel, self._handing, self._on_ask = process, channel, handing, on_ask
        self._loop = asyncio.get_running_loop()
        self.started: asyncio.Future[None] = self._loop.create_future()
        self._waits: dict[int, asyncio.Future[Outcome]] = {}
        self._serial = itertools.count(1)
        self._loop.add_reader(handing, self._count_ended)
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, number: int, settings: Settings, windows: int, on_ask: Ask) -> Self:
        """Start a process; ``windows`` is the file in which all count the requests of callers.

        Raises:
            OSError: the system gives no process or no files now.

        """
        own, its = socket.socketpair()
        handing, taking = socket.socketpair()
        try:
            with its, taking:
                files = its.fileno(), taking.fileno(), windows
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", WORKER, *map(str, files), pass_fds=files, stdin=asyncio.subprocess.PIPE,
                    start_new_session=True,  # no Ctrl-C of the terminal's
                )  # fmt: skip
        except OSError:
            own.close()
            handing.close()
            raise
        assert process.stdin is not None
        process.stdin.write(pickle.dumps((number, settings)))
        process.stdin.close()
        for one in (own, handing):
            one.setblocking(False)
        return cls(number, process, await Channel.open(own), handing, on_ask)

    def hand(self, connection: socket.socket) -> bool:
        """Give it a connection; False where it has too many to take already, or is gone."""
        try:
            socket.send_fds(self._handing, [b"+"], [connection.fileno()])
        except OSError:
            return False
        self.connections += 1
        return True

    def ask(self, name: str, *args: object) -> "asyncio.Future[Outcome]":
        """Let it do something; cancelled if it ends first."""
        number, answer = next(self._serial), self._loop.create_future()
        self._waits[number] = answer
        answer.add_done_callback(lambda _: self._waits.pop(number, None))
        self._channel.send("act", number, name, args)
        return answer

    def tell(self, question: int, outcomes: list[Outcome]) -> None:
        """Answer what it asked all for."""
        self._channel.send("asked", question, outcomes)

    def join(self) -> None:
        """Let it take connections: it serves what the others do."""
        self.joined = True
        self._channel.send("joined")

    def dismiss(self) -> None:
        """Have it end, for another to take its place."""
        self.dismissed = True
        self.signal(signal.SIGTERM)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it lives."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def ended(self) -> int:
        """Wait for its end, and let go of it; the exit status."""
        status = await self._process.wait()
        await self._reading
        self._loop.remove_reader(self._handing)
        self._handing.close()
        self._channel.close()
        for answer in list(self._waits.values()):
            answer.cancel()
        if not self.started.done():
            self.started.set_exception(StartError(f"a process ended with {status} while it started"))
        return status

    async def _read(self) -> None:
        while (message := await self._channel.receive()) is not None:
            match message:
                case ("started",):
                    self.started.set_result(None)
                case ("failed", str(text)):
                    self.started.set_exception(StartError(text))
                case ("answer", int(number), Outcome() as outcome):
                    answer = self._waits.get(number)
                    if answer is not None and not answer.done():
                        answer.set_result(outcome)
                case ("counted", Outcome() as metrics):
                    self.metrics = metrics
                case ("leaves",):
                    self.leaves = True
                    self._channel.send("left")
                case ("ask", int(question), str(name), tuple(args), bool(is_change)):
                    self._on_ask(self, question, name, args, is_change)

    def _count_ended(self) -> None:
        """It sends a byte for each connection that has ended."""
        with suppress(OSError):
            ended = len(self._handing.recv(1 << 16))
            self.connections -= ended
            if not ended:
                self._loop.remove_reader(self._handing)
