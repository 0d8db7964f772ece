"""How long a batch will take: learnt from the batches that ran, linear in their MACs."""

import threading
from dataclasses import dataclass, field
from functools import partial

from lccl.cost_line import CostLine

MEMORY = 0.95  # what an observation still weighs when the next one comes
RIDGE = 0.01  # how much the slope is drawn to proportionality, relative to the square of the mean
OUTLIER = 4.0  # a batch that took this many times what was expected counts as that long and no longer
MARGIN = 2.0  # mean absolute errors that a safe prediction adds


@dataclass(slots=True)
class _Line:
    """Seconds over MACs for batches of about one size, and how far predictions were off on average."""

    line: CostLine = field(default_factory=partial(CostLine, MEMORY, RIDGE))
    error: float = 0.0

    def learn(self, macs: float, seconds: float) -> None:
        if self.line.weight:
            expected = self.line.predict(macs)
            seconds = min(seconds, OUTLIER * expected)
            self.error += 0.1 * (abs(seconds - expected) - self.error)
        self.line.learn(macs, seconds)


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
            return line.line.predict(macs) + (MARGIN * line.error if safe else 0.0)

    def forget(self, model: str) -> None:
        """Drop what was learnt of a model that is gone."""
        with self._lock:
            self._lines.pop(model, None)
