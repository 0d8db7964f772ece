"""Operating points: what a model offers between accuracy and work, and how a client's wish becomes controls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np

from lccl.controls import Controls
from lccl.errors import BundleError, WishError

EXACT = "exact"
TARGETS = ("sparsity", "operating_point", "deadline_ms", "exit_confidence")
NEVER, LOWEST_CONFIDENCE = 1.0, 0.5
ROUNDING = 1e-3  # engines differ in the last bits of a gate, and skip ratios with them


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Thresholds and exit confidences with what was measured under them on images that chose nothing.

    Attributes:
        name: ``exact`` or a short name such as ``p45``.
        thresholds: one per SkipConv, finite and ≥ 0.
        norm_set: the normalisation set that belongs to them.
        skip_ratio: mean share of SkipConv cells skipped or behind an image's exit, weighted by MACs; 0..1.
        gated_macs: mean theoretical MACs per image.
        accuracy: share of images classified right, with its interval; 0..1.
        drop: accuracy lost against exact on the same images, in percentage points, with its interval.
        drop_bound: one-sided 95 % upper bound of that drop, in percentage points.
        exit_confidence: one per early exit, 0..1: an image leaves where it is surer than that, so never at 1.

    """

    name: str
    thresholds: tuple[float, ...]
    norm_set: int
    skip_ratio: float
    gated_macs: float
    accuracy: float
    accuracy_interval: Interval
    drop: float
    drop_interval: Interval
    drop_bound: float
    exit_confidence: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client asks for: at most one target (all but ``max_accuracy_drop``) and at most one floor.

    Attributes:
        sparsity: wanted mean skip ratio, 0..1.
        operating_point: a point's name.
        max_accuracy_drop: the accuracy the client can spare, in percentage points against exact.
        deadline_ms: milliseconds, from the request's first byte, after which an answer is of no use.
        exit_confidence: how sure an early exit must be, 0.5..1, with all gates exact; nobody leaves at 1.

    """

    sparsity: float | None = None
    operating_point: str | None = None
    max_accuracy_drop: float | None = None
    deadline_ms: float | None = None
    exit_confidence: float | None = None

    def __post_init__(self) -> None:
        targets = [name for name in TARGETS if getattr(self, name) is not None]
        if len(targets) > 1:
            count = ("two", "three", "four")[len(targets) - 2]
            raise WishError(f"{', '.join(targets)} are {count} targets: ask for one of them")
        if self.deadline_ms is not None and not (math.isfinite(self.deadline_ms) and self.deadline_ms > 0):
            raise WishError(f"deadline_ms must be a positive number of milliseconds, not {self.deadline_ms}")
        if self.sparsity is not None and not (math.isfinite(self.sparsity) and 0 <= self.sparsity <= 1):
            raise WishError(f"sparsity must be a number from 0 to 1, not {self.sparsity}")
        sure = self.exit_confidence
        if sure is not None and not (math.isfinite(sure) and LOWEST_CONFIDENCE <= sure <= NEVER):
            raise WishError(f"exit_confidence must be a number from {LOWEST_CONFIDENCE:g} to {NEVER:g}, not {sure}")
        drop = self.max_accuracy_drop
        if drop is not None and not (math.isfinite(drop) and 0 <= drop <= 100):
            raise WishError(f"max_accuracy_drop must be percentage points from 0 to 100, not {drop}")


@dataclass(frozen=True, slots=True)
class Setting:
    """What a wish came to: thresholds and exit confidences, and what may be expected of them.

    Attributes:
        name: the operating point's name; None between two points.
        sparsity: expected skip ratio.
        gated_macs: expected theoretical MACs per image.
        expected_accuracy: with its interval, 0..1; between two points the sparser one's.
        expected_accuracy_drop: percentage points against exact.
        downgraded: whether the client was given a sparser point than its target.

    """

    name: str | None
    thresholds: tuple[float, ...]
    norm_set: int
    sparsity: float
    gated_macs: float
    expected_accuracy: float
    accuracy_interval: Interval
    expected_accuracy_drop: float
    downgraded: bool = False
    exit_confidence: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Offer:
    """What a wish came to: the setting to serve, and those that it may be lowered to.

    Attributes:
        settings: from the one wished for to ever sparser ones; more than one only with a permission.
        deadline_s: seconds, from the request's first byte, after which an answer is of no use; None: not given.
        gives_way: whether the client allowed sparser settings under overload: it gave a target and a floor.

    """

    settings: tuple[Setting, ...]
    deadline_s: float | None = None
    gives_way: bool = False

    @property
    def wanted(self) -> Setting:
        return self.settings[0]

    @property
    def sparsest(self) -> Setting:
        return self.settings[-1]

    def lowered(self, level: float) -> Setting:
        """The setting at a share of the way from the wanted one (0) to the sparsest (1)."""
        return self.settings[math.ceil(level * (len(self.settings) - 1))]


def controls_for(settings: Sequence[Setting], want_masks: bool = False) -> Controls:
    """Controls for a batch, one setting per image."""
    return Controls(
        thresholds=np.array([setting.thresholds for setting in settings], dtype=np.float32),
        norm_set=np.array([setting.norm_set for setting in settings], dtype=np.int64),
        exit_confidence=np.array([setting.exit_confidence for setting in settings], dtype=np.float32),
        want_masks=want_masks,
    )


@dataclass(frozen=True, slots=True)
class OperatingPointTable:
    """The points of a model, ordered by skip ratio; the first is ``exact``. Immutable and checked when made.

    Attributes:
        points: at least ``exact``. Gates and exits together: the best of both that calibration found.
        images: how many held-out images the figures were measured on.
        exit_points: all gates exact, and every exit at one confidence that falls from point to point to
            ``LOWEST_CONFIDENCE``; for wishes that set it by hand. None for a model without early exits.

    """

    points: tuple[OperatingPoint, ...]
    images: int
    exit_points: tuple[OperatingPoint, ...] = ()

    def __post_init__(self) -> None:
        points = self.points
        if not points or points[0].name != EXACT or any(points[0].thresholds):
            raise BundleError("an operating point table starts with exact, whose thresholds are 0")
        if any(confidence < NEVER for confidence in points[0].exit_confidence):
            raise BundleError("no image leaves early at exact: its exit confidences are 1")
        if len({point.name for point in points}) != len(points):
            raise BundleError("operating points need different names")
        for point in (*points, *self.exit_points):
            self._check_lengths(point)
        for before, point in pairwise(points):
            if not point.skip_ratio > before.skip_ratio:
                raise BundleError(f"operating point {point.name} does not skip more than {before.name}")
            if any(new < old for old, new in zip(before.thresholds, point.thresholds, strict=True)):
                raise BundleError(f"a layer's threshold falls from operating point {before.name} to {point.name}")
            if any(new > old for old, new in zip(before.exit_confidence, point.exit_confidence, strict=True)):
                raise BundleError(f"an exit's confidence rises from operating point {before.name} to {point.name}")
        self._check_exit_points()

    def _check_lengths(self, point: OperatingPoint) -> None:
        thresholds, exact = np.array(point.thresholds), self.points[0]
        if len(thresholds) != len(exact.thresholds) or not np.isfinite(thresholds).all():
            raise BundleError(f"operating point {point.name} needs one finite threshold per layer")
        if len(point.exit_confidence) != len(exact.exit_confidence):
            raise BundleError(f"operating point {point.name} needs one confidence per early exit")

    def _check_exit_points(self) -> None:
        points = self.exit_points
        if bool(points) != bool(self.exact.exit_confidence):
            raise BundleError("a table has exit points where the model has early exits, and none elsewhere")
        for before, point in pairwise((self.exact, *points)):
            if any(point.thresholds) or len(set(point.exit_confidence)) != 1:
                raise BundleError(
                    f"{point.name} has exact gates and one confidence for all exits, or it is no exit point"
                )
            if not point.exit_confidence[0] < before.exit_confidence[0]:
                raise BundleError(f"{point.name} needs a lower exit confidence than {before.name}")
            if point.skip_ratio < before.skip_ratio - ROUNDING:
                raise BundleError(f"{point.name} skips less than {before.name}, though more images may leave early")
        if points and points[-1].exit_confidence[0] != LOWEST_CONFIDENCE:
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

    def resolve(self, wish: Wish) -> Setting:
        """The setting that a wish is served with where there is time and no overload; see :meth:`offer`."""
        return self.offer(wish).wanted

    def offer(self, wish: Wish) -> Offer:
        """Turn a wish into a setting and those it may be lowered to.

        A floor alone asks for the sparsest point within it. Beside a target it is a permission to serve
        a sparser point, up to the floor. A deadline starts from exact and may go to the floor, or to the last point.

        Raises:
            WishError: no such point, beyond the last point, or a target past its own floor.

        """
        floor = None if wish.max_accuracy_drop is None else self._sparsest_within(wish.max_accuracy_drop)
        if wish.deadline_ms is not None:
            last = self.points[-1] if floor is None else floor
            settings = tuple(_setting(point) for point in self.points if point.skip_ratio <= last.skip_ratio)
            return Offer(settings, wish.deadline_ms / 1000, gives_way=floor is not None)
        if wish.operating_point is not None:
            wanted = _setting(self._named(wish.operating_point))
        elif wish.sparsity is not None:
            wanted = self._at(wish.sparsity)
        elif wish.exit_confidence is not None:
            wanted = self._leaving_at(wish.exit_confidence, wish.max_accuracy_drop)
        else:
            return Offer((_setting(floor or self.exact),))
        if floor is None:
            return Offer((wanted,))
        if wish.exit_confidence is None and wanted.sparsity > floor.skip_ratio:
            raise WishError(
                f"the target lies past its own floor: max_accuracy_drop {wish.max_accuracy_drop:g} "
                f"allows a sparsity of at most {floor.skip_ratio:.3f} ({floor.name})"
            )
        between = (point for point in self.points if wanted.sparsity < point.skip_ratio <= floor.skip_ratio)
        return Offer((wanted, *(_setting(point, downgraded=True) for point in between)), gives_way=True)

    def _named(self, name: str) -> OperatingPoint:
        for point in self.points:
            if point.name == name:
                return point
        raise WishError(
            f"no operating point {name[:40]!r}: use one of {', '.join(point.name for point in self.points)}"
        )

    def _at(self, sparsity: float) -> Setting:
        """The setting whose expected skip ratio is ``sparsity``: thresholds linear between the two points around it."""
        low, high = self.sparsity_range
        if sparsity <= low:
            return _setting(self.exact)
        if sparsity > high:
            raise WishError(f"sparsity {sparsity:g} is out of reach: this model offers {low:.3f} to {high:.3f}")
        index = next(number for number, point in enumerate(self.points) if point.skip_ratio >= sparsity)
        denser, sparser = self.points[index - 1], self.points[index]
        if sparser.skip_ratio == sparsity:
            return _setting(sparser)
        weight = (sparsity - denser.skip_ratio) / (sparser.skip_ratio - denser.skip_ratio)
        return replace(_between(denser, sparser, weight), sparsity=sparsity)

    def _leaving_at(self, confidence: float, max_drop: float | None) -> Setting:
        """Exact gates and this confidence at every exit; what to expect is measured at the points around it."""
        if not self.exit_points:
            raise WishError("this model has no early exits: leave exit_confidence out")
        line = (self.exact, *self.exit_points)
        index = next(number for number, point in enumerate(line) if point.exit_confidence[0] <= confidence)
        sparser = line[index]
        if max_drop is not None and index and sparser.drop_bound > max_drop:
            raise WishError(
                f"the target lies past its own floor: exit_confidence {confidence:g} may lose up to "
                f"{sparser.drop_bound:.2f} points, max_accuracy_drop allows {max_drop:g}"
            )
        if not index:
            return _setting(self.exact)
        denser = line[index - 1]
        span = denser.exit_confidence[0] - sparser.exit_confidence[0]
        return _between(denser, sparser, (denser.exit_confidence[0] - confidence) / span)

    def _sparsest_within(self, max_drop: float) -> OperatingPoint:
        """Go from exact towards sparser points and stop before the first whose drop may exceed the floor.

        A fixed sequence of tests, each at 5 %: stopping at the first failure keeps one confidence
        level for the whole choice.
        """
        chosen = self.exact
        for point in self.points[1:]:
            if point.drop_bound > max_drop:
                break
            chosen = point
        return chosen

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> OperatingPointTable:
        """Read what :meth:`to_json` wrote.

        Raises:
            BundleError: anything else.

        """
        try:
            if not isinstance(value, dict):
                raise TypeError("not an object")
            images = value["images"]
            if not isinstance(images, int) or images < 1:
                raise ValueError(f"they were measured on {images!r} images")
            points, exit_points = (
                tuple(_point(entry) for entry in entries) for entries in (value["points"], value.get("exit_points", ()))
            )
            return cls(points, images, exit_points)
        except (TypeError, KeyError, ValueError, OverflowError) as error:
            raise BundleError(f"the operating points are not readable: {error}") from error


def _between(denser: OperatingPoint, sparser: OperatingPoint, weight: float) -> Setting:
    """A share of the way from one point to the next sparser one; it states the sparser one's accuracy."""

    def mix(old: float, new: float) -> float:
        return old + weight * (new - old)

    return Setting(
        name=None,
        thresholds=tuple(map(mix, denser.thresholds, sparser.thresholds)),
        norm_set=(sparser if weight >= 0.5 else denser).norm_set,
        sparsity=mix(denser.skip_ratio, sparser.skip_ratio),
        gated_macs=mix(denser.gated_macs, sparser.gated_macs),
        expected_accuracy=sparser.accuracy,
        accuracy_interval=sparser.accuracy_interval,
        expected_accuracy_drop=sparser.drop,
        exit_confidence=tuple(map(mix, denser.exit_confidence, sparser.exit_confidence)),
    )


def _setting(point: OperatingPoint, downgraded: bool = False) -> Setting:
    return Setting(
        name=point.name,
        thresholds=point.thresholds,
        norm_set=point.norm_set,
        sparsity=point.skip_ratio,
        gated_macs=point.gated_macs,
        expected_accuracy=point.accuracy,
        accuracy_interval=point.accuracy_interval,
        expected_accuracy_drop=point.drop,
        downgraded=downgraded,
        exit_confidence=point.exit_confidence,
    )


def _point(entry: dict[str, Any]) -> OperatingPoint:
    """Read one point; every number must be one, finite, and in its range."""
    unknown = (set(entry) | {"exit_confidence"}) ^ {field.name for field in fields(OperatingPoint)}
    if unknown:
        raise ValueError(f"unexpected or missing {', '.join(sorted(unknown))}")
    if not isinstance(entry["thresholds"], list | tuple):
        raise TypeError("thresholds are a list")
    thresholds = tuple(_number(value) for value in entry["thresholds"])
    confidences = tuple(_number(value) for value in entry.get("exit_confidence", ()))
    point = OperatingPoint(
        name=entry["name"],
        thresholds=thresholds,
        norm_set=entry["norm_set"],
        skip_ratio=_number(entry["skip_ratio"]),
        gated_macs=_number(entry["gated_macs"]),
        accuracy=_number(entry["accuracy"]),
        accuracy_interval=_interval(entry["accuracy_interval"]),
        drop=_number(entry["drop"]),
        drop_interval=_interval(entry["drop_interval"]),
        drop_bound=_number(entry["drop_bound"]),
        exit_confidence=confidences,
    )
    numbers = (*thresholds, point.gated_macs, point.drop, point.drop_bound)
    if not all(map(math.isfinite, numbers)) or min(thresholds, default=0) < 0:
        raise ValueError("numbers must be finite and thresholds not negative")
    if not all(0 <= confidence <= 1 for confidence in confidences):
        raise ValueError("exit confidences lie in 0..1")
    if not (0 <= point.skip_ratio <= 1 and 0 <= point.accuracy <= 1):
        raise ValueError("skip_ratio and accuracy lie in 0..1")
    if not isinstance(point.name, str) or not isinstance(point.norm_set, int) or point.norm_set < 0:
        raise ValueError("name is a text and norm_set a whole number")
    return point


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def _interval(entry: dict[str, Any]) -> Interval:
    interval = Interval(_number(entry["low"]), _number(entry["high"]))
    if not (math.isfinite(interval.low) and interval.low <= interval.high < math.inf):
        raise ValueError("an interval runs from a finite low to a finite high")
    return interval
