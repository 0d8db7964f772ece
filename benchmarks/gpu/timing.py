"""Seconds on a GPU or on the wall, of contestants that take turns, so that the machine's drift hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

Launch = Callable[[], object]

FLUSH_BYTES = 1 << 30
WARM_UPS = 3


class Clock(Protocol):
    """Takes the time of launches."""

    def graph(self, launch: Launch) -> Launch:
        """The same work in a form that starts as cheaply as the device allows."""
        ...

    def seconds(self, launch: Launch, runs: int) -> NDArray[np.float64]:
        """Seconds of each of ``runs`` launches, float64 [runs]."""
        ...


class DeviceClock:
    """CUDA events around each launch.

    Before each one a buffer much larger than the L2 cache is overwritten: nothing is found there from the launch
    before, and what the host takes to start the work is hidden behind it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=device)

    def graph(self, launch: Launch) -> Launch:
        """Capture a launch as a CUDA graph; what it does on the host happens here, and never again."""
        aside = torch.cuda.Stream(self._device)
        aside.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                launch()
        torch.cuda.current_stream(self._device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            launch()
        return Replay(graph, launch)

    def seconds(self, launch: Launch, runs: int) -> NDArray[np.float64]:
        pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(runs)]
        for before, after in pairs:
            self._flush.zero_()
            before.record()
            launch()
            after.record()
        torch.cuda.synchronize(self._device)
        return np.array([before.elapsed_time(after) / 1e3 for before, after in pairs])


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """A captured launch; holds on to it, for the graph knows the addresses of its tensors alone."""

    graph: torch.cuda.CUDAGraph
    launch: Launch

    def __call__(self) -> None:
        self.graph.replay()


class WallClock:
    """The host's clock; for work that is done when the launch returns."""

    def graph(self, launch: Launch) -> Launch:
        """The launch itself: there are no graphs on the host."""
        return launch

    def seconds(self, launch: Launch, runs: int) -> NDArray[np.float64]:
        found = np.zeros(runs)
        for run in range(runs):
            begin = time.perf_counter()
            launch()
            found[run] = time.perf_counter() - begin
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Seconds by contestant, float64 [rounds, runs]; the same round is the same index everywhere."""

    seconds: Mapping[str, NDArray[np.float64]]

    def median(self, name: str) -> float:
        """Median seconds of a launch."""
        return float(np.median(self.seconds[name]))

    def ratio(self, name: str, against: str) -> float:
        """Median over the rounds of this contestant's time over the other's in the same round."""
        own, other = (np.median(self.seconds[which], axis=1) for which in (name, against))
        return float(np.median(own / other))

    def fastest(self, names: list[str]) -> str:
        """The contestant of the least median."""
        return min(names, key=self.median)

    def figures(self, name: str) -> dict[str, float]:
        """Milliseconds as result files hold them: the median, and the quantiles 0.2 and 0.8 over all launches."""
        low, middle, high = np.quantile(self.seconds[name], (0.2, 0.5, 0.8)) * 1e3
        return {"median_ms": round(float(middle), 6), "p20_ms": round(float(low), 6), "p80_ms": round(float(high), 6)}


def take_turns(contestants: Mapping[str, Launch], clock: Clock, rounds: int, runs: int) -> Samples:
    """In each round every contestant has its turn of ``runs`` launches, in an order that changes."""
    for launch in contestants.values():
        clock.seconds(launch, WARM_UPS)
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in contestants}
    random = np.random.default_rng(0)
    for _ in range(rounds):
        for name in random.permutation(list(contestants)):
            found[str(name)].append(clock.seconds(contestants[str(name)], runs))
    return Samples({name: np.array(turns) for name, turns in found.items()})
