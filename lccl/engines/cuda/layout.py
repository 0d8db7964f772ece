"""How a plan's maps lie on the device, as far as only these kernels care.

Which buffers share memory and how wide borders are, ``lccl.plan.memory`` has decided. This adds the stored channels,
which alignment rounds up, and how skipped cells of a gated convolution get what they hold (``Convolve.fill``):

- *filled*: the gate's kernel writes it;
- *masked*: nothing is written, and every reader is a convolution or gate that takes 0 where the mask says so;
- *none*: nothing is left to do, since all cells are computed or the memory is the residual's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lccl.engines.cuda.kernels.shapes import Map, Windows
from lccl.engines.cuda.packing import BLOCK, block_of, filled
from lccl.plan.memory import BufferMemory, assign_memory
from lccl.plan.steps import Convolve, Plan, Step

Skipped = Literal["none", "masked", "filled"]
ALIGNED = 4  # channels: what is read in one piece at the least
MASKED_WINDOWS = (1, 3, 5)  # sides whose taps' masks fit into the bits of a number


@dataclass(frozen=True, slots=True)
class Place:
    """A buffer's memory: the map, whose storage it lies in (its own name, or a buffer's it takes over), its skips."""

    map: Map
    storage: str
    skipped: Skipped

    @property
    def positions(self) -> int:
        """Positions of one image, borders included."""
        return (self.map.height + 2 * self.map.border) * (self.map.width + 2 * self.map.border)

    @property
    def elements(self) -> int:
        """Values of one image, borders included."""
        return self.positions * self.map.stored

    def windows(self, kernel: int, stride: int) -> Windows:
        """Windows of a convolution or gate over this map."""
        return Windows(
            kernel=kernel,
            stride=stride,
            block=block_of(self.map.stored, kernel),
            stored=self.map.stored,
            height=self.map.height + 2 * self.map.border,
            pitch=self.map.width + 2 * self.map.border,
            shift=self.map.border - kernel // 2,
            masked=self.skipped == "masked",
        )


def lay_out(plan: Plan) -> dict[str, Place]:
    """A place for every buffer that holds a map; pooled features, which are small, have none."""
    memory = assign_memory(plan).buffers
    places = {}
    for step in plan.steps:
        for name in step.writes:
            if memory[name].pooled:
                continue
            buffer = plan.buffer(name)
            stored = filled(buffer.channels, ALIGNED)
            shape = Map(buffer.channels, stored, buffer.height, buffer.width, memory[name].border)
            places[name] = Place(shape, memory[name].storage, _skipped(step, name, memory[name]))
    return places


def has_lists(step: Convolve) -> bool:
    """Whether rows are listed for a convolution: it has a gate, and not so few channels a group that none would do."""
    return step.gate is not None and (len(step.gate.weight) == 1 or channels_of_group(step) >= BLOCK)


def channels_of_group(step: Convolve) -> int:
    """Channels that one map of the gate rules; all of them without a gate."""
    return len(step.weight) // (1 if step.gate is None else len(step.gate.weight))


def _skipped(step: Step, name: str, memory: BufferMemory) -> Skipped:
    if not isinstance(step, Convolve) or step.gate is None or not has_lists(step) or memory.storage != name:
        return "none"
    is_zero = step.residual is None and (step.activated is None or step.activated.affine is None)
    is_shared = len(step.gate.weight) == 1 and len(step.weight) % BLOCK == 0
    by_windows = all(read.kernel in MASKED_WINDOWS for _, read in memory.readers)
    if is_zero and is_shared and by_windows and len(step.writes) == 1:
        return "masked"
    return "filled"
