"""Run options for tests: one setting for a whole batch."""

from lccl.plan.run import RunOptions, Setting


def uniform(count, thresholds, exit_confidence=(), want_masks=False):
    """The same thresholds and exit confidences for each of ``count`` images."""
    return RunOptions.of([Setting(tuple(thresholds), tuple(exit_confidence))] * count, want_masks=want_masks)
