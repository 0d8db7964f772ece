"""Interleaved measurements, so that the machine's drift hits all alike; and the clocks that launches are timed by."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from lccl.bench.workload import Counts
from lccl.errors import LcclError

Launch = Callable[[], object]
Seconds = NDArray[np.float64]

FLUSH_BYTES = 1 << 30
WARM_UPS = 3


class Clock(Protocol):
    """Takes the time of launches."""

    def graph(self, launch: Launch) -> Launch:
        """The same work in a form that starts as cheaply as the device allows."""

    def seconds(self, launches: Sequence[Launch], repeats: int) -> Seconds:
        """Seconds of every launch, ``repeats`` times in turn after an untimed one, float64 [repeats, launches]."""


class WallClock:
    """The host's clock, for work that is done when the launch returns."""

    def graph(self, launch: Launch) -> Launch:
        """The launch itself: there are no graphs on the host."""
        return launch

    def seconds(self, launches: Sequence[Launch], repeats: int) -> Seconds:
        seconds = np.zeros((repeats, len(launches)))
        launches[-1]()
        for repeat in range(repeats):
            for index, launch in enumerate(launches):
                started = time.perf_counter()
                launch()
                seconds[repeat, index] = time.perf_counter() - started
        return seconds


class DeviceClock:
    """CUDA events around each launch.

    A buffer much larger than the L2 cache is overwritten before each launch. So the launch finds nothing in that cache
    from the one before, and the host's time to start it is hidden.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=device)

    def graph(self, launch: Launch) -> Launch:
        """Capture a launch as a CUDA graph; its work on the host is done here, once."""
        side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                launch()
        torch.cuda.current_stream(self._device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            launch()
        return partial(_replay, graph, launch)

    def seconds(self, launches: Sequence[Launch], repeats: int) -> Seconds:
        order = [launches[-1], *list(launches) * repeats]
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in order]  # type: ignore[no-untyped-call]
        for launch, (before, after) in zip(order, events, strict=True):
            self._flush.zero_()
            before.record()
            launch()
            after.record()
        torch.cuda.synchronize(self._device)
        milliseconds = [before.elapsed_time(after) for before, after in events[1:]]
        return np.reshape(milliseconds, (repeats, len(launches))) / 1e3


def _replay(graph: torch.cuda.CUDAGraph, _: Launch) -> None:
    """Run a captured launch, which a partial holds on to: the graph knows only the addresses of its tensors."""
    graph.replay()


TURN_S = 0.3
PROFILE_TURNS, PROFILE_REPEATS = 8, 5
SETTLE_S = 0.02
MOST_REPEATS = 200
QUANTILES = {"median_ms": 0.5, "p20_ms": 0.2, "p80_ms": 0.8}

LOGITS_WITHIN = {"fp32": 2e-3, "fp16": 0.1, "bf16": 0.15, "int8": 0.3}

Advance = Callable[[], None]
Turn = Callable[[int], Seconds]


class AbsentError(LcclError):
    """A contestant that cannot take part; its text says why, in a few words for a table."""


class Runner:
    """An engine with its batches, ready to run under any of its settings; what one does not offer it raises."""

    def time(self, setting: str, repeats: int) -> Seconds:
        """Seconds of each run, float64 [repeats, batches], after an untimed one."""
        raise NotImplementedError

    def count(self, setting: str) -> Counts:
        """Own engines only: cells and MACs of all images, and the exits that answered."""
        raise NotImplementedError("it does not count")

    def profile(self, setting: str, index: int, repeats: int) -> Seconds:
        """The native engine only: median seconds of each of the plan's steps on one batch, float64 [steps]."""
        raise NotImplementedError("it does not time its steps")

    def end_to_end(self, setting: str) -> Launch:
        """On a GPU only: a run from the host's memory to the host's."""
        raise NotImplementedError("it is measured end to end anyway")


ABSENT = Runner()


@dataclass(frozen=True, slots=True, eq=False)
class Contestant:
    """A line of the comparison: a runner under one of its settings, or why it is ``absent``."""

    name: str
    kind: Literal["baseline", "own"]
    threads: int
    setting: str
    runner: Runner = ABSENT
    absent: str | None = None

    def turn(self, repeats: int) -> Seconds:
        """Seconds of each run, float64 [repeats, batches]."""
        return self.runner.time(self.setting, repeats)


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Seconds per batch, float64 [rounds], by contestant; the same round is the same index everywhere."""

    seconds: Mapping[str, NDArray[np.float64]]
    runs_per_turn: int

    def median(self, name: str) -> float:
        """Median seconds per batch."""
        return float(np.median(self.seconds[name]))

    def ratio(self, name: str, against: str) -> float:
        """Median over the rounds of this contestant's time over the other's in the same round."""
        return float(np.median(self.seconds[name] / self.seconds[against]))

    def figures(self, name: str) -> dict[str, float]:
        """Milliseconds per batch as result files hold them: the median and two quantiles over the rounds."""
        return {key: 1000 * float(np.quantile(self.seconds[name], at)) for key, at in QUANTILES.items()}


def take_turns(
    turns: Mapping[str, Turn],
    rounds: int,
    repeats: int | None = None,
    advance: Advance = lambda: None,
    turn_s: float = TURN_S,
) -> Samples:
    """Run all contestants in each round, in an order that changes.

    In a turn a contestant runs over all its batches, ``repeats`` times; the turn counts as the mean over the batches
    of each one's median. Without ``repeats`` the slowest one's turn takes about ``turn_s`` seconds.

    Args:
        turns: by contestant: repeats → seconds, float64 [repeats, batches].
        advance: called after every turn.

    """
    first = [turn(1) for turn in turns.values()]
    if repeats is None:
        slowest = max(float(seconds.sum()) for seconds in first)
        repeats = int(np.clip(round(turn_s / slowest), 1, MOST_REPEATS))
    names, random = list(turns), np.random.default_rng(0)
    seconds = {name: np.zeros(rounds) for name in names}
    for number in range(rounds):
        for index in random.permutation(len(names)):
            time.sleep(SETTLE_S)
            seconds[names[index]][number] = np.median(turns[names[index]](repeats), axis=0).mean()
            advance()
    return Samples(seconds, repeats * first[0].shape[1])


def profile(
    contestants: Sequence[Contestant], batches: int, advance: Advance = lambda: None
) -> dict[str, NDArray[np.float64]]:
    """Seconds of each step, float64 [steps], by contestant: the mean over all batches of the median over turns.

    ``advance`` is called after each of :func:`profile_turns` · contestants turns.
    """
    turns = profile_turns(batches)
    seconds: dict[str, list[Seconds]] = {contestant.name: [] for contestant in contestants}
    for turn in range(turns):
        for contestant in contestants:
            time.sleep(SETTLE_S)
            steps = contestant.runner.profile(contestant.setting, turn % batches, PROFILE_REPEATS)
            seconds[contestant.name].append(steps)
            advance()
    return {
        name: np.median(np.reshape(values, (turns // batches, batches, -1)), axis=0).mean(axis=0)
        for name, values in seconds.items()
    }


def profile_turns(batches: int) -> int:
    """How often each contestant is profiled: all batches equally often."""
    return -(-PROFILE_TURNS // batches) * batches


def check_logits(logits: NDArray[Any], expected: NDArray[np.float32], precision: str) -> None:
    """Refuse what computes something else; half precisions and int8 round every value, so they are held loosely.

    Raises:
        AbsentError: the logits differ by more than a share of the largest.

    """
    count = min(len(logits), len(expected))
    error = float(np.abs(logits[:count] - expected[:count]).max() / np.abs(expected[:count]).max())
    if not error <= LOGITS_WITHIN[precision]:
        raise AbsentError(f"its logits are off by {error:.2g} of the largest")
