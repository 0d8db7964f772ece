"""From a calibrated bundle to one in int8 by the command line."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lccl.bundle import format as bundles
from lccl.data import hold_out, load_dataset
from lccl.networks import Architecture
from tests.lccl.cli.commands import PER_CLASS, failed, lccl, succeeded, write_images


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("int8")


@pytest.fixture(scope="module")
def data(place):
    return write_images(place / "colours.tar", {"train": PER_CLASS, "test": 3})


@pytest.fixture(scope="module")
def plain(place, data, random_bundle, make_table):
    """A random network whose operating points were made up."""
    bundle = random_bundle(Architecture("resnet20", classes=3))
    dataset = load_dataset(data, bundle.preprocessing)
    held = hold_out(dataset.train)
    splits = {"choose": 7, "measure": 7, "digest": held.digest, "by": held.by}
    bundle = replace(bundle, splits=splits, labels=dataset.classes, table=make_table(18, (0.1, 0.5)))
    bundles.save(bundle, place / "plain")
    return place / "plain"


@pytest.fixture(scope="module")
def quantised(place, plain, data):
    folder = Path(shutil.copytree(plain, place / "quantised"))
    output = succeeded(lccl("quantize", folder, data, "--images", 3))
    assert "exact" in output
    assert "lost (points)" in output
    return folder


@pytest.fixture(scope="module")
def calibrated(place, quantised, data):
    folder = Path(shutil.copytree(quantised, place / "calibrated"))
    succeeded(lccl("calibrate", folder, data, "--precision", "int8", "--search", 1))
    return folder


def test_quantising_adds_weights_and_what_they_lose(quantised, plain):
    before, after = bundles.load(plain), bundles.load(quantised)
    assert after.table == before.table
    assert after.int8.table is None
    assert set(after.int8.losses) == {"exact", "p50"}
    assert all(loss.images == 7 and np.isfinite(loss.drop) for loss in after.int8.losses.values())
    assert "## int8" in (quantised / "README.md").read_text()
    assert "self_test" in json.loads((quantised / "bundle.json").read_text())


def test_points_in_int8_stand_beside_those_of_fp32(calibrated, quantised):
    before, after = bundles.load(quantised), bundles.load(calibrated)
    assert after.table == before.table
    assert after.int8.table.points[0].name == "exact"
    assert after.int8.table.images == 7
    assert set(after.int8.self_test["logits"]) >= {"exact"}
    assert after.int8.calibration["layers"] == [layer.name for layer in after.shape.layers]


def test_evaluation_in_int8_reaches_what_was_stated_in_it(calibrated, data, tmp_path):
    out = tmp_path / "figures.json"
    succeeded(lccl("evaluate", calibrated, data, "--precision", "int8", "--part", "measure", "--out", out))
    figures = json.loads(out.read_text())
    assert figures["precision"] == "int8"
    assert [row["point"] for row in figures["rows"]] == [
        point.name for point in bundles.load(calibrated).int8.table.points
    ]
    for row in figures["rows"]:
        assert row["skip_reached"] == pytest.approx(row["skip_stated"], abs=1e-12)


def test_what_is_not_there_is_told(plain, quantised, data):
    failed(lccl("evaluate", quantised, data, "--precision", "int8"), "no operating points measured in int8")
    failed(lccl("calibrate", plain, data, "--precision", "int8"), "no int8 weights: quantise a bundle")
    failed(lccl("calibrate", plain, data, "--precision", "bf16"), "measured in fp32 or int8, not in 'bf16'")
    failed(lccl("quantize", plain, data, "--engine", "cuda"), "int8 runs on the engines auto, cpu, reference")


def test_other_data_and_split_convolutions_are_refused(place, plain, data, random_bundle):
    others = write_images(place / "others.tar", {"train": PER_CLASS}, seed=5)
    failed(lccl("quantize", plain, others), "not the data that the bundle was trained on")
    whole = bundles.load(plain)
    split = random_bundle(Architecture("resnet20", classes=3, split="1/2"))
    bundles.save(replace(split, splits=whole.splits, labels=whole.labels), place / "split")
    failed(lccl("quantize", place / "split", data), "split convolutions (SPConv) do not run in int8")
