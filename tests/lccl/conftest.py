"""Fixtures of the library's tests: images, controls and data sets drawn here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lccl.compiler import compile_network
from lccl.data import HeldOut, Split
from lccl.networks.sidenet import SideNetSpec
from lccl.plan.run import RunOptions
from lccl.preprocessing import Preprocessing
from lccl.train.sidenets import SideNetRecipe, fit_sidenets
from tests.lccl.networks import gated


@pytest.fixture(scope="session")
def draw_images():
    """``images(3, size=32, seed=0)``: uint8 [3, 32, 32, 3]."""

    def draw(count, size=32, seed=0):
        return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)

    return draw


@pytest.fixture(scope="session")
def square():
    """``square(32)``: preprocessing for that size, with a different mean and deviation per channel."""

    def make(size):
        return Preprocessing(size, size, (0.5, 0.48, 0.52), (0.25, 0.24, 0.26))

    return make


@pytest.fixture(scope="session")
def rows():
    """``rows(thresholds [N, L])``: options with these thresholds, an image a row, and no exits."""

    def make(thresholds, **fields):
        thresholds = np.asarray(thresholds, dtype=np.float32)
        return RunOptions(thresholds, **{"exit_confidence": np.zeros((len(thresholds), 0))} | fields)

    return make


@pytest.fixture(scope="session")
def toy_data():
    """``toy_data(64)``: that many images to train on and 24 in each held-out part; three classes told by colour."""

    def draw(train=64, held=24, seed=0):
        random = np.random.default_rng(seed)
        count = train + 2 * held
        labels = random.integers(0, 3, count)
        images = random.integers(0, 128, (count, 32, 32, 3), dtype=np.uint8)
        images[np.arange(count), :, :, labels] += 100
        parts = np.split(np.arange(count), [train, train + held])
        whole = Split(images, labels.astype(np.int64))
        return HeldOut(*(whole.subset(part) for part in parts), digest="toy")

    return draw


@pytest.fixture(scope="session")
def leaving_bundle(random_bundle, make_table, toy_data):
    """``leaving_bundle(Architecture(...))``: a random bundle for ``toy_data`` with two SideNets fitted on it."""

    def make(architecture, **recipe):
        bundle = replace(random_bundle(replace(architecture, classes=3)), splits={"digest": "toy"})
        if bundle.network.skip_convs:
            bundle = replace(bundle, table=make_table(18, (0.0, 0.2, 0.4, 0.6)))
        specs = [SideNetSpec(2, 2, 8), SideNetSpec(5, 1, 8)]
        return fit_sidenets(bundle, specs, toy_data(), SideNetRecipe(**{"batch": 16} | recipe), ignored, "reference")

    def ignored(*_):
        pass

    return make


@pytest.fixture(scope="session")
def gated_network(square):
    """``gated_network(Architecture(...), pixels, thresholds, blocks=None)``: see :func:`tests.lccl.networks.gated`."""

    def make(architecture, pixels, thresholds, blocks=None):
        return gated(architecture, pixels, thresholds, square(pixels.shape[1]), blocks)

    return make


@pytest.fixture(scope="session")
def make_reference(square):
    """``make_reference(network, precision="fp64", size=32)``: the reference engine of a network."""

    def make(network, precision="fp64", size=32):
        return compile_network(network, precision=precision, engine="reference", preprocessing=square(size))

    return make
