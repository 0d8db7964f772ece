"""A contestant in a process of its own: built once, then driven in turns over a pipe, asleep in between.

Thread pools of different runtimes in one process, or one that spins while another works, slow each other
down; so each contestant has a process, and only one of them works at any time.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import cast

from lccl.bench.clock import Seconds
from lccl.bench.turns import AbsentError, Runner
from lccl.bench.workload import Counts
from lccl.errors import LcclError


class Child(Runner):
    """The parent's end of a contestant's process."""

    def __init__(self, build: Callable[[], Runner]) -> None:
        """Start the process and wait until it is ready.

        Args:
            build: called in the process; it is pickled.

        Raises:
            AbsentError: it cannot be built, or gives other logits than the reference engine.

        """
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, build), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self._answer()
        except LcclError:
            self.close()
            raise

    def time(self, setting: str, repeats: int) -> Seconds:
        """See :meth:`lccl.bench.turns.Runner.time`."""
        return cast("Seconds", self._ask("time", setting, repeats))

    def count(self, setting: str) -> Counts:
        """See :meth:`lccl.bench.turns.Runner.count`."""
        return cast(Counts, self._ask("count", setting))

    def profile(self, setting: str, index: int, repeats: int) -> Seconds:
        """See :meth:`lccl.bench.turns.Runner.profile`."""
        return cast("Seconds", self._ask("profile", setting, index, repeats))

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()

    def _ask(self, *message: object) -> object:
        self._pipe.send(message)
        return self._answer()

    def _answer(self) -> object:
        try:
            kind, content = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            self._process.join(5)
            raise AbsentError(f"its process ended with status {self._process.exitcode}") from error
        if kind == "error":
            raise AbsentError(str(content))
        return content


def serve(pipe: Connection, build: Callable[[], Runner]) -> None:
    """The child's whole life: build, report, then answer one message after the other until the pipe closes."""
    try:
        runner = build()
    except Exception as error:  # whatever a foreign runtime raises is the parent's to tell
        pipe.send(("error", in_one_line(error)))
        return
    pipe.send(("done", None))
    while True:
        try:
            name, *arguments = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            pipe.send(("done", getattr(runner, name)(*arguments)))
        except Exception as error:  # as above
            pipe.send(("error", in_one_line(error)))


def in_one_line(error: Exception) -> str:
    """An exception as a table shows it."""
    text = " ".join(str(error).split())[:200]
    return text if isinstance(error, LcclError) else f"{type(error).__name__}: {text}"
