"""One rule for all commands: a network's name is the network, a folder called like it is written with a separator."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lccl.bench.workload import find_model
from lccl.bundle import format as bundles
from lccl.cli.tune import _lowered
from lccl.errors import BundleError
from lccl.networks import Architecture
from lccl.plan.geometry import shape_of


@pytest.fixture
def folder(random_bundle, tmp_path, monkeypatch):
    """A folder that holds a resnet32 of three classes, and is called resnet20; it lies in the current one."""
    bundles.save(random_bundle(Architecture("resnet32", classes=3)), tmp_path / "resnet20")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "resnet20"


@pytest.mark.parametrize(("word", "layers"), [("resnet20", 18), ("./resnet20", 30), ("{folder}", 30)])
def test_a_name_means_the_network_for_every_command(folder, word, layers):
    word = word.format(folder=folder)
    assert len(find_model(word).network.skip_convs) == layers
    assert len(shape_of(_lowered(word)).layers) == layers


def test_other_folders_need_no_separator(folder):
    shutil.move(folder, "mine")
    assert bundles.bundle_folder("mine") == Path("mine")


def test_what_is_neither_is_refused():
    with pytest.raises(
        BundleError, match="'resnet21' is neither a bundle's folder nor a network: use one of resnet20,"
    ):
        bundles.bundle_folder("resnet21")
