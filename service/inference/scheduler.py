"""At batch time: the operating point of each image, which come too late, and which can wait for the next batch."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lccl.operating_points import OperatingPoint
from lccl.request import Resolution

from .batcher import Job
from .registry import ServedModel

ANSWER_S = 0.001  # from the end of a batch to the last byte of its answers
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)

Predict = Callable[[int, float], float]
"""Safely predicted seconds of a batch, from its number of images and the MACs it is expected to run."""


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """One image for one model.

    Attributes:
        image: uint8 [H, W, 3], or float32 [H, W, 3] already normalised.
        resolution: the points it may be run at.
        deadline: monotone seconds after which its answer is of no use.
        loop_delay_s: seconds that its request waited for the event loop before anything was done for it.
        probe: whether the server asks itself, and no client.
        want_masks: whether its result is to carry the masks.

    """

    model: ServedModel
    image: NDArray[np.uint8] | NDArray[np.float32]
    resolution: Resolution
    deadline: float
    loop_delay_s: float = 0.0
    probe: bool = False
    want_masks: bool = False


WorkJob = Job[Work, Any]


@dataclass(slots=True)
class Schedule:
    """The decision about each of the jobs that were taken.

    Attributes:
        run: the batch, each job with its operating point.
        later: jobs that wait for the next batch, since this one would be too long for others.
        late: jobs whose deadline cannot be met even alone and as sparse as allowed; they cost no compute.

    """

    run: list[tuple[WorkJob, OperatingPoint]] = field(default_factory=list)
    later: list[WorkJob] = field(default_factory=list)
    late: list[WorkJob] = field(default_factory=list)


def schedule(
    jobs: Sequence[WorkJob], brownout: float, now: float, predict: Predict, most_s: float = math.inf
) -> Schedule:
    """Choose points so that every deadline in the batch is met, as little sparser than wanted as possible.

    The batch is the jobs that came first, as many as take ``most_s``, at least one. Images that give way start at the
    brown-out's level. If the batch is then too long for its tightest deadline, those that may be lowered are, evenly;
    if that is not enough, the batch is halved, the most patient left for later.

    Args:
        jobs: what was taken, at least one.
        brownout: level of the brown-out, 0..1.
        now: monotone seconds.
        predict: see :data:`Predict`.
        most_s: seconds that a batch of several images may be predicted to take.

    """
    count = _fitting(jobs, brownout, predict, most_s)
    plan = Schedule(later=list(jobs[count:]))
    batch = list(jobs[:count])
    points = _in_time(batch, brownout, now, predict, LEVELS[:1])
    if points is None:
        plan.late = [
            job for job in batch
            if now + predict(1, job.item.resolution.sparsest.gated_macs) + ANSWER_S > job.item.deadline
        ]  # fmt: skip
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


def _fitting(jobs: Sequence[WorkJob], brownout: float, predict: Predict, most_s: float) -> int:
    """How many of the jobs, from the first, make a batch that takes so many seconds; at least one."""
    count = len(jobs)
    if most_s == math.inf:
        return count
    macs = list(accumulate(_point(job.item.resolution, brownout, 0.0).gated_macs for job in jobs))
    while count > 1 and (seconds := predict(count, macs[count - 1])) > most_s:
        count = max(1, min(count - 1, int(count * most_s / seconds)))
    return count


def _in_time(
    batch: Sequence[WorkJob], brownout: float, now: float, predict: Predict, hurries: Sequence[float]
) -> list[OperatingPoint] | None:
    """The first points with which a batch meets its tightest deadline, in rising hurry; None if there are none."""
    left = min(job.item.deadline for job in batch) - now - ANSWER_S
    for hurry in hurries:
        points = [_point(job.item.resolution, brownout, hurry) for job in batch]
        if predict(len(batch), sum(point.gated_macs for point in points)) <= left:
            return points
    return None


def _point(resolution: Resolution, brownout: float, hurry: float) -> OperatingPoint:
    level = brownout if resolution.gives_way else 0.0
    if resolution.gives_way or resolution.deadline_s is not None:
        level = max(level, hurry)
    return resolution.lowered(level)
