"""A kernel with all that it is given, ready to be put on the current stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel, its grid, and its arguments by name, constants among them."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    warps: int = 4
    stages: int = 2

    def __call__(self) -> None:
        self.kernel[self.grid](**self.arguments, **self.options)

    @property
    def options(self) -> dict[str, Any]:
        """What a compiler is told beside the constants.

        It fuses no multiplication with an addition: where it could would differ from tile to tile, and so would bits.
        """
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": False}
