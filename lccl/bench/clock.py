"""Clocks: seconds of launches on the wall, or on a GPU between CUDA events."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

Launch = Callable[[], object]
Seconds = NDArray[np.float64]

FLUSH_BYTES = 1 << 30
WARM_UPS = 3


class Clock(Protocol):
    """Takes the time of launches."""

    def graph(self, launch: Launch) -> Launch:
        """The same work in a form that starts as cheaply as the device allows."""
        ...

    def seconds(self, launches: Sequence[Launch], repeats: int) -> Seconds:
        """Seconds of every launch, ``repeats`` times in turn after an untimed one, float64 [repeats, launches]."""
        ...


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
        return _Replay(graph, launch)

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


@dataclass(frozen=True, slots=True, eq=False)
class _Replay:
    """A captured launch; holds on to it, for the graph knows only the addresses of its tensors."""

    graph: torch.cuda.CUDAGraph
    launch: Launch

    def __call__(self) -> None:
        self.graph.replay()
