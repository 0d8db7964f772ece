"""How large a network's values are: a histogram per map, filled batch by batch in a fixed amount of memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lccl.engines.reference import ReferenceEngine
from lccl.engines.reference_state import State
from lccl.plan.memory import BufferMemory, assign_memory
from lccl.plan.run import RunOptions, Setting
from lccl.plan.steps import Plan, Step
from lccl.quantization.plan import shared_scales

BINS = 4096
BATCH_BYTES = 256 << 20


class Histogram:
    """Counts of magnitudes above 0 in bins of one width, which doubles when a larger value comes."""

    def __init__(self) -> None:
        self._counts: NDArray[np.int64] = np.zeros(BINS, np.int64)
        self.largest = 0.0
        self._width = 0.0

    def add(self, values: NDArray[np.floating]) -> None:
        """Count values of any shape; zeros, which every scale represents, are left out.

        What is not finite makes the largest infinite, for good.
        """
        sizes = np.abs(values[values != 0])
        if not sizes.size:
            return
        self.largest = max(self.largest, float(sizes.max()) if np.isfinite(sizes).all() else np.inf)
        if not np.isfinite(self.largest):
            return
        self._width = self._width or self.largest / BINS
        while self._width * BINS < self.largest:
            merged = self._counts.reshape(-1, 2).sum(axis=1)
            self._counts, self._width = np.concatenate([merged, np.zeros(BINS // 2, np.int64)]), 2 * self._width
        width = np.float64(self._width)  # of the smallest values it is no float32 number
        bins = np.minimum((sizes / width).astype(np.int64), BINS - 1)
        self._counts += np.bincount(bins, minlength=BINS)

    def quantile(self, share: float) -> float:
        """The magnitude below which this share of the values lies, to a bin; the largest itself for 1."""
        if share >= 1 or not self._counts.any():
            return self.largest
        reached = np.cumsum(self._counts) >= share * self._counts.sum()
        return min(self.largest, float(np.argmax(reached) + 1) * self._width)

    def least_error(self, levels: int) -> float:
        """Where to clip for the least squared error when so many steps above 0 are stored."""
        if not self._counts.any():
            return self.largest
        centres = (np.arange(BINS) + 0.5) * self._width
        clips = self.largest * np.geomspace(0.02, 1, 100)
        inside = np.minimum(centres, clips[:, None])
        cut = ((centres - inside) ** 2 * self._counts).sum(axis=1)
        rounding = (clips / levels) ** 2 / 12 * (self._counts * (centres < clips[:, None])).sum(axis=1)
        return float(clips[np.argmin(cut + rounding)])


def value_ranges(plan: Plan, images: NDArray[np.uint8]) -> dict[tuple[str, ...], Histogram]:
    """Histograms of the groups of maps that share a scale, over images uint8 [N, H, W, 3] at exact thresholds."""
    histograms = {group: Histogram() for group in shared_scales(plan)}
    home = {name: histograms[group] for group in histograms for name in group}
    engine, exact = ReferenceEngine(plan), Setting.exact(len(plan.layers), plan.exits)
    for batch in batches(plan, images):
        for step, state in walk(engine, batch, exact):
            for name in step.writes:
                if name in home:
                    home[name].add(state.values[name].numpy())
    return histograms


def image_bytes(plan: Plan) -> int:
    """What all float maps of one image take."""
    return sum(4 * buffer.channels * buffer.height * buffer.width for buffer in plan.buffers)


def batches(plan: Plan, images: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Images cut into batches whose float maps take a bounded amount of memory."""
    size = max(1, min(ReferenceEngine.batch_limit, int(BATCH_BYTES / image_bytes(plan))))
    for start in range(0, len(images), size):
        yield images[start : start + size]


def walk(engine: ReferenceEngine, images: NDArray[np.uint8], setting: Setting) -> Iterator[tuple[Step, State]]:
    """Run a batch step by step: each step that was run and the state after it, without maps no longer read."""
    memory = assign_memory(engine.plan).buffers
    state = engine.begin(images, RunOptions.of([setting] * len(images)))
    for number, step in enumerate(engine.plan.steps):
        engine.step(step, state)
        yield step, state
        drop_read(state.values, memory, number)


def drop_read(values: dict[str, Tensor], memory: Mapping[str, BufferMemory], number: int) -> None:
    """Free the maps that no step after this one reads."""
    for name in [name for name in values if name in memory]:
        if all(reader <= number for reader, _ in memory[name].readers):
            del values[name]
