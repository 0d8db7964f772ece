"""Where a plan's maps lie in the scratch that one image has: places are used again as soon as nothing reads them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from lccl.plan import steps
from lccl.plan.steps import Buffer, Plan

NARROWEST = 16  # channels; an image's three are padded with zeros


@dataclass(frozen=True, slots=True)
class Place:
    """A map [height + 2, width + 2, channels] from ``offset`` (elements) on; its border is 0 and never written."""

    offset: int
    channels: int
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything lies.

    Attributes:
        places: of each map, by its buffer's name.
        elements: of one image's scratch.
        in_place: names of the convolutions whose skipped cells hold what they are to hold before the step runs, since
            its output has taken over its residual's place.

    """

    places: dict[str, Place]
    elements: int
    in_place: frozenset[str]


def lay_out(plan: Plan) -> Layout:
    """Give every map a place. Only maps of one shape share a place, and so a border."""
    last = {name: number for number, step in enumerate(plan.steps) for name in maps_read(step)}
    places: dict[str, Place] = {}
    free: dict[tuple[int, int, int], list[Place]] = defaultdict(list)
    in_place, positive, elements = set(), set(), 0
    for number, step in enumerate(plan.steps):
        taken = _taken_over(plan, step, number, last)
        for name in maps_written(step):
            buffer = plan.buffer(name)
            shape = (max(buffer.channels, NARROWEST), buffer.height, buffer.width)
            if taken is not None and name == maps_written(step)[0]:
                places[name] = places[taken]
            elif free[shape]:
                places[name] = free[shape].pop()
            else:
                places[name] = Place(elements, *shape)
                elements += shape[0] * (shape[1] + 2) * (shape[2] + 2)
        if isinstance(step, steps.Convolve):
            positive |= _positive(step)
            if taken in positive and step.raw is None and step.activated and step.activated.affine is None:
                in_place.add(step.name)
        for name in {*maps_read(step), *maps_written(step)} - {taken}:
            if last.get(name, number) == number:
                free[places[name].channels, places[name].height, places[name].width].append(places[name])
    return Layout(places, elements, frozenset(in_place))


def maps_written(step: steps.Step) -> list[str]:
    """Names of the maps that a step writes; what pooling writes is no map."""
    if isinstance(step, steps.Normalise):
        return [step.raw]
    if isinstance(step, steps.Convolve):
        return [name for name in (step.raw, step.activated and step.activated.buffer) if name]
    return []


def maps_read(step: steps.Step) -> list[str]:
    """Names of the maps that a step reads."""
    if isinstance(step, steps.AveragePool):
        return [step.input]
    if isinstance(step, steps.Convolve):
        gate, residual = step.gate and step.gate.input, step.residual and step.residual.buffer
        return [name for name in (step.input, gate, residual) if name]
    return []


def _taken_over(plan: Plan, step: steps.Step, number: int, last: dict[str, int]) -> str | None:
    """The residual that nothing else reads from this step on, whose place its first output may take."""
    if not isinstance(step, steps.Convolve) or step.residual is None:
        return None
    name = step.residual.buffer
    if last[name] != number or name in (step.input, step.gate and step.gate.input):
        return None
    return name if _shape(plan.buffer(name)) == _shape(plan.buffer(maps_written(step)[0])) else None


def _shape(buffer: Buffer) -> tuple[int, int, int]:
    return buffer.channels, buffer.height, buffer.width


def _positive(step: steps.Convolve) -> set[str]:
    """Which of a step's outputs are never below 0."""
    found = {step.activated.buffer} if step.activated else set()
    return found | ({step.raw} if step.raw and step.relu and step.residual is None else set())
