"""Contestants on the CPU, each in a process of its own: the native engine, gated and dense, and others' dense ones."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from lccl.bench.baselines import baselines_beside
from lccl.bench.turns import AbsentError, Contestant, Runner, Seconds, WallClock, check_logits
from lccl.bench.twins import Job, Logits
from lccl.bench.workload import DENSE, FLOAT, OPEN, OWN, OWN_DENSE, Counts, Workload, count_outputs, normalised
from lccl.compiler import cpu_engine
from lccl.errors import LcclError
from lccl.plan.run import RunOptions

if TYPE_CHECKING:
    from lccl.engines.cpu.engine import CpuEngine


class Child(Runner):
    """The parent's end of a contestant's process: built once, then driven in turns over a pipe, asleep in between.

    Thread pools of different runtimes in one process, or one that spins while another works, slow each other
    down; so each contestant has a process, and only one of them works at any time.
    """

    def __init__(self, build: Callable[[], Runner]) -> None:
        """Start the process and wait until it is ready.

        Args:
            build: called in the process, which gets a copy of it.

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


@dataclass(frozen=True, eq=False)
class HostRunner(Runner):
    """Runs batches in this process; each run is over when it returns.

    Attributes:
        run: (setting, the batch's number) → logits [N, classes], perhaps in a buffer that the next run overwrites.
        batch_count: how many batches there are.

    """

    run: Callable[[str, int], Logits]
    batch_count: int

    def time(self, setting: str, repeats: int) -> Seconds:
        launches = [partial(self.run, setting, index) for index in range(self.batch_count)]
        return WallClock().seconds(launches, repeats)

    def check(self, setting: str, expected: Logits, precision: str) -> None:
        """Hold the logits against the reference engine's.

        Raises:
            AbsentError: they differ.

        """
        logits = np.concatenate([np.array(self.run(setting, index)) for index in range(self.batch_count)])
        check_logits(logits, expected, precision)


@dataclass(frozen=True, eq=False)
class OwnRunner(HostRunner):
    """The native engine, with batches uint8 [N, H, W, 3] as the service hands them over, and options by setting."""

    engine: CpuEngine
    batches: Sequence[NDArray[np.uint8]]
    options: Mapping[str, RunOptions]

    def count(self, setting: str) -> Counts:
        return count_outputs(self.engine.run(batch, self.options[setting]) for batch in self.batches)

    def profile(self, setting: str, index: int, repeats: int) -> Seconds:
        return self.engine.profile(self.batches[index], self.options[setting], repeats)


def start(
    workload: Workload, threads: Sequence[int], precision: str, baselines: bool, advance: Callable[[], None],
    stack: ExitStack,
) -> list[Contestant]:  # fmt: skip
    """Start all contestants; own ones with each number of threads, others with the first.

    ``advance`` is called after each of :func:`starts` processes; ``stack`` ends them.

    Raises:
        LcclError: an own engine cannot be built or computes something else.

    """

    def child(build: Callable[[Workload, str, int, str], HostRunner], which: str, count: int) -> Child:
        try:
            started = Child(partial(build, workload, which, count, precision))
        finally:
            advance()
        stack.callback(started.close)
        return started

    contestants = []
    for name in baselines_beside(precision) if baselines else ():
        try:
            runner = child(build_baseline, name, threads[0])
            contestants.append(Contestant(name, "baseline", threads[0], DENSE, runner))
        except AbsentError as error:
            contestants.append(Contestant(name, "baseline", threads[0], DENSE, absent=str(error)))
    for count in threads:
        suffix = "" if count == threads[0] else f", {count} thread" + "s" * (count > 1)
        for which, names in {OWN_DENSE: [DENSE], OWN: [setting.name for setting in workload.settings]}.items():
            try:
                runner = child(build_own, which, count)
            except AbsentError as error:
                raise LcclError(f"{which} cannot be measured: {error}") from error
            for setting in names:
                name = which if which == OWN_DENSE else f"{OWN} {setting}"
                contestants.append(Contestant(name + suffix, "own", count, setting, runner))
    return contestants


def build_own(workload: Workload, which: str, threads: int, precision: str) -> OwnRunner:
    """The native engine for a workload: ``LCCL``, or ``own dense`` for the plain twin.

    Raises:
        LcclError: the engine is not built here, lacks the precision, or gives other logits than the reference engine.

    """
    import torch

    torch.set_num_threads(1)  # the engine has threads of its own
    settings = workload.settings if which == OWN else workload.dense_settings
    engine = cpu_engine(workload.plan if which == OWN else workload.dense_plan, precision, threads=threads)
    options = {each.name: RunOptions.of([each.setting] * workload.batch) for each in settings}
    batches = workload.batches

    def classify(setting: str, index: int) -> Logits:
        return cast(Logits, engine.run(batches[index], options[setting]).logits)

    runner = OwnRunner(classify, len(batches), cast("CpuEngine", engine), batches, options)
    known = OPEN if which == OWN else DENSE
    held_as = "fp32" if precision == "int8" else precision  # the reference engine is in int8 then, to the bit
    runner.check(known, workload.logits[known], held_as)
    return runner


def build_baseline(workload: Workload, which: str, threads: int, precision: str) -> HostRunner:
    """A baseline by name for a workload whose own engines compute in a precision.

    Raises:
        LcclError: it is not to be had here, or gives other logits than the reference engine.

    """
    import torch

    logging.disable(logging.WARNING)  # others' tools advise
    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    batches = tuple(normalised(batch, workload.preprocessing) for batch in workload.batches)
    with TemporaryDirectory(prefix="lccl-bench-") as folder:  # of its model file, read once
        build, precision = baselines_beside(precision)[which]
        classify = build(Job(workload.twin, batches, threads, precision, Path(folder)))
    runner = HostRunner(lambda _, index: classify(index), len(batches))
    runner.check(DENSE, workload.logits[FLOAT], precision)
    return runner
