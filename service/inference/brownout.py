"""Brown-out before black-out: how far images that may be served sparser are, while the queue is too long."""

RISE_S = 0.25  # from nothing to the floor, while the wait is past its target
FALL_S = 2.5  # back, while it is under half of it
LONGEST_STEP_S = 0.1  # what the time between two looks counts as, at most, for rising


class BrownOut:
    """One level for all: 0 serves what was asked for, 1 the sparsest setting that each client allowed.

    It rises while the predicted wait is past the target and falls, more slowly, once it is under half of it.
    In between it stays: raising the level shortens the queue, and falling at once would only bring it back.

    Args:
        target_s: the wait that is thought too long; infinity never browns out.

    """

    def __init__(self, target_s: float) -> None:
        self._target_s, self.level, self._looked_at = target_s, 0.0, 0.0

    def look(self, wait_s: float, now: float) -> float:
        """Follow the wait of images, seen or predicted; returns the level."""
        elapsed = now - self._looked_at
        self._looked_at = now
        if wait_s > self._target_s:
            self.level = min(1.0, self.level + min(elapsed, LONGEST_STEP_S) / RISE_S)
        elif wait_s < self._target_s / 2:
            self.level = max(0.0, self.level - elapsed / FALL_S)
        return self.level
