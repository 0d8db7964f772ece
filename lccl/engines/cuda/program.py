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

    def macs(self, kept: NDArray[np.int64], active: NDArray[np.bool_], listed: NDArray[np.int64]) -> NDArray[np.int64]:
        """What the last launch ran for each image, int64 [N], tiles' padding included.

        Args:
            kept: int64 [N, L], kept cells.
            active: bool [N], images that had not left before.
            listed: int64 [L, G], rows in the lists.

        """
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
        spent, active = np.zeros(len(kept), np.int64), np.ones(len(kept), dtype=bool)
        for step, kernels in zip(self.plan.steps, self.steps, strict=True):
            spent += kernels.macs(kept, active, listed)
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
