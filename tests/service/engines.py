"""Engines around a real one that stand still, are slow, or fail; stand-ins for devices that do."""

from __future__ import annotations

import threading
import time

import numpy as np


class Around:
    """All of another engine."""

    def __init__(self, engine):
        self._engine = engine

    def __getattr__(self, name):
        return getattr(self._engine, name)


class Gated(Around):
    """Waits for a signal before it runs, or fails."""

    def __init__(self, engine):
        super().__init__(engine)
        self.go, self.fail = threading.Event(), False
        self.entered, self.ran = 0, []

    def run(self, images, options, **how):
        self.entered += 1
        self.go.wait(20)
        if self.fail:
            raise RuntimeError("out of memory")
        self.ran.append(len(images))
        return self._engine.run(images, options, **how)


class Slow(Around):
    """Takes a time for every image in proportion to what the test models' table says it does not skip."""

    def __init__(self, engine, seconds):
        super().__init__(engine)
        self.seconds, self.batches = seconds, []

    def run(self, images, options, **how):
        self.batches.append(len(images))
        skipped = np.interp(options.thresholds[:, 0], (0.0, 0.1, 0.2, 0.3), (0.1, 0.25, 0.4, 0.6))
        time.sleep(self.seconds * float((1 - skipped).sum()))
        return self._engine.run(images, options, **how)


class Poisoned(Around):
    """Fails on every batch that holds a black image."""

    def __init__(self, engine, error):
        super().__init__(engine)
        self._error, self.batches = error, []

    def run(self, images, options, **how):
        self.batches.append(len(images))
        if (images == 0).all(axis=(1, 2, 3)).any():
            raise self._error("device lost")
        return self._engine.run(images, options, **how)


class Wrong(Around):
    """Answers, but not what it should."""

    def run(self, images, options, **how):
        output = self._engine.run(images, options, **how)
        output.logits[:] = np.roll(output.logits, 1, axis=1)
        return output


def wait_for(condition):
    """Wait for something that happens soon."""
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")
