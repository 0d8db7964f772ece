"""At batch time: the operating point of each image, which come too late, and which can wait for the next batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from lccl.operating_points import OperatingPoint
from lccl.request import Resolution

ANSWER_S = 0.001  # from the end of a batch to the last byte of its answers
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)

Predict = Callable[[int, float], float]
"""Safely predicted seconds of a batch, from its number of images and the MACs it is expected to run."""


class Schedulable(Protocol):
    """What the scheduler needs to know of an image that waits.

    Attributes:
        resolution: the points it may be run at.
        deadline: monotone seconds after which its answer is of no use.

    """

    @property
    def resolution(self) -> Resolution: ...
    @property
    def deadline(self) -> float: ...


class Waiting(Protocol):
    """What the scheduler needs to know of a job."""

    @property
    def item(self) -> Schedulable: ...


J = TypeVar("J", bound=Waiting)


@dataclass(slots=True)
class Schedule(Generic[J]):
    """The decision about each of the jobs that were taken.

    Attributes:
        run: the batch, each job with its operating point.
        later: jobs that wait for the next batch, since this one would be too long for another's deadline.
        late: jobs whose deadline cannot be met even alone and as sparse as allowed; they cost no compute.

    """

    run: list[tuple[J, OperatingPoint]] = field(default_factory=list)
    later: list[J] = field(default_factory=list)
    late: list[J] = field(default_factory=list)


def schedule(jobs: Sequence[J], brownout: float, now: float, predict: Predict) -> Schedule[J]:
    """Choose points so that every deadline in the batch is met, as little sparser than wanted as possible.

    Images that give way start at the brown-out's level. If the batch is then too long for its tightest deadline,
    those that may be lowered are, evenly; if that is not enough, the batch is halved, the most patient left for later.

    Args:
        jobs: what was taken, at least one.
        brownout: level of the brown-out, 0..1.
        now: monotone seconds.
        predict: see :data:`Predict`.

    """
    plan: Schedule[J] = Schedule()
    batch = list(jobs)
    points = _in_time(batch, brownout, now, predict, LEVELS[:1])
    if points is None:
        plan.late = [job for job in batch if _is_late(job.item, now, predict)]
        batch = [job for job in batch if job not in plan.late]
    while batch and points is None:
        points = _in_time(batch, brownout, now, predict, LEVELS)
        if points is None and len(batch) > 1:
            batch.sort(key=lambda job: job.item.deadline)
            half = len(batch) // 2
            batch, plan.later = batch[:half], batch[half:] + plan.later
        elif points is None:  # not late alone, and yet not in time alone: the two sums differ by rounding
            points = [batch[0].item.resolution.sparsest]
    plan.run = list(zip(batch, points or (), strict=True))
    return plan


def _in_time(
    batch: Sequence[Waiting], brownout: float, now: float, predict: Predict, hurries: Sequence[float]
) -> list[OperatingPoint] | None:
    """The first points with which a batch meets its tightest deadline, in rising hurry; None if there are none."""
    left = min(job.item.deadline for job in batch) - now - ANSWER_S
    for hurry in hurries:
        points = [_point(job.item.resolution, brownout, hurry) for job in batch]
        if predict(len(batch), sum(point.gated_macs for point in points)) <= left:
            return points
    return None


def _is_late(item: Schedulable, now: float, predict: Predict) -> bool:
    """Whether a deadline cannot be met even alone and as sparse as allowed."""
    return now + predict(1, item.resolution.sparsest.gated_macs) + ANSWER_S > item.deadline


def _point(resolution: Resolution, brownout: float, hurry: float) -> OperatingPoint:
    level = brownout if resolution.gives_way else 0.0
    if resolution.gives_way or resolution.deadline_s is not None:
        level = max(level, hurry)
    return resolution.lowered(level)
