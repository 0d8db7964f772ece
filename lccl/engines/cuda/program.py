"""A plan as kernels in their order: what a batch launches, and how many MACs that came to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lccl.engines.cuda import small_steps
from lccl.engines.cuda.batch import Batch
from lccl.engines.cuda.convolutions import Convolution
from lccl.engines.cuda.executed import shared_out
from lccl.engines.cuda.launch import Launch
from lccl.engines.cuda.tiles import Tiles
from lccl.engines.cuda.workspace import Workspace
from lccl.plan import steps
from lccl.plan.steps import Plan


class Kernels(Protocol):
    """One step of a plan, its weights on the device."""

    def launches(self, batch: Batch, forced: tuple[Tensor, ...] | None) -> Iterator[Launch]:
        """Its kernels, in order; ``forced`` masks, for tests, are used instead of the threshold test."""
        ...

    def macs(self, active: NDArray[np.bool_]) -> NDArray[np.int64]:
        """What a launch runs for each image beside listed rows, int64 [N]; ``active`` [N] are those that come here."""
        ...


class Program:
    """The kernels of a plan for batches of up to ``limit`` images; launching waits for nothing.

    Attributes:
        workspace: their memory.
        steps: the kernels of each of the plan's steps.

    """

    def __init__(self, plan: Plan, limit: int, device: torch.device, dtype: torch.dtype, tiles: Tiles) -> None:
        """Pack weights and take memory.

        Raises:
            TooManyImagesError: a map of so many images is more than kernels can address.

        """
        self.plan = plan
        self.workspace = Workspace(plan, limit, device, dtype)
        self.steps = tuple(_kernels(step, self.workspace, tiles) for step in plan.steps)
        gated = [step for step in self.steps if isinstance(step, Convolution) and step.gate is not None]
        self._tile_rows = np.array([step.tile.rows for step in gated], np.int64)
        self._macs_of_row = np.array([step.macs_of_row for step in gated], np.int64)
        self._macs_to_the_end: dict[int, NDArray[np.int64]] = {}

    def launch(self, batch: Batch, forced: tuple[Tensor, ...] | None = None) -> None:
        """Put all kernels on the current stream, from ``batch``'s inputs to its outputs.

        Args:
            batch: of at most ``limit`` images.
            forced: masks like ``batch.masks``, used instead of the threshold test; for tests only.

        """
        for launch in self.launches(batch, forced):
            launch()

    def launches(self, batch: Batch, forced: tuple[Tensor, ...] | None = None) -> Iterator[Launch]:
        """The kernels of a launch, in order."""
        for step in self.steps:
            yield from step.launches(batch, forced)

    def executed_macs(
        self, kept: NDArray[np.int64], exit_index: NDArray[np.int64], listed: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """What a launch ran for each of its valid images, int64 [N], tiles' padding included.

        Args:
            kept: int64 [N, L], kept cells.
            exit_index: int64 [N].
            listed: int64 [L, G], rows in the lists.

        """
        count = len(exit_index)
        if (exit_index < self.plan.exits).any():
            return self._macs_beside_lists(exit_index) + self.listed_macs(kept, listed)
        if count not in self._macs_to_the_end:
            self._macs_to_the_end[count] = self._macs_beside_lists(exit_index)
        return self._macs_to_the_end[count] + self.listed_macs(kept, listed)

    def listed_macs(self, kept: NDArray[np.int64], listed: NDArray[np.int64]) -> NDArray[np.int64]:
        """MACs of listed rows alone, int64 [N]."""
        tiles = -(-listed[: len(self._tile_rows)].T // self._tile_rows)
        return shared_out(tiles.sum(axis=0) * self._tile_rows, kept) @ self._macs_of_row

    def _macs_beside_lists(self, exit_index: NDArray[np.int64]) -> NDArray[np.int64]:
        spent, active = np.zeros(len(exit_index), np.int64), np.ones(len(exit_index), dtype=bool)
        for step, kernels in zip(self.plan.steps, self.steps, strict=True):
            spent += kernels.macs(active)
            if isinstance(step, steps.Exit):
                active &= exit_index != step.exit
        return spent


def _kernels(step: steps.Step, workspace: Workspace, tiles: Tiles) -> Kernels:
    match step:
        case steps.Normalise():
            return small_steps.normalisation(step, workspace)
        case steps.Convolve():
            return Convolution(step, workspace, tiles)
        case steps.MaxPool():
            return small_steps.max_pooling(step, workspace)
        case steps.AveragePool():
            return small_steps.average_pooling(step, workspace)
        case steps.Exit():
            return small_steps.exit_classifier(step, workspace)
        case steps.Classify():
            return small_steps.classifier(step, workspace)
