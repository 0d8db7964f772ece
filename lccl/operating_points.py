"""Operating points: what a model offers between accuracy and work, in an immutable table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

from lccl.errors import BundleError, require
from lccl.json_values import field_names, read_fields
from lccl.plan.run import NEVER, Setting

EXACT = "exact"
LOWEST_CONFIDENCE = 0.5
ROUNDING = 1e-3  # engines differ in the last bits of a gate, and skip ratios with them


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and self.low <= self.high < math.inf):
            raise ValueError("an interval runs from a finite low to a finite high")


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A setting with what was measured under it on held-out images that did not choose it.

    Attributes:
        name: ``exact`` or a short name such as ``p45``; None between two points of a table.
        setting: thresholds, finite and ≥ 0, and exit confidences.
        skip_ratio: mean share of SkipConv cells skipped or behind an image's exit, weighted by MACs; 0..1.
        gated_macs: mean theoretical MACs per image.
        accuracy: share of images classified right, with its interval; 0..1.
        drop: accuracy lost against exact on the same images, in percentage points, with its interval.
        drop_bound: one-sided 95 % upper bound of that drop, in percentage points.

    """

    name: str | None
    setting: Setting
    skip_ratio: float
    gated_macs: float
    accuracy: float
    accuracy_interval: Interval
    drop: float
    drop_interval: Interval
    drop_bound: float

    def towards(self, sparser: OperatingPoint, weight: float) -> OperatingPoint:
        """A share of the way to a sparser point; it states the sparser one's accuracy."""
        return replace(
            sparser,
            name=None,
            setting=self.setting.mixed(sparser.setting, weight),
            skip_ratio=self.skip_ratio + weight * (sparser.skip_ratio - self.skip_ratio),
            gated_macs=self.gated_macs + weight * (sparser.gated_macs - self.gated_macs),
        )

    def to_json(self) -> dict[str, Any]:
        value = asdict(self)
        setting: dict[str, Any] = value.pop("setting")
        return value | setting

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> OperatingPoint:
        """Read what :meth:`to_json` wrote; every number must be one, finite, and in its range.

        Raises:
            TypeError, KeyError, ValueError, OverflowError: anything else.

        """
        entry = dict(entry)
        if entry.pop("norm_set", 0) != 0:
            raise ValueError("norm_set must be 0: there is one normalisation for all thresholds")
        setting = {name: entry.pop(name) for name in field_names(Setting) & entry.keys()}
        point = read_fields(cls, entry | {"setting": setting})
        thresholds = point.setting.thresholds
        numbers = (*thresholds, point.gated_macs, point.drop, point.drop_bound)
        sound = all(map(math.isfinite, numbers)) and min(thresholds, default=0) >= 0 and isinstance(point.name, str)
        require(
            ValueError,
            (sound, "numbers must be finite, thresholds not negative, and the name a text"),
            (all(0 <= each <= 1 for each in point.setting.exit_confidence), "exit confidences lie in 0..1"),
            (0 <= point.skip_ratio <= 1 and 0 <= point.accuracy <= 1, "skip_ratio and accuracy lie in 0..1"),
        )
        return point


@dataclass(frozen=True, slots=True)
class OperatingPointTable:
    """The points of a model, ordered by skip ratio; the first is ``exact``. Immutable and checked when made.

    Attributes:
        points: at least ``exact``. Gates and exits together: the best of both that calibration found.
        images: how many held-out images the figures were measured on.
        exit_points: all gates exact, and every exit at one confidence that falls from point to point to
            ``LOWEST_CONFIDENCE``; for requests that set it by hand. None for a model without early exits.

    """

    points: tuple[OperatingPoint, ...]
    images: int
    exit_points: tuple[OperatingPoint, ...] = ()

    def __post_init__(self) -> None:
        points = self.points
        if not points or points[0].name != EXACT or any(points[0].setting.thresholds):
            raise BundleError("an operating point table starts with exact, whose thresholds are 0")
        exact = self.exact.setting
        require(
            BundleError,
            (
                not any(confidence < NEVER for confidence in exact.exit_confidence),
                "no image leaves early at exact: its exit confidences are 1",
            ),
            (len({point.name for point in points}) == len(points), "operating points need different names"),
        )
        for point in (*points, *self.exit_points):
            thresholds = point.setting.thresholds
            require(
                BundleError,
                (
                    len(thresholds) == len(exact.thresholds) and all(map(math.isfinite, thresholds)),
                    f"operating point {point.name} needs one finite threshold per layer",
                ),
                (
                    len(point.setting.exit_confidence) == len(exact.exit_confidence),
                    f"operating point {point.name} needs one confidence per early exit",
                ),
            )
        for before, point in pairwise(points):
            old, new = before.setting, point.setting
            require(
                BundleError,
                (
                    point.skip_ratio > before.skip_ratio,
                    f"operating point {point.name} does not skip more than {before.name}",
                ),
                (
                    not _falls(old.thresholds, new.thresholds),
                    f"a layer's threshold falls from operating point {before.name} to {point.name}",
                ),
                (
                    not _falls(new.exit_confidence, old.exit_confidence),
                    f"an exit's confidence rises from operating point {before.name} to {point.name}",
                ),
            )
        self._check_exit_points()

    def _check_exit_points(self) -> None:
        points = self.exit_points
        if bool(points) != bool(self.exact.setting.exit_confidence):
            raise BundleError("a table has exit points where the model has early exits, and none elsewhere")
        for before, point in pairwise((self.exact, *points)):
            confidences = point.setting.exit_confidence
            require(
                BundleError,
                (
                    not any(point.setting.thresholds) and len(set(confidences)) == 1,
                    f"{point.name} has exact gates and one confidence for all exits, or it is no exit point",
                ),
                (
                    confidences[0] < before.setting.exit_confidence[0],
                    f"{point.name} needs a lower exit confidence than {before.name}",
                ),
                (
                    point.skip_ratio >= before.skip_ratio - ROUNDING,
                    f"{point.name} skips less than {before.name}, though more images may leave early",
                ),
            )
        if points and points[-1].setting.exit_confidence[0] != LOWEST_CONFIDENCE:
            raise BundleError(f"the last exit point has the confidence {LOWEST_CONFIDENCE:g}")

    @property
    def exact(self) -> OperatingPoint:
        return self.points[0]

    @property
    def sparsity_range(self) -> tuple[float, float]:
        """The skip ratios that can be asked for: exact's own to the last point's."""
        return self.points[0].skip_ratio, self.points[-1].skip_ratio

    @property
    def exit_confidence_range(self) -> tuple[float, float] | None:
        """The exit confidences that can be asked for; None for a model without early exits."""
        return (LOWEST_CONFIDENCE, NEVER) if self.exit_points else None

    @property
    def smallest_certified_drop(self) -> float | None:
        """The smallest ``max_accuracy_drop``, in percentage points, that allows more than exact; None if none does."""
        return max(0.0, self.points[1].drop_bound) if len(self.points) > 1 else None

    def to_json(self) -> dict[str, Any]:
        return {
            "points": [point.to_json() for point in self.points],
            "images": self.images,
            "exit_points": [point.to_json() for point in self.exit_points],
        }

    @classmethod
    def from_json(cls, value: object) -> OperatingPointTable:
        """Read what :meth:`to_json` wrote.

        Raises:
            BundleError: anything else.

        """
        try:
            table = read_fields(cls, value)
            if table.images < 1:
                raise ValueError(f"they were measured on {table.images} images")
            return table
        except (TypeError, KeyError, ValueError, OverflowError) as error:
            raise BundleError(f"the operating points are not readable: {error}") from error


def _falls(before: Sequence[float], after: Sequence[float]) -> bool:
    return any(new < old for old, new in zip(before, after, strict=True))
