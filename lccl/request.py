"""What a client asks for, resolved against a model's operating points."""

import math
from dataclasses import dataclass, replace

from lccl.errors import QualityError
from lccl.operating_points import LOWEST_CONFIDENCE, OperatingPoint, OperatingPointTable
from lccl.plan.run import NEVER

TARGETS = ("sparsity", "operating_point", "deadline_ms", "exit_confidence")


@dataclass(frozen=True, slots=True)
class QualityRequest:
    """What a client asks for: at most one target (all but ``max_accuracy_drop``) and at most one floor.

    Attributes:
        sparsity: wanted mean skip ratio, 0..1.
        operating_point: a point's name.
        max_accuracy_drop: the accuracy the client can spare, in percentage points against exact.
        deadline_ms: milliseconds, from the request's first byte, after which an answer is of no use.
        exit_confidence: how confident an early exit must be, 0.5..1, with all gates exact; no image leaves at 1.

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
            raise QualityError(f"{', '.join(targets)} are {count} targets: ask for one of them")
        if self.deadline_ms is not None and not (math.isfinite(self.deadline_ms) and self.deadline_ms > 0):
            raise QualityError(f"deadline_ms must be a positive number of milliseconds, not {self.deadline_ms}")
        ranges = (
            ("sparsity", "a number", 0, 1),
            ("exit_confidence", "a number", LOWEST_CONFIDENCE, NEVER),
            ("max_accuracy_drop", "percentage points", 0, 100),
        )
        for name, kind, low, high in ranges:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and low <= value <= high):
                raise QualityError(f"{name} must be {kind} from {low:g} to {high:g}, not {value}")


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a request resolved to: the point to serve, and its allowed fallbacks.

    Attributes:
        points: from the wanted one to ever sparser ones; more than one only with a permission.
        deadline_s: seconds, from the request's first byte, after which an answer is of no use; None: not given.
        gives_way: whether the client allowed sparser points under overload: it gave a target and a floor.

    """

    points: tuple[OperatingPoint, ...]
    deadline_s: float | None = None
    gives_way: bool = False

    @property
    def wanted(self) -> OperatingPoint:
        return self.points[0]

    @property
    def sparsest(self) -> OperatingPoint:
        return self.points[-1]

    def lowered(self, level: float) -> OperatingPoint:
        """The point at a share of the way from the wanted one (0) to the sparsest (1)."""
        return self.points[math.ceil(level * (len(self.points) - 1))]

    def is_downgrade(self, point: OperatingPoint) -> bool:
        """Whether serving this point gives the client less than its target; a deadline names none."""
        return self.deadline_s is None and point is not self.wanted


def resolve(table: OperatingPointTable, request: QualityRequest) -> Resolution:
    """Turn a request into the point to serve and those it may fall back to.

    A floor alone asks for the sparsest point within it. Beside a target it is a permission to serve
    a sparser point, up to the floor. A deadline starts from exact and may go to the floor, or to the last point.

    Raises:
        QualityError: no such point, beyond the last point, or a target past its own floor.

    """
    floor = None if request.max_accuracy_drop is None else _sparsest_within(table, request.max_accuracy_drop)
    if request.deadline_ms is not None:
        last = floor or table.points[-1]
        points = tuple(point for point in table.points if point.skip_ratio <= last.skip_ratio)
        return Resolution(points, request.deadline_ms / 1000, gives_way=floor is not None)
    if request.operating_point is not None:
        wanted = _named(table, request.operating_point)
    elif request.sparsity is not None:
        wanted = _at_sparsity(table, request.sparsity)
    elif request.exit_confidence is not None:
        wanted = _at_exit_confidence(table, request.exit_confidence, request.max_accuracy_drop)
    else:
        return Resolution((floor or table.exact,))
    if floor is None:
        return Resolution((wanted,))
    if request.exit_confidence is None and wanted.skip_ratio > floor.skip_ratio:
        raise QualityError(
            f"the target lies past its own floor: max_accuracy_drop {request.max_accuracy_drop:g} "
            f"allows a sparsity of at most {floor.skip_ratio:.3f} ({floor.name})"
        )
    fallbacks = (point for point in table.points if wanted.skip_ratio < point.skip_ratio <= floor.skip_ratio)
    return Resolution((wanted, *fallbacks), gives_way=True)


def _named(table: OperatingPointTable, name: str) -> OperatingPoint:
    for point in table.points:
        if point.name == name:
            return point
    raise QualityError(
        f"no operating point {name[:40]!r}: use one of {', '.join(str(point.name) for point in table.points)}"
    )


def _at_sparsity(table: OperatingPointTable, sparsity: float) -> OperatingPoint:
    """The point whose expected skip ratio is ``sparsity``: thresholds linear between the two points around it."""
    low, high = table.sparsity_range
    if sparsity <= low:
        return table.exact
    if sparsity > high:
        raise QualityError(f"sparsity {sparsity:g} is out of reach: this model offers {low:.3f} to {high:.3f}")
    index = next(number for number, point in enumerate(table.points) if point.skip_ratio >= sparsity)
    denser, sparser = table.points[index - 1], table.points[index]
    if sparser.skip_ratio == sparsity:
        return sparser
    weight = (sparsity - denser.skip_ratio) / (sparser.skip_ratio - denser.skip_ratio)
    return replace(denser.towards(sparser, weight), skip_ratio=sparsity)


def _at_exit_confidence(table: OperatingPointTable, confidence: float, max_drop: float | None) -> OperatingPoint:
    """Exact gates and this confidence at every exit; what to expect is measured at the points around it."""
    if not table.exit_points:
        raise QualityError("this model has no early exits: leave exit_confidence out")
    points = (table.exact, *table.exit_points)
    index = next(number for number, point in enumerate(points) if point.setting.exit_confidence[0] <= confidence)
    sparser = points[index]
    if max_drop is not None and index and sparser.drop_bound > max_drop:
        raise QualityError(
            f"the target lies past its own floor: exit_confidence {confidence:g} may lose up to "
            f"{sparser.drop_bound:.2f} points, max_accuracy_drop allows {max_drop:g}"
        )
    if not index:
        return table.exact
    denser = points[index - 1]
    high, low = denser.setting.exit_confidence[0], sparser.setting.exit_confidence[0]
    return denser.towards(sparser, (high - confidence) / (high - low))


def _sparsest_within(table: OperatingPointTable, max_drop: float) -> OperatingPoint:
    """Go from exact towards sparser points and stop before the first whose drop may exceed the floor.

    A fixed sequence of tests, each at 5 %: stopping at the first failure keeps one confidence
    level for the whole choice.
    """
    chosen = table.exact
    for point in table.points[1:]:
        if point.drop_bound > max_drop:
            break
        chosen = point
    return chosen
