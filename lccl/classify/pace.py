"""The least sparse operating point with which the rest of a job is predicted to end in time."""

import math
from collections.abc import Sequence

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
        self._weight = self._macs = self._seconds = self._variance = self._covariance = 0.0

    def choose(self, images_left: int, now: float) -> OperatingPoint:
        """The point for the next batch; the sparsest, where none is predicted to do."""
        allowed = self.ends_at - now
        for point in self.points:
            if self._predict(point.gated_macs) * images_left <= allowed:
                return point
        return self.points[-1]

    def learn(self, point: OperatingPoint, images: int, seconds: float) -> None:
        """Enter a batch: how long it took from the end of the one before to its own."""
        self._weight = MEMORY * self._weight + 1
        step = 1 / self._weight
        off_macs, off_seconds = point.gated_macs - self._macs, seconds / images - self._seconds
        self._macs += step * off_macs
        self._seconds += step * off_seconds
        self._variance = (1 - step) * (self._variance + step * off_macs**2)
        self._covariance = (1 - step) * (self._covariance + step * off_macs * off_seconds)

    def _predict(self, macs: float) -> float:
        """Seconds of an image; 0 before anything ran."""
        if not self._weight:
            return 0.0
        drawn = RIDGE * self._macs**2
        slope = (self._covariance + drawn * self._seconds / self._macs) / (self._variance + drawn)
        return max(self._seconds + max(slope, 0.0) * (macs - self._macs), 0.0)
