"""At batch time: which setting each picture is run with, who comes too late, and who can wait for the next batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from lccl.operating_points import Offer, Setting

ANSWER_S = 0.001  # from the end of a batch to the last byte of its answers
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)

Predict = Callable[[int, float], float]
"""Safely predicted seconds of a batch, from its number of pictures and the MACs it is expected to run."""


class Order(Protocol):
    """What the scheduler needs to know of a picture that waits.

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

    Pictures that give way start at the brown-out's level. If the batch is then too long for its tightest deadline,
    those that may be lowered are, evenly; if that is not enough, the batch is halved, the most patient left for later.

    Args:
        jobs: what was taken, at least one.
        brownout: level of the brown-out, 0..1.
        now: monotone seconds.
        predict: see :data:`Predict`.

    """
    plan: Schedule[J] = Schedule()
    batch: list[J] = []
    for job in jobs:
        in_time = now + predict(1, job.item.offer.sparsest.gated_macs) + ANSWER_S <= job.item.deadline
        (batch if in_time else plan.late).append(job)
    while batch:
        left = min(job.item.deadline for job in batch) - now - ANSWER_S
        for hurry in LEVELS:
            settings = [_setting(job.item.offer, brownout, hurry) for job in batch]
            if predict(len(batch), sum(setting.gated_macs for setting in settings)) <= left:
                plan.run = list(zip(batch, settings, strict=True))
                return plan
        if len(batch) == 1:  # the check above and this one differ by rounding at most
            plan.run = [(batch[0], batch[0].item.offer.sparsest)]
            return plan
        ordered = sorted(batch, key=lambda job: job.item.deadline)
        half = len(batch) // 2
        batch, plan.later = ordered[:half], ordered[half:] + plan.later
    return plan


def _setting(offer: Offer, brownout: float, hurry: float) -> Setting:
    level = brownout if offer.gives_way else 0.0
    if offer.gives_way or offer.deadline_s is not None:
        level = max(level, hurry)
    return offer.lowered(level)
