"""Rates as they are typed: ``200``, ``50,100``, ``100..400``; with an ``x`` at the end in multiples of the capacity."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """Requests a second, or a multiple of the capacity."""

    value: float
    of_capacity: bool

    def per_second(self, capacity: float) -> float:
        """Requests a second, at this capacity in requests a second."""
        return self.value * capacity if self.of_capacity else self.value


def parse_rates(texts: list[str], steps: int) -> list[Rate]:
    """Read rates in the order given; a range becomes ``steps`` rates, two or more, with equal ratios between them.

    Raises:
        ValueError: not a rate, or not a positive one.

    """
    return [rate for text in texts for rate in _parse(text.strip(), steps)]


def _parse(text: str, steps: int) -> list[Rate]:
    of_capacity = text.endswith("x")
    try:
        values = [value for part in text.removesuffix("x").split(",") for value in _values(part, steps)]
    except ValueError as error:
        raise ValueError(f"{text!r} is no rate: say 200, 50,100, 100..400, or 0.5..3x of the capacity") from error
    return [Rate(value, of_capacity) for value in values]


def _values(part: str, steps: int) -> list[float]:
    low, dots, high = part.partition("..")
    first, last = float(low), float(high if dots else low)
    if not (0 < first <= last < math.inf):
        raise ValueError("rates are positive, and ranges rise")
    if not dots:
        return [first]
    ratio = (last / first) ** (1 / (steps - 1))
    return [first * ratio**step for step in range(steps)]
