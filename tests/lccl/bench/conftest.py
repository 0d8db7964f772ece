"""Workloads that the benchmark's tests share, and a runner that takes made-up times."""

from dataclasses import replace

import numpy as np
import pytest

from lccl.bench.images import Images, noise_images
from lccl.bench.turns import Runner
from lccl.bench.workload import find_model, make_workload
from lccl.bundle.self_test import draw as draw_smooth

SIXTEEN = noise_images(16, 32)
# To a SideNet's means images of noise all look the same.
SMOOTH = Images("smooth", (0.75 * draw_smooth(3, 16, 32, 32) + 0.25 * SIXTEEN.images).astype(np.uint8))


@pytest.fixture(scope="session")
def workload():
    """Fresh weights, 16 images in four batches, a quarter and 0.7 skipped."""
    return make_workload(find_model("resnet20"), SIXTEEN, 4, (0.25, 0.7))


@pytest.fixture(scope="session")
def int8_workload():
    """The same network quantised, half skipped."""
    return make_workload(find_model("resnet20", precision="int8"), SIXTEEN, 4, (0.5,))


@pytest.fixture(scope="session")
def early_workload(early_folder):
    """A bundle with two early exits between two operating points and at one; more images leave early at the second."""
    model = find_model(str(early_folder / "early"))
    confident = ((1.0, 1.0), (0.75, 0.85), (0.66, 0.7), (0.6, 0.6))
    points = tuple(
        replace(point, setting=replace(point.setting, exit_confidence=each))
        for point, each in zip(model.table.points, confident, strict=True)
    )
    model = replace(model, table=replace(model.table, points=points))
    return make_workload(model, SMOOTH, 4, (0.3, 0.4))


class FakeRunner(Runner):
    """Takes ``seconds`` for every batch, and notes its turns."""

    def __init__(self, seconds=0.0, batches=2, turns=None):
        self.seconds, self.batches, self.turns = seconds, batches, [] if turns is None else turns

    def time(self, setting, repeats):
        self.turns.append(setting)
        return np.full((repeats, self.batches), self.seconds)

    def profile(self, setting, index, repeats):
        self.turns.append((setting, index))
        return np.array([self.seconds, 10.0 * index])


class NoStages:
    """Notes how far every stage has come."""

    def __init__(self):
        self.begun = {}

    def __call__(self, what, turns):
        count = self.begun[what] = [0, turns]

        def advance():
            count[0] += 1

        return advance
