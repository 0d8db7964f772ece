"""What commands made, for tests of further ones."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from lccl.bundle import format as bundles
from lccl.networks import Architecture
from tests.lccl.cli.commands import EPOCH, PER_CLASS, lccl, succeeded, write_images


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="session")
def data(place):
    return write_images(place / "colours.tar", {"train": PER_CLASS, "test": 3})


@pytest.fixture(scope="session")
def trained(place, data):
    """An LCCL network and its plain twin, each after one epoch."""
    for name, gate in (("model", "shared"), ("twin", "none")):
        succeeded(lccl("train", data, "--out", place / name, "--runs", place / "runs", "--gate", gate, *EPOCH))
    return place


@pytest.fixture(scope="session")
def calibrated(trained, data, random_bundle):
    """A random network that always names the first class: however much it skips, it loses no accuracy."""
    twin = bundles.load(trained / "twin")
    bundle = random_bundle(Architecture("resnet20", classes=3))
    bundle.network.classifier.weight.zero_()
    bundles.save(replace(bundle, splits=twin.splits, labels=twin.labels), trained / "calibrated")
    succeeded(lccl("calibrate", trained / "calibrated", data))
    return trained / "calibrated"


@pytest.fixture
def model(trained, tmp_path):
    return Path(shutil.copytree(trained / "model", tmp_path / "model"))


@pytest.fixture(scope="session")
def attached(trained, data, place):
    """An LCCL network from a file whose outputs are in another order than the folders: green, red, blue."""
    weights = load_file(trained / "twin" / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name][[1, 2, 0]]
    save_file(weights, place / "plain.safetensors")
    (place / "labels.txt").write_text("green\nred\nblue\n")
    options = ["--labels", place / "labels.txt", "--out", place / "attached", "--runs", place / "runs", *EPOCH]
    return place / "attached", succeeded(lccl("attach", place / "plain.safetensors", data, *options))


@pytest.fixture(scope="session")
def leaving(calibrated, data, place):
    out = place / "leaving"
    shape = ["--after", 2, "--after", 5, "--grid", 2, "--hidden", 8]
    recipe = ["--epochs", 2, "--batch", 8, "--threads", 1, "--engine", "reference", "--cache", place / "cache"]
    output = succeeded(lccl("sidenet", "train", calibrated, data, "--out", out, *shape, *recipe))
    assert "block 5" in output
    assert "the end" in output
    assert len(bundles.load(calibrated).table.points) > 1
    assert "operating points yet" not in output
    return out
