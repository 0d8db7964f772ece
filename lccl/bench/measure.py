"""Interleaved measurements: in every round each contestant has its turn, so that the machine's drift hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lccl.bench.child import Child

TURN_S = 0.3
PROFILE_TURNS = 8
SETTLE_S = 0.02
MOST_REPEATS = 200

Advance = Callable[[], None]


@dataclass(frozen=True, slots=True, eq=False)
class Contestant:
    """One line of the comparison: a child under one of its settings."""

    name: str
    child: Child
    setting: str


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Seconds per batch, float64 [rounds], by contestant; the same round is the same index everywhere."""

    seconds: dict[str, NDArray[np.float64]]
    runs_per_turn: int

    def median(self, name: str) -> float:
        """Median seconds per batch."""
        return float(np.median(self.seconds[name]))

    def quantiles(self, name: str, at: Sequence[float]) -> list[float]:
        """Quantiles over the rounds of the seconds per batch."""
        return [float(value) for value in np.quantile(self.seconds[name], at)]

    def ratio(self, name: str, against: str) -> float:
        """Median over the rounds of this contestant's time over the other's in the same round."""
        return float(np.median(self.seconds[name] / self.seconds[against]))


def measure(contestants: Sequence[Contestant], rounds: int, advance: Advance = lambda: None) -> Samples:
    """Run all contestants in each round, in an order that changes; ``advance`` is called after every turn.

    In a turn a contestant runs over all images, ``repeats`` times over; the turn counts as the mean over
    the batches of each one's median.
    """
    repeats, batches = _repeats(contestants)
    seconds = {contestant.name: np.zeros(rounds) for contestant in contestants}
    random = np.random.default_rng(0)
    for number in range(rounds):
        for index in random.permutation(len(contestants)):
            contestant = contestants[index]
            time.sleep(SETTLE_S)
            found = contestant.child.time(contestant.setting, repeats)
            seconds[contestant.name][number] = np.median(found, axis=0).mean()
            advance()
    return Samples(seconds, repeats * batches)


def profile(
    contestants: Sequence[Contestant], batches: int, repeats: int, advance: Advance = lambda: None
) -> dict[str, NDArray[np.float64]]:
    """Seconds of each step, float64 [steps], by contestant: the mean over all batches of the median over turns.

    ``advance`` is called after each of :func:`profile_turns` · contestants turns.
    """
    turns = profile_turns(batches)
    found: dict[str, list[NDArray[np.float64]]] = {contestant.name: [] for contestant in contestants}
    for turn in range(turns):
        for contestant in contestants:
            time.sleep(SETTLE_S)
            found[contestant.name].append(contestant.child.profile(contestant.setting, turn % batches, repeats))
            advance()
    return {
        name: np.median(np.reshape(values, (turns // batches, batches, -1)), axis=0).mean(axis=0)
        for name, values in found.items()
    }


def profile_turns(batches: int) -> int:
    """How often each contestant is profiled: all batches equally often."""
    return -(-PROFILE_TURNS // batches) * batches


def _repeats(contestants: Sequence[Contestant]) -> tuple[int, int]:
    """How often a turn goes over the images, so that the slowest contestant takes about TURN_S; and the batches."""
    first = [contestant.child.time(contestant.setting, 1) for contestant in contestants]
    slowest = max(float(seconds.sum()) for seconds in first)
    return int(np.clip(round(TURN_S / slowest), 1, MOST_REPEATS)), first[0].shape[1]
