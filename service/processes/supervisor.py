"""The process that holds the port: it hands connections to workers, starts those anew that die, and ends them all."""

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

from prometheus_client import CollectorRegistry, Metric

from ..auth.shared_windows import SharedWindows, shared_file
from ..errors import ServiceError, StartError
from ..settings import Settings
from ..telemetry.metrics import SupervisorMetrics
from ..telemetry.together import Together, lasting, snapshot
from .channel import Outcome
from .hired import Hired
from .listener import Listener, keep_grpc_port

log = logging.getLogger(__name__)
ANSWER_S, CHANGE_S = 5.0, 900.0  # that workers have to answer, and to load a model
SILENT = ServiceError("unavailable", "not ready: one of the processes does not answer")
LEAST_PAUSE_S, MOST_PAUSE_S = 0.5, 30.0  # before a worker that died soon is started anew
SOON_S = 30.0
END_S = 10.0  # beyond the time that requests get


class Supervisor:
    """Serves a port with several workers.

    Args:
        settings: of each worker, with how many there are.

    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._alive: dict[int, Hired] = {}  # by number
        self._changing = asyncio.Lock()
        self._ending = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._windows = shared_file()
        SharedWindows(self._windows, fresh=True)
        self._metrics, self._left = SupervisorMetrics(CollectorRegistry()), list[Metric]()  # the latter of the ended
        self._metrics.processes.set_function(lambda: len(self._serving()))

    def _serving(self) -> list[Hired]:
        return [worker for worker in self._alive.values() if worker.joined and not worker.leaves]

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then let all workers finish what they accepted.

        Raises:
            StartError: a port cannot be had, or a worker cannot start.

        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        with keep_grpc_port(self._settings) as self._settings:
            listener = Listener(self._settings, self._hand)
            keeping = [asyncio.create_task(self._keep(number, listener)) for number in self._numbers()]
            ending = asyncio.create_task(self._ending.wait())
            try:
                await asyncio.wait([ending, *keeping], return_when=asyncio.FIRST_COMPLETED)
            finally:
                listener.close()
                await self._finish(keeping)
        for one in keeping:
            if not one.cancelled():
                one.result()

    def _numbers(self) -> range:
        return range(1, self._settings.processes + 1)

    def _end(self, number: signal.Signals) -> None:
        """Begin to end; whoever asks again is in a hurry."""
        if self._ending.is_set():
            self._signal_all(number)
        self._ending.set()

    def _reload(self) -> None:
        for worker in self._serving():  # those that start read all anew just now
            worker.signal(signal.SIGHUP)

    def _signal_all(self, number: signal.Signals) -> None:
        for worker in self._alive.values():
            worker.signal(number)

    async def _finish(self, keeping: "list[asyncio.Task[None]]") -> None:
        self._ending.set()
        self._signal_all(signal.SIGTERM)
        _, late = await asyncio.wait(keeping, timeout=self._settings.drain_timeout_s + END_S)
        if late:
            log.error("%d processes did not end in time", len(late))
            self._signal_all(signal.SIGKILL)
            await asyncio.wait(late)

    # The life of a worker

    async def _keep(self, number: int, listener: Listener) -> None:
        """Have a worker of this number until the end.

        Raises:
            StartError: the first one cannot start.

        """
        pause_s, first = LEAST_PAUSE_S, True
        while not self._ending.is_set():
            began = time.monotonic()
            try:
                worker = await Hired.start(number, self._settings, self._windows, self._answer)
            except OSError as error:
                if first:
                    raise StartError(f"no process can be started: {error.strerror or error}") from error
                log.error("process %d cannot be started now: %s", number, error)
                pause_s = min(2 * pause_s, MOST_PAUSE_S)
                await self._rest(pause_s)
                continue
            self._alive[number] = worker
            if self._ending.is_set():  # meanwhile
                worker.signal(signal.SIGTERM)
            life = asyncio.create_task(worker.ended())
            try:
                await worker.started
                await self._join(worker, listener)
            except StartError as error:
                if first and not self._ending.is_set():
                    raise
                log.error("process %d cannot start: %s", number, error)
                worker.dismiss()
            first = False
            status = await life
            self._part(worker)
            if not self._ending.is_set():
                log.error("process %d ended with %d; another takes its place", number, status)
                if not worker.dismissed:
                    self._metrics.processes_died.inc()
                pause_s = min(2 * pause_s, MOST_PAUSE_S) if time.monotonic() - began < SOON_S else LEAST_PAUSE_S
                await self._rest(pause_s)

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ending.wait(), seconds)

    async def _join(self, worker: Hired, listener: Listener) -> None:
        """Let a worker serve what the others serve, which may not be what lies in the folders now.

        Raises:
            StartError: it cannot.

        """
        async with self._changing:
            for other in self._serving():
                served = await self._outcome(other, "served", ANSWER_S)
                if served is None or served.failed:
                    continue
                adopted = await self._outcome(worker, "adopt", CHANGE_S, served.read())
                if adopted is None or adopted.failed:
                    raise StartError("it cannot serve what the others do")
                break
            worker.join()
        if len(self._serving()) == self._settings.processes and listener.open():
            log.info(
                "running on %s in %d processes, threads of each: %d",
                listener.url, self._settings.processes, self._settings.compute_threads,
            )  # fmt: skip

    def _part(self, worker: Hired) -> None:
        """Do without a worker that has ended."""
        del self._alive[worker.number]
        self._left = list(Together([self._left, lasting(worker.metrics.read())]).collect())

    def _hand(self, connection: socket.socket) -> bool:
        """Give a connection to the worker that has the fewest."""
        return any(worker.hand(connection) for worker in sorted(self._serving(), key=lambda one: one.connections))

    # What a worker asks all for

    def _answer(self, asking: Hired, question: int, name: str, args: tuple[Any, ...], is_change: bool) -> None:
        if is_change:
            answering = self._change(name, args)
        else:
            answering = self._measure() if name == "metrics" else self._look(name, args)
        task = asyncio.create_task(self._reply(asking, question, answering))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reply(self, asking: Hired, question: int, answering: Awaitable[list[Outcome]]) -> None:
        try:
            outcomes = await answering
        except Exception:
            log.exception("the supervisor failed")
            outcomes = [Outcome(error=SILENT)]
        asking.tell(question, outcomes)

    async def _look(self, name: str, args: tuple[Any, ...]) -> list[Outcome]:
        found = await asyncio.gather(*(self._outcome(worker, name, ANSWER_S, *args) for worker in self._serving()))
        return [outcome for outcome in found if outcome is not None] or [Outcome(error=SILENT)]

    async def _measure(self) -> list[Outcome]:
        """The metrics of all: of those that do not answer, as they told them last."""

        async def update(worker: Hired) -> None:
            outcome = await self._outcome(worker, "metrics", ANSWER_S)
            if outcome is not None and not outcome.failed:
                worker.metrics = outcome

        await asyncio.gather(*map(update, self._serving()))
        here = [*snapshot(self._metrics.registry), *self._left]
        return [Outcome(here), *(worker.metrics for worker in self._alive.values())]

    async def _change(self, name: str, args: tuple[Any, ...]) -> list[Outcome]:
        """Change all; those that cannot follow the others give way to workers that start anew."""
        async with self._changing:
            asked = self._serving()
            found = await asyncio.gather(*(self._outcome(worker, name, CHANGE_S, *args) for worker in asked))
            failed = [outcome for outcome in found if outcome is not None and outcome.failed]
            done = [outcome for outcome in found if outcome is not None and not outcome.failed]
            for worker, outcome in zip(asked, found, strict=True):
                if done and outcome is not None and outcome.failed:
                    log.error("process %d could not %s what others could; another takes its place", worker.number, name)
                    worker.dismiss()
            return done[:1] or failed[:1] or [Outcome(error=SILENT)]

    async def _outcome(self, worker: Hired, name: str, patience_s: float, *args: object) -> Outcome | None:
        """What becomes of an act in a worker; None where it ended meanwhile."""
        answer = worker.ask(name, *args)
        await asyncio.wait([answer], timeout=patience_s)
        if answer.cancelled():
            return None
        return answer.result() if answer.done() else Outcome(error=SILENT)


def supervise(settings: Settings) -> None:
    """Serve with as many workers as the settings of each say, until SIGTERM or SIGINT.

    Raises:
        StartError: a port cannot be had, or a worker cannot start.

    """
    asyncio.run(Supervisor(settings).run())
