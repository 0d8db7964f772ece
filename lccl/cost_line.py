"""Seconds over MACs as a line that follows what ran lately: for predicting batches in serving, and jobs offline."""

from dataclasses import dataclass

LEAST = 0.1  # of the mean, which every prediction is at least


@dataclass(slots=True)
class CostLine:
    """A line by exponentially weighted moments.

    Attributes:
        memory: what an observation still weighs when the next one comes.
        ridge: how much the slope is drawn to proportionality, relative to the square of the mean.

    """

    memory: float
    ridge: float
    weight: float = 0.0
    macs: float = 0.0
    seconds: float = 0.0
    variance: float = 0.0
    covariance: float = 0.0

    def predict(self, macs: float) -> float:
        """Seconds for so many MACs; 0 before anything ran."""
        if not self.weight:
            return 0.0
        drawn = self.ridge * self.macs**2
        slope = (self.covariance + drawn * self.seconds / self.macs) / (self.variance + drawn)
        return max(self.seconds + max(slope, 0.0) * (macs - self.macs), LEAST * self.seconds)

    def learn(self, macs: float, seconds: float) -> None:
        """Enter what ran."""
        self.weight = self.memory * self.weight + 1
        step = 1 / self.weight
        off_macs, off_seconds = macs - self.macs, seconds - self.seconds
        self.macs += step * off_macs
        self.seconds += step * off_seconds
        self.variance = (1 - step) * (self.variance + step * off_macs**2)
        self.covariance = (1 - step) * (self.covariance + step * off_macs * off_seconds)
