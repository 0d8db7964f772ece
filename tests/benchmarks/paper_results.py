"""Results of the paper's rows, made up."""

from __future__ import annotations

import numpy as np

from benchmarks.paper.rows import Budget, Result


def result(run, right, seed=0, zeros=0.3, macs=3.00449e7, speed_up=0.25, epochs=20, images="same"):
    return Result(run, seed, Budget("toy", epochs, 5000), images, np.array(right, bool), zeros, macs, speed_up)


def images(count, wrong):
    return np.arange(count) >= wrong


TWIN, ROW = "resnet20-pre-plain", "resnet20-shared"
