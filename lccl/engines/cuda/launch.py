"""A plan's kernels: how each is launched for a batch, and the matrix products that it forms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lccl.engines.cuda.batch import Batch
from lccl.engines.cuda.executed import Product


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel, its grid, and its arguments by name, constants among them."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    warps: int = 4
    stages: int = 2

    def __call__(self) -> None:
        """Put it on the current stream."""
        self.kernel[self.grid](**self.arguments, **self.options)

    @property
    def options(self) -> dict[str, Any]:
        """What a compiler is told beside the constants.

        It fuses no multiplication with an addition: where it could would differ from tile to tile, and so would bits.
        """
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": False}


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel of a plan, its weights on the device."""

    launch: Callable[[Batch], Launch]
    product: Product | None = None
