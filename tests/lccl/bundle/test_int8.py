"""A bundle's int8 comes back as it was saved, leaves bundles without it alone, and is refused where it does not fit."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save
from safetensors.torch import save as save_torch

from lccl.bundle import format as bundles
from lccl.bundle.int8 import Loss
from lccl.bundle.self_test import record
from lccl.compiler import compile_network
from lccl.errors import BundleError, EngineError
from lccl.networks import Architecture
from lccl.operating_points import Interval
from lccl.plan.run import RunOptions
from tests.lccl.int8_plans import with_int8

LOSS = Loss(0.1, Interval(-0.2, 0.4), (0.9, 0.899), (0.5, 0.501), 5000)
DESCRIPTION, WEIGHTS = "bundle.json", "int8.safetensors"


@pytest.fixture(scope="module")
def quantised(random_bundle, make_table):
    bundle = with_int8(random_bundle(), make_table(18, (0.05, 0.3, 0.5)))
    own = record(bundle.in_precision("int8"), compile_network(bundle, precision="int8", engine="reference"))
    return replace(bundle, int8=replace(bundle.int8, self_test=own, losses={"exact": LOSS}))


@pytest.fixture(scope="module")
def saved(quantised, tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8") / "model"
    bundles.save(quantised, folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def edit(folder, change):
    """Change the description, with the digest that belongs to it."""
    description = json.loads((folder / DESCRIPTION).read_text())
    change(description)
    rest = {name: value for name, value in description.items() if name != "digest"}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    (folder / DESCRIPTION).write_text(json.dumps(rest | {"digest": hashlib.sha256(canonical.encode()).hexdigest()}))


def edit_tensors(folder, change):
    """Change the integer weights, with the hash that belongs to them."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    content = save(tensors)
    (folder / WEIGHTS).write_bytes(content)
    edit(folder, lambda description: description["files"].update({WEIGHTS: hashlib.sha256(content).hexdigest()}))


def refused(folder, match):
    with pytest.raises(BundleError, match=match) as caught:
        bundles.load(folder)
    assert "\n" not in str(caught.value)


# there and back


def test_it_comes_back_as_it_was_saved(quantised, saved):
    loaded, own = bundles.load(saved), quantised.int8
    assert loaded.table == quantised.table
    for name in ("table", "calibration", "self_test", "losses"):
        assert getattr(loaded.int8, name) == getattr(own, name)
    assert loaded.int8.quantisation.scales == own.quantisation.scales
    assert set(loaded.int8.quantisation.weights) == set(own.quantisation.weights)
    for name, weight in loaded.int8.quantisation.weights.items():
        for part in ("weight", "scale", "correction"):
            np.testing.assert_array_equal(getattr(weight, part), getattr(own.quantisation.weights[name], part))


def test_weights_are_small(saved):
    assert (saved / WEIGHTS).stat().st_size < 0.35 * (saved / "model.safetensors").stat().st_size


def test_a_bundle_without_it_is_written_as_before(random_bundle, quantised, tmp_path):
    bundle, folder = random_bundle(), tmp_path / "model"
    bundles.save(bundle, folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert json.loads(before[DESCRIPTION])["format_version"] == 1
    assert not {"int8", "tables"} & set(json.loads(before[DESCRIPTION]))
    bundles.save(quantised, folder)
    assert json.loads((folder / DESCRIPTION).read_text())["format_version"] == 2
    bundles.save(bundles.load(folder), folder)
    bundles.save(replace(bundles.load(folder), int8=None), folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_loaded_bundle_runs_to_the_same_bits(quantised, saved, draw_images):
    options = RunOptions.of([quantised.int8.table.points[1].setting] * 3)
    engines = [compile_network(one, precision="int8", engine="reference") for one in (quantised, bundles.load(saved))]
    first, second = (engine.run(draw_images(3), options) for engine in engines)
    np.testing.assert_array_equal(first.logits, second.logits)
    np.testing.assert_array_equal(first.kept, second.kept)


# the points of a precision


def test_points_are_those_of_the_precision(quantised):
    assert quantised.in_precision("fp32") is quantised
    own = quantised.in_precision("int8")
    assert (own.table, own.calibration, own.self_test) == (
        quantised.int8.table, quantised.int8.calibration, quantised.int8.self_test,
    )  # fmt: skip


def test_a_precision_without_a_table_is_refused(random_bundle, quantised):
    with pytest.raises(BundleError, match="lccl quantize and then lccl calibrate --precision int8"):
        random_bundle().in_precision("int8")
    uncalibrated = replace(quantised, int8=replace(quantised.int8, table=None))
    with pytest.raises(BundleError, match="no operating points measured in int8: run lccl calibrate"):
        uncalibrated.in_precision("int8")


def test_fresh_points_replace_those_of_their_precision_alone(quantised, make_table):
    table = make_table(18, (0.1, 0.2))
    both = quantised.with_points("int8", table, {"layers": []})
    assert (both.table, both.int8.table, both.int8.calibration) == (quantised.table, table, {"layers": []})
    plain = quantised.with_points("fp32", table, {})
    assert plain.table == table
    assert plain.int8.losses == {}  # at points that are gone
    assert (plain.int8.quantisation, plain.int8.table) == (quantised.int8.quantisation, quantised.int8.table)


# what is refused


def test_damaged_weights_are_refused(folder):
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS).write_bytes(content)
    refused(folder, r"int8.safetensors is damaged or foreign: its hash does not match")


def test_missing_weights_are_refused(folder):
    (folder / WEIGHTS).unlink()
    refused(folder, r"int8.safetensors cannot be read")


@pytest.mark.parametrize(
    ("scale", "complaint"),
    [
        (0, "the scale of stem is 0: it must be finite and above 0"),
        (-0.5, "the scale of stem is -0.5"),
        ("1", "its scales or losses are not readable: .* is no number"),
        (True, "its scales or losses are not readable: .* is no number"),
        (None, "its scales or losses are not readable: .* is no number"),
        (10**400, "its scales or losses are not readable: int too large"),
        (1e-40, "the scale of stem is 1e-40: it must be finite and above 0 in float32"),
        (1e37, "the scale of stem is 1e.37"),
        (0.123, "stem, blocks.0.conv2.* need one scale"),
    ],
)
def test_scales_that_are_none_are_refused(folder, scale, complaint):
    edit(folder, lambda description: description["int8"]["scales"].update({"stem": scale}))
    refused(folder, complaint)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999"])
def test_scales_that_are_not_finite_are_refused(folder, text):
    def change(description):
        description["int8"]["scales"]["stem"] = float(text)

    edit(folder, change)
    refused(folder, "the scale of stem is (nan|inf): it must be finite")


def test_scales_that_are_missing_or_of_nothing_are_refused(folder):
    edit(folder, lambda description: description["int8"]["scales"].pop("blocks.0.conv1"))
    refused(folder, "lacks a scale of .*blocks.0.conv1")
    edit(folder, lambda description: description["int8"]["scales"].update({"blocks.0.conv1": 0.1, "other": 0.1}))
    refused(folder, "other.* no map of the network")


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("stem.scale", np.zeros(16, np.float32), "stem: its scales must lie above 0"),
        ("stem.scale", np.full(16, np.nan, np.float32), "stem: its scales must be finite"),
        ("stem.scale", np.ones(15, np.float32), r"stem: its scales must be float32 \[16\]"),
        ("stem.correction", np.ones((16, 1), np.float32), r"stem: its corrections must be float32 \[16\]"),
        ("stem.weight", np.zeros((16, 3, 3, 3), np.float32), "stem: its weights must be int8"),
        ("stem.weight", np.zeros((16, 3, 1, 1), np.int8), r"no weights of stem in the shape \[16, 3, 3, 3\]"),
        ("stem.weight", None, "lacks .*stem.weight"),
        ("other.scale", np.ones(1, np.float32), "lacks .*other.weight"),
        ("stem.bias", np.ones(1, np.float32), "unknown tensor .*stem.bias"),
    ],
)
def test_weights_that_do_not_fit_are_refused(folder, name, value, complaint):
    def change(tensors):
        tensors.pop(name, None)
        if value is not None:
            tensors[name] = value

    edit_tensors(folder, change)
    refused(folder, complaint)


def test_tensors_of_other_types_are_refused(folder):
    tensors = {name: torch.from_numpy(value) for name, value in load_file(folder / WEIGHTS).items()}
    content = save_torch(tensors | {"stem.scale": tensors["stem.scale"].bfloat16()})
    (folder / WEIGHTS).write_bytes(content)
    edit(folder, lambda description: description["files"].update({WEIGHTS: hashlib.sha256(content).hexdigest()}))
    refused(folder, r"holds int8 and float32 alone, but not in \['stem.scale'\]")


def test_weights_of_another_network_are_refused(folder, random_bundle, tmp_path):
    other = with_int8(random_bundle(Architecture("resnet20", "pre")))
    bundles.save(other, tmp_path / "other")
    edit_tensors(folder, lambda tensors: tensors.update(load_file(tmp_path / "other" / WEIGHTS)))
    refused(folder, "is no part of the network")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda description: description.pop("int8"), "files must list exactly model.safetensors"),
        (lambda description: description["files"].pop(WEIGHTS), "files must list exactly model.safetensors and int8"),
        (lambda description: description.update(int8=[]), "int8 and tables are objects"),
        (lambda description: description.update(tables={"bf16": {}}), "there are tables of int8 alone"),
        (lambda description: description["int8"].update(scales=[]), "int8 holds scales"),
        (lambda description: description["int8"].pop("self_test"), "int8 holds scales"),
        (lambda description: description["int8"].update(losses={"exact": {}}), "losses are not readable"),
        (lambda description: description["int8"]["losses"]["exact"].update(drop="1"), "drop is '1', which is no float"),
        (lambda description: description["tables"].update(int8={}), "operating points are not readable"),
        (lambda description: description["int8"].update(self_test={"seed": -1}), "unreadable self-test"),
        (lambda description: description.update(format_version=1), "format version 2 go together"),
    ],
)
def test_descriptions_that_contradict_themselves_are_refused(folder, change, complaint):
    edit(folder, change)
    refused(folder, complaint)


def test_a_table_of_another_network_is_refused(folder, make_table):
    edit(folder, lambda description: description["tables"].update(int8=make_table(17).to_json()))
    refused(folder, "it gives 17 thresholds for 18 gated convolutions")


def test_int8_without_weights_is_refused(random_bundle):
    for model in (random_bundle(), random_bundle().network):
        with pytest.raises(EngineError, match="no int8 weights: quantise a bundle with lccl quantize"):
            compile_network(model, precision="int8", engine="reference")
