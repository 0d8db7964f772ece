"""Operating points: what a model offers between accuracy and work, and how a client's wish becomes controls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np

from lccl.controls import Controls
from lccl.errors import BundleError, WishError

EXACT = "exact"
TARGETS = ("sparsity", "operating_point", "deadline_ms")


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Thresholds with what was measured under them on pictures that chose nothing.

    Attributes:
        name: ``exact`` or a short name such as ``p45``.
        thresholds: one per SkipConv, finite and ≥ 0.
        norm_set: the normalisation set that belongs to them.
        skip_ratio: mean share of SkipConv cells skipped, weighted by MACs; 0..1.
        gated_macs: mean theoretical MACs per image.
        accuracy: share of images classified right, with its interval; 0..1.
        drop: accuracy lost against exact on the same images, in percentage points, with its interval.
        drop_bound: one-sided 95 % upper bound of that drop, in percentage points.

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


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client asks for: at most one target (sparsity, operating point or deadline) and at most one floor.

    Attributes:
        sparsity: wanted mean skip ratio, 0..1.
        operating_point: a point's name.
        max_accuracy_drop: the accuracy the client can spare, in percentage points against exact.
        deadline_ms: milliseconds, from the request's first byte, after which an answer is of no use.

    """

    sparsity: float | None = None
    operating_point: str | None = None
    max_accuracy_drop: float | None = None
    deadline_ms: float | None = None

    def __post_init__(self) -> None:
        targets = [name for name in TARGETS if getattr(self, name) is not None]
        if len(targets) > 1:
            count = "two" if len(targets) == 2 else "three"
            raise WishError(f"{', '.join(targets)} are {count} targets: ask for one of them")
        if self.deadline_ms is not None and not (math.isfinite(self.deadline_ms) and self.deadline_ms > 0):
            raise WishError(f"deadline_ms must be a positive number of milliseconds, not {self.deadline_ms}")
        if self.sparsity is not None and not (math.isfinite(self.sparsity) and 0 <= self.sparsity <= 1):
            raise WishError(f"sparsity must be a number from 0 to 1, not {self.sparsity}")
        drop = self.max_accuracy_drop
        if drop is not None and not (math.isfinite(drop) and 0 <= drop <= 100):
            raise WishError(f"max_accuracy_drop must be percentage points from 0 to 100, not {drop}")


@dataclass(frozen=True, slots=True)
class Setting:
    """What a wish came to: thresholds, and what may be expected of them.

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
        exit_confidence=np.zeros((len(settings), 0), dtype=np.float32),
        want_masks=want_masks,
    )


@dataclass(frozen=True, slots=True)
class OperatingPointTable:
    """The points of a model, ordered by skip ratio; the first is ``exact``. Immutable and checked when made.

    Attributes:
        points: at least ``exact``.
        images: how many held-out pictures the figures were measured on.

    """

    points: tuple[OperatingPoint, ...]
    images: int

    def __post_init__(self) -> None:
        points = self.points
        if not points or points[0].name != EXACT or any(points[0].thresholds):
            raise BundleError("an operating point table starts with exact, whose thresholds are 0")
        if len({point.name for point in points}) != len(points):
            raise BundleError("operating points need different names")
        for point in points:
            thresholds = np.array(point.thresholds)
            if len(thresholds) != len(points[0].thresholds) or not np.isfinite(thresholds).all():
                raise BundleError(f"operating point {point.name} needs one finite threshold per layer")
        for before, point in pairwise(points):
            if not point.skip_ratio > before.skip_ratio:
                raise BundleError(f"operating point {point.name} does not skip more than {before.name}")
            if any(new < old for old, new in zip(before.thresholds, point.thresholds, strict=True)):
                raise BundleError(f"a layer's threshold falls from operating point {before.name} to {point.name}")

    @property
    def exact(self) -> OperatingPoint:
        return self.points[0]

    @property
    def sparsity_range(self) -> tuple[float, float]:
        """The skip ratios that can be asked for: exact's own to the last point's."""
        return self.points[0].skip_ratio, self.points[-1].skip_ratio

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
        else:
            return Offer((_setting(floor or self.exact),))
        if floor is None:
            return Offer((wanted,))
        if wanted.sparsity > floor.skip_ratio:
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
        pairs = zip(denser.thresholds, sparser.thresholds, strict=True)
        return Setting(
            name=None,
            thresholds=tuple(old + weight * (new - old) for old, new in pairs),
            norm_set=(sparser if weight >= 0.5 else denser).norm_set,
            sparsity=sparsity,
            gated_macs=denser.gated_macs + weight * (sparser.gated_macs - denser.gated_macs),
            expected_accuracy=sparser.accuracy,
            accuracy_interval=sparser.accuracy_interval,
            expected_accuracy_drop=sparser.drop,
        )

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
            return cls(tuple(_point(entry) for entry in value["points"]), images)
        except (TypeError, KeyError, ValueError, OverflowError) as error:
            raise BundleError(f"the operating points are not readable: {error}") from error


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
    )


def _point(entry: dict[str, Any]) -> OperatingPoint:
    """Read one point; every number must be one, finite, and in its range."""
    unknown = set(entry) ^ {field.name for field in fields(OperatingPoint)}
    if unknown:
        raise ValueError(f"unexpected or missing {', '.join(sorted(unknown))}")
    if not isinstance(entry["thresholds"], list | tuple):
        raise TypeError("thresholds are a list")
    thresholds = tuple(_number(value) for value in entry["thresholds"])
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
    )
    numbers = (*thresholds, point.gated_macs, point.drop, point.drop_bound)
    if not all(map(math.isfinite, numbers)) or min(thresholds, default=0) < 0:
        raise ValueError("numbers must be finite and thresholds not negative")
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
