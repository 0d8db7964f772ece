"""Where a plan's buffers live, decided once for all engines: lifetimes, aliases, borders and in-place residuals.

A map is surrounded by a border of zeros as wide as the widest window that reads it needs. An output takes its
residual's memory where nothing reads the residual afterwards and a skipped cell would hold exactly the residual: then
skipped cells cost nothing. What else a skipped cell holds is :meth:`lccl.plan.steps.Convolve.fill`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lccl.plan.steps import AveragePool, Buffer, Convolve, MaxPool, Normalise, Plan, Quantum, Read, Step


@dataclass(frozen=True, slots=True)
class BufferMemory:
    """What one buffer needs of memory.

    Attributes:
        storage: the buffer whose memory this is: its own name, or that of the one it takes over.
        border: positions of zeros on each side; all buffers of one storage have the same.
        first: the first step that uses the storage, and ``last`` the last one. A convolution that is pooled alone
            uses its input until the pool after it is done.
        non_negative: whether every value is at least 0.
        pooled: whether it holds pooled features, which only exits and classifiers read.
        readers: who reads it, by step number, in their order.

    """

    storage: str
    border: int
    first: int
    last: int
    non_negative: bool
    pooled: bool
    readers: tuple[tuple[int, Read], ...]


@dataclass(frozen=True, slots=True, eq=False)
class PlanMemory:
    """The memory of a whole plan.

    Attributes:
        buffers: by name, every buffer that a step writes.
        in_place: numbers of the steps whose output lies in its residual's memory, so that skipped cells are right
            before the step runs.
        pooled_alone: numbers of the convolutions that do nothing but feed the max-pool after them, so that both may run
            in bands of rows.

    """

    buffers: Mapping[str, BufferMemory]
    in_place: frozenset[int]
    pooled_alone: frozenset[int]


def assign_memory(plan: Plan) -> PlanMemory:
    """Decide for every buffer of a plan.

    Raises:
        ValueError: a step reads what no step before it writes, or writes what is no buffer of the plan.

    """
    readers = _readers(plan)
    pooled_alone = _pooled_alone(plan, readers)
    buffers: dict[str, BufferMemory] = {}
    in_place = set()
    for number, step in enumerate(plan.steps):
        for name in step.writes:
            storage = name
            if name == step.writes[0] and _fits_in_place(plan, number, step, buffers):
                assert isinstance(step, Convolve)
                assert step.residual is not None
                storage = buffers[step.residual.buffer].storage
                in_place.add(number)
            buffers[name] = BufferMemory(
                storage=storage,
                border=max((read.kernel // 2 for _, read in readers[name]), default=0),
                first=number,
                last=max((reader + (reader in pooled_alone) for reader, _ in readers[name]), default=number),
                non_negative=_is_non_negative(step, name, buffers),
                pooled=isinstance(step, AveragePool),
                readers=tuple(readers[name]),
            )
    return PlanMemory(_with_shared_storage(buffers), frozenset(in_place), pooled_alone)


def _readers(plan: Plan) -> dict[str, list[tuple[int, Read]]]:
    """Who reads each buffer that a step writes."""
    readers: dict[str, list[tuple[int, Read]]] = {}
    names = {buffer.name for buffer in plan.buffers}
    for number, step in enumerate(plan.steps):
        for read in step.reads:
            if read.buffer not in readers:
                raise ValueError(f"step {number} reads {read.buffer!r}, which no step before it writes")
            readers[read.buffer].append((number, read))
        for name in step.writes:
            if name not in names:
                raise ValueError(f"step {number} writes {name!r}, which is no buffer of the plan")
            readers.setdefault(name, [])
    return readers


def _fits_in_place(plan: Plan, number: int, step: Step, buffers: Mapping[str, BufferMemory]) -> bool:
    if not isinstance(step, Convolve) or step.residual is None or step.residual.stride > 1:
        return False
    residual = buffers[step.residual.buffer]
    if _form(plan.buffer(step.residual.buffer)) != _form(plan.buffer(step.writes[0])):
        return False
    if any(reader > number or (reader == number and read.kernel) for reader, read in residual.readers):
        return False  # it is read later, or by this step's windows, over cells that the step may have overwritten
    return step.raw is not None or (
        step.activated is not None and step.activated.affine is None and residual.non_negative
    )


def _is_non_negative(step: Step, name: str, buffers: Mapping[str, BufferMemory]) -> bool:
    match step:
        case Normalise():
            return False
        case MaxPool() | AveragePool():
            return buffers[step.input].non_negative
        case Convolve() if step.raw == name:
            return step.relu and (step.residual is None or buffers[step.residual.buffer].non_negative)
    return True


def _with_shared_storage(buffers: Mapping[str, BufferMemory]) -> dict[str, BufferMemory]:
    """Buffers of one storage have the widest border and the longest lifetime among them."""
    members: dict[str, list[BufferMemory]] = {}
    for memory in buffers.values():
        members.setdefault(memory.storage, []).append(memory)
    return {
        name: replace(
            memory,
            border=max(member.border for member in members[memory.storage]),
            first=min(member.first for member in members[memory.storage]),
            last=max(member.last for member in members[memory.storage]),
        )
        for name, memory in buffers.items()
    }


def _pooled_alone(plan: Plan, readers: Mapping[str, list[tuple[int, Read]]]) -> frozenset[int]:
    return frozenset(
        number
        for number, (step, following) in enumerate(zip(plan.steps, plan.steps[1:], strict=False))
        if isinstance(step, Convolve)
        and isinstance(following, MaxPool)
        and step.writes == (following.input,)
        and step.raw is not None
        and step.gate is None
        and step.residual is None
        and len(readers[following.input]) == 1
    )


def _form(buffer: Buffer) -> tuple[int, int, int, Quantum | None]:
    return buffer.channels, buffer.height, buffer.width, buffer.quantum
