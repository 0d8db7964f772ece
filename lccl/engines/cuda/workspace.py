"""The memory of a plan's kernels on the device: its maps, and what all steps use in turn."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lccl.engines.cuda.layout import lay_out
from lccl.errors import EngineError
from lccl.plan.geometry import shape_of
from lccl.plan.steps import Affine, Array, AveragePool, Exit, Plan

ADDRESSABLE = 2**31  # kernels count values in 32 bits


class Workspace:
    """Room for batches of up to ``limit`` images.

    Attributes:
        places: where each map lies.
        processors: multiprocessors of the device.
        masks: by buffer whose skipped cells are unwritten, uint8 for each position with borders, 1 where written.
        gates: float32, one layer's gates by row and group; ``listed`` int32, its rows by group and place.
        active: int32 [limit], 1 for images that are there and have not left.
        features: by buffer of pooled features, float32 [limit, grid², channels]; ``hidden`` those inside an exit.

    """

    def __init__(self, plan: Plan, limit: int, device: torch.device, dtype: torch.dtype) -> None:
        """Take the memory.

        Raises:
            EngineError: a map of so many images is more than kernels can address.

        """
        self.plan, self.limit, self.device, self.dtype = plan, limit, device, dtype
        self.places = lay_out(plan)
        largest = max(place.elements for place in self.places.values())
        if limit * largest >= ADDRESSABLE:
            raise EngineError(f"{limit} images are too many at once: at most {ADDRESSABLE // largest} of this network")
        is_gpu = device.type == "cuda"
        self.processors = torch.cuda.get_device_properties(device).multi_processor_count if is_gpu else 2
        self._take_maps()
        self._take_scratch()

    def map(self, name: str) -> Tensor:
        """The memory that a buffer lies in."""
        return self._maps[self.places[name].storage]

    def reads(self, name: str, kernel: int, stride: int) -> dict[str, Any]:
        """The arguments of a kernel that reads a map by windows."""
        windows = self.places[name].windows(kernel, stride)
        return {"x": self.map(name), "x_mask": self.masks.get(name), "WINDOWS": windows}

    def floats(self, array: Array) -> Tensor:
        """An array as float32 on the device."""
        return torch.from_numpy(np.array(array, np.float32)).to(self.device)

    def affine(self, affine: Affine | None, prefix: str = "") -> dict[str, Tensor | None]:
        """Scale and shift as arguments of a kernel."""
        scale, shift = (None, None) if affine is None else (self.floats(affine.scale), self.floats(affine.shift))
        return {f"{prefix}scale": scale, f"{prefix}shift": shift}

    def as_laid(self, name: str, images: int) -> tuple[Tensor, Tensor | None]:
        """A map as it lies there, border and all, [N, H', W', C'], and which of its positions are there at all.

        For tests and tuning; the second, uint8 [N, H', W'], is None where all are.
        """
        place, mask = self.places[name], self.masks.get(name)
        sides = (images, place.map.height + 2 * place.map.border, place.map.width + 2 * place.map.border)
        values = self.map(name)[: images * place.elements].view(*sides, place.map.stored)
        return values, None if mask is None else mask[: images * place.positions].view(sides)

    def _take_maps(self) -> None:
        places = self.places.items()
        self._maps = {name: self._room(place.elements, self.dtype) for name, place in places if place.storage == name}
        self.masks = {
            name: self._room(place.positions, torch.uint8) for name, place in places if place.skipped == "masked"
        }

    def _take_scratch(self) -> None:
        layers = [(layer.convolution, layer.gate_groups) for layer in shape_of(self.plan).layers]
        rows = max((shape.height * shape.width * groups for shape, groups in layers), default=1)
        self.gates, self.listed = self._room(rows, torch.float32), self._room(rows, torch.int32)
        self.active = self._room(1, torch.int32)
        pools = [step for step in self.plan.steps if isinstance(step, AveragePool)]
        self.features = {
            step.raw: self._room(self.places[step.input].map.channels * step.grid**2, torch.float32) for step in pools
        }
        hidden = [len(step.hidden_weight) for step in self.plan.steps if isinstance(step, Exit)]
        self.hidden = self._room(max(hidden, default=1), torch.float32)

    def _room(self, count: int, dtype: torch.dtype) -> Tensor:
        """Zeros, ``count`` for each image."""
        return torch.zeros(self.limit * count, dtype=dtype, device=self.device)
