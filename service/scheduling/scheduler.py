"""At batch time: which setting each image is run with, who comes too late, and who can wait for the next batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from lccl.operating_points import Offer, Setting

ANSWER_S = 0.001  # from the end of a batch to the last byte of its answers
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)

Predict = Callable[[int, float], float]
"""Safely predicted seconds of a batch, from its number of images and the MACs it is expected to run."""


class Order(Protocol):
    """What the scheduler needs to know of an image that waits.

    Attributes:
        offer: the settings it may be run with.
        deadline: monotone seconds after which its answer is of no use.

    """

    @property
    def offer(self) -> Offer: ...
    @property
    def deadline(self) -> float: ...


class Waiting(Protocol):
    """A job, seen from here."""

    @property
    def item(self) -> Order: ...


J = TypeVar("J", bound=Waiting)


@dataclass(slots=True)
class Schedule(Generic[J]):
    """What becomes of the jobs that were taken.

    Attributes:
        run: the batch, each job with its setting.
        later: jobs that wait for the next batch, since this one would be too long for another's deadline.
        late: jobs whose deadline cannot be met even alone and as sparse as allowed; they cost no compute.

    """

    run: list[tuple[J, Setting]] = field(default_factory=list)
    later: list[J] = field(default_factory=list)
    late: list[J] = field(default_factory=list)


def schedule(jobs: Sequence[J], brownout: float, now: float, predict: Predict) -> Schedule[J]:
    """Choose settings so that every deadline in the batch is met, as little sparser than wanted as possible.

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
    settings = _in_time(batch, brownout, now, predict, LEVELS[:1])
    if settings is None:
        plan.late = [job for job in batch if _is_late(job.item, now, predict)]
        batch = [job for job in batch if job not in plan.late]
    while batch and settings is None:
        settings = _in_time(batch, brownout, now, predict, LEVELS)
        if settings is None and len(batch) > 1:
            batch.sort(key=lambda job: job.item.deadline)
            half = len(batch) // 2
            batch, plan.later = batch[:half], batch[half:] + plan.later
        elif settings is None:  # not late alone, and yet not in time alone: the two sums differ by rounding
            settings = [batch[0].item.offer.sparsest]
    plan.run = list(zip(batch, settings or (), strict=True))
    return plan


def _in_time(
    batch: Sequence[Waiting], brownout: float, now: float, predict: Predict, hurries: Sequence[float]
) -> list[Setting] | None:
    """The first settings with which a batch meets its tightest deadline, in rising hurry; None if there are none."""
    left = min(job.item.deadline for job in batch) - now - ANSWER_S
    for hurry in hurries:
        settings = [_setting(job.item.offer, brownout, hurry) for job in batch]
        if predict(len(batch), sum(setting.gated_macs for setting in settings)) <= left:
            return settings
    return None


def _is_late(order: Order, now: float, predict: Predict) -> bool:
    """Whether a deadline cannot be met even alone and as sparse as allowed."""
    return now + predict(1, order.offer.sparsest.gated_macs) + ANSWER_S > order.deadline


def _setting(offer: Offer, brownout: float, hurry: float) -> Setting:
    level = brownout if offer.gives_way else 0.0
    if offer.gives_way or offer.deadline_s is not None:
        level = max(level, hurry)
    return offer.lowered(level)
