"""A plan as kernels in their order: what a batch launches, and how many MACs that came to."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from lccl.engines.cuda import small_steps
from lccl.engines.cuda.batch import Batch
from lccl.engines.cuda.convolutions import Convolution
from lccl.engines.cuda.executed import Counting, Product
from lccl.engines.cuda.launch import Kernel, Launch
from lccl.engines.cuda.tiles import Tiles
from lccl.engines.cuda.workspace import Workspace
from lccl.plan import steps
from lccl.plan.steps import Plan


class Program:
    """The kernels of a plan for batches of up to ``limit`` images; launching waits for nothing.

    Attributes:
        workspace: their memory.
        convolutions: the plan's convolutions.
        steps: the kernels of each of the plan's steps.
        counting: of the MACs that a launch runs.

    """

    def __init__(self, plan: Plan, limit: int, device: torch.device, dtype: torch.dtype, tiles: Tiles) -> None:
        """Pack weights and take memory.

        Raises:
            EngineError: a map of so many images is more than kernels can address.

        """
        self.plan, self.workspace = plan, Workspace(plan, limit, device, dtype)
        self.convolutions = {
            number: Convolution(step, self.workspace, tiles)
            for number, step in enumerate(plan.steps)
            if isinstance(step, steps.Convolve)
        }
        self.steps = tuple(self._kernels(number, step) for number, step in enumerate(plan.steps))
        stages: list[list[Product]] = [[]]
        for step, kernels in zip(plan.steps, self.steps, strict=True):
            stages[-1] += [kernel.product for kernel in kernels if kernel.product is not None]
            if isinstance(step, steps.Exit):
                stages.append([])
        self.counting = Counting(stages)

    def launch(self, batch: Batch) -> None:
        """Put all kernels on the current stream, from the inputs of a batch of at most ``limit`` to its outputs."""
        for launch in self.launches(batch):
            launch()

    def launches(self, batch: Batch) -> Iterator[Launch]:
        """The kernels of a launch, in order."""
        return (kernel.launch(batch) for kernels in self.steps for kernel in kernels)

    def _kernels(self, number: int, step: steps.Step) -> tuple[Kernel, ...]:
        match step:
            case steps.Convolve():
                return self.convolutions[number].kernels
            case steps.Normalise():
                return (small_steps.normalisation(step, self.workspace),)
            case steps.MaxPool():
                return (small_steps.max_pooling(step, self.workspace),)
            case steps.AveragePool():
                return (small_steps.average_pooling(step, self.workspace),)
            case steps.Exit():
                return (small_steps.exit_classifier(step, self.workspace),)
            case steps.Classify():
                return (small_steps.classifier(step, self.workspace),)
