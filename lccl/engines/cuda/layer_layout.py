"""Where a plan's buffers live on the device, and what their skipped cells need; decided once, without torch.

A map is laid down channels last, [batch, border + height + border, border + width + border, channels], so that a row of
k taps is one run of memory. Borders are as wide as the widest window that reads the buffer needs, are 0 and are never
written to.

What a skipped cell must hold (``Convolve.fill``) is written for it only where a reader would miss it:

- *in place*: the step's output takes its residual's memory, where the skipped cells hold the right values already;
- *absent*: every reader is a convolution or a gate, which looks at the mask and takes 0 for what was skipped;
- else *written*, by the gate's kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from lccl.plan import steps
from lccl.plan.steps import Plan

Skipped = Literal["none", "in place", "absent", "written"]
ALIGNED = 4  # channels: what is read in one piece at the least
BLOCK = 16  # channels: the narrowest block of a matrix product
WINDOWS = (1, 3, 5)  # sides whose taps' masks fit into the bits of a number


@dataclass(frozen=True, slots=True)
class Place:
    """A buffer's memory.

    Attributes:
        storage: whose memory this is: its own name, or that of a buffer it takes over.
        stored: channels with those that only align them; they hold 0.
        skipped: how skipped cells get their values; ``none`` where nothing is skipped.
        positive: whether every value is at least 0.

    """

    storage: str
    channels: int
    stored: int
    height: int
    width: int
    border: int
    skipped: Skipped
    positive: bool

    @property
    def pitch(self) -> int:
        """Positions from one row of the map to the next."""
        return self.width + 2 * self.border

    @property
    def positions(self) -> int:
        """Positions of one image, borders included."""
        return (self.height + 2 * self.border) * self.pitch

    @property
    def elements(self) -> int:
        """Values of one image, borders included."""
        return self.positions * self.stored


def lay_out(plan: Plan) -> dict[str, Place]:
    """A place for every buffer that holds a map; pooled features, which are small, have none."""
    readers = _readers(plan)
    places: dict[str, Place] = {}
    for step in plan.steps:
        for name, positive in _outputs(step, places):
            buffer = plan.buffer(name)
            skipped = _skipped(plan, step, name, readers, places)
            storage = name
            if skipped == "in place":
                assert isinstance(step, steps.Convolve)
                assert step.residual is not None
                storage = places[step.residual.buffer].storage
            places[name] = Place(
                storage=storage,
                channels=buffer.channels,
                stored=-(-buffer.channels // ALIGNED) * ALIGNED,
                height=buffer.height,
                width=buffer.width,
                border=0,
                skipped=skipped,
                positive=positive,
            )
    return _with_borders(places, readers)


@dataclass(frozen=True, slots=True)
class _Reader:
    """A step that reads a buffer, at its place in the plan, through windows of ``kernel`` taps a side (0: none)."""

    number: int
    kernel: int


def _readers(plan: Plan) -> dict[str, list[_Reader]]:
    found: dict[str, list[_Reader]] = {}
    for number, step in enumerate(plan.steps):
        for name, kernel in _inputs(step):
            found.setdefault(name, []).append(_Reader(number, kernel))
    return found


def _inputs(step: steps.Step) -> Iterator[tuple[str, int]]:
    match step:
        case steps.Convolve():
            yield step.input, step.weight.shape[2]
            if step.gate is not None:
                yield step.gate.input, step.gate.weight.shape[2]
            if step.residual is not None:
                yield step.residual.buffer, 0
        case steps.MaxPool() | steps.AveragePool():
            yield step.input, 0


def _outputs(step: steps.Step, places: dict[str, Place]) -> Iterator[tuple[str, bool]]:
    """The maps that a step writes, and whether they are positive."""
    match step:
        case steps.Normalise():
            yield step.raw, False
        case steps.MaxPool():
            yield step.raw, places[step.input].positive
        case steps.Convolve():
            if step.raw is not None:
                yield step.raw, step.relu and (step.residual is None or places[step.residual.buffer].positive)
            if step.activated is not None:
                yield step.activated.buffer, True


def _skipped(
    plan: Plan, step: steps.Step, name: str, readers: dict[str, list[_Reader]], places: dict[str, Place]
) -> Skipped:
    if not isinstance(step, steps.Convolve) or step.gate is None:
        return "none"
    if step.residual is not None:
        return "in place" if _takes_over(plan, step, step.residual, name, readers, places) else "written"
    channels, shared = plan.buffer(name).channels, len(step.gate.weight) == 1
    zero = step.activated is None or name != step.activated.buffer or step.activated.affine is None
    read_by_windows = all(reader.kernel in WINDOWS for reader in readers.get(name, ()))
    return "absent" if shared and zero and read_by_windows and channels % BLOCK == 0 else "written"


def _takes_over(
    plan: Plan,
    step: steps.Convolve,
    residual: steps.Residual,
    name: str,
    readers: dict[str, list[_Reader]],
    places: dict[str, Place],
) -> bool:
    """Whether an output can lie in its residual's memory: nobody reads that later, and skipped cells are right."""
    number = next(i for i, other in enumerate(plan.steps) if other is step)
    before = places[residual.buffer]
    if residual.stride > 1 or before.channels != plan.buffer(name).channels or before.skipped == "absent":
        return False
    if any(reader.number > number for reader in readers[residual.buffer]):
        return False
    if any(reader.number == number and reader.kernel for reader in readers[residual.buffer]):
        return False  # windows of this very step, over cells that it may have overwritten
    if name == step.raw:
        return True
    unchanged = step.activated is not None and step.activated.affine is None and before.positive
    return unchanged and step.raw is None


def _with_borders(places: dict[str, Place], readers: dict[str, list[_Reader]]) -> dict[str, Place]:
    """All buffers of one memory have the widest border that one of them needs."""
    widest: dict[str, int] = {}
    for name, place in places.items():
        needed = max((reader.kernel // 2 for reader in readers.get(name, ())), default=0)
        widest[place.storage] = max(widest.get(place.storage, 0), needed)
    return {
        name: Place(
            place.storage, place.channels, place.stored, place.height, place.width, widest[place.storage],
            place.skipped, place.positive,
        )
        for name, place in places.items()
    }  # fmt: skip
