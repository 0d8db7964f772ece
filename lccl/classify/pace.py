"""The least sparse operating point with which the rest of a job is predicted to end in time."""

import math
from collections.abc import Sequence

from lccl.cost_line import CostLine
from lccl.operating_points import OperatingPoint

MEMORY = 0.8  # what a batch still weighs when the next one comes
RIDGE = 0.05  # how much the slope is drawn to proportionality, relative to the square of the mean


class Pace:
    """Learns seconds over MACs from the batches that ran, as a line that forgets.

    Args:
        points: to choose from, from the one wanted to ever sparser ones.
        ends_at: monotone seconds by which the job is to end.

    """

    def __init__(self, points: Sequence[OperatingPoint], ends_at: float = math.inf) -> None:
        self.points, self.ends_at = tuple(points), ends_at
        self._line = CostLine(MEMORY, RIDGE)

    def choose(self, images_left: int, now: float) -> OperatingPoint:
        """The point for the next batch; the sparsest, where none is predicted to do."""
        allowed = self.ends_at - now
        for point in self.points:
            if self._line.predict(point.gated_macs) * images_left <= allowed:
                return point
        return self.points[-1]

    def learn(self, point: OperatingPoint, images: int, seconds: float) -> None:
        """Enter a batch: how long it took from the end of the one before to its own."""
        self._line.learn(point.gated_macs, seconds / images)
