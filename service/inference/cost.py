"""How long a batch will take: learnt from the batches that ran, linear in their MACs."""

import threading
from dataclasses import dataclass

MEMORY = 0.95  # what an observation still weighs when the next one comes
RIDGE = 0.01  # how much the slope is drawn to proportionality, relative to the square of the mean
OUTLIER = 4.0  # a batch that took this many times what was expected counts as that long and no longer
MARGIN = 2.0  # mean absolute errors that a safe prediction adds


@dataclass(slots=True)
class _Line:
    """Seconds over MACs for batches of about one size: exponentially weighted moments."""

    weight: float = 0.0
    macs: float = 0.0
    seconds: float = 0.0
    variance: float = 0.0
    covariance: float = 0.0
    error: float = 0.0

    def predict(self, macs: float) -> float:
        share = RIDGE * self.macs**2
        slope = (self.covariance + share * self.seconds / self.macs) / (self.variance + share)
        return max(self.seconds + max(slope, 0.0) * (macs - self.macs), 0.1 * self.seconds)

    def learn(self, macs: float, seconds: float) -> None:
        if self.weight:
            expected = self.predict(macs)
            seconds = min(seconds, OUTLIER * expected)
            self.error += 0.1 * (abs(seconds - expected) - self.error)
        self.weight = MEMORY * self.weight + 1
        step = 1 / self.weight
        off_macs, off_seconds = macs - self.macs, seconds - self.seconds
        self.macs += step * off_macs
        self.seconds += step * off_seconds
        self.variance = (1 - step) * (self.variance + step * off_macs**2)
        self.covariance = (1 - step) * (self.covariance + step * off_macs * off_seconds)


class CostModel:
    """Predicts the seconds of a batch from its number of images and the MACs it is expected to run.

    Learnt per model, per size (powers of two), and apart for batches that share the device with others. A size never
    seen is taken to cost per MAC what the nearest one does.

    Any thread may predict while one learns.
    """

    def __init__(self) -> None:
        self._lines: dict[str, dict[tuple[bool, int], _Line]] = {}
        self._lock = threading.Lock()

    def learn(self, model: str, images: int, macs: float, seconds: float, *, sharing: bool = False) -> None:
        """Enter a batch that ran."""
        with self._lock:
            lines = self._lines.setdefault(model, {})
            lines.setdefault((sharing, images.bit_length()), _Line()).learn(macs, seconds)

    def predict(self, model: str, images: int, macs: float, *, safe: bool = False, sharing: bool = False) -> float:
        """Seconds for a batch; 0 for a model never seen. A safe prediction adds twice the mean error so far."""
        with self._lock:
            lines = self._lines.get(model)
            if not lines:
                return 0.0
            size = images.bit_length()
            line = (
                lines.get((sharing, size))
                or lines[min(lines, key=lambda one: (one[0] is not sharing, abs(one[1] - size)))]
            )
            return line.predict(macs) + (MARGIN * line.error if safe else 0.0)

    def forget(self, model: str) -> None:
        """Drop what was learnt of a model that is gone."""
        with self._lock:
            self._lines.pop(model, None)
