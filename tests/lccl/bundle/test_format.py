"""A bundle comes back from disk as it was saved, and whatever is wrong with one is told in one BundleError."""

import hashlib
import json
import pickle
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save as tensor_bytes

import lccl
from lccl.bundle import format as bundles
from lccl.bundle.training_record import AccuracyRecord, TrainingRecord
from lccl.compiler import compile_network
from lccl.errors import BundleError
from lccl.networks import Architecture
from tests.lccl.settings import uniform

DESCRIPTION, WEIGHTS = "bundle.json", "model.safetensors"


@pytest.fixture
def folder(models_folder, tmp_path):
    return Path(shutil.copytree(models_folder / "small", tmp_path / "model"))


def read(folder):
    return json.loads((folder / DESCRIPTION).read_text())


def write(folder, description):
    """Write a description with the digest that belongs to it: SHA-256 over its sorted, unspaced ASCII form."""
    rest = {name: value for name, value in description.items() if name != "digest"}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    (folder / DESCRIPTION).write_text(json.dumps(rest | {"digest": digest}))


def edit(folder, **changes):
    write(folder, read(folder) | changes)


def write_weights(folder, content):
    """Write weights with the hash that belongs to them, so that only what they hold can be wrong."""
    (folder / WEIGHTS).write_bytes(content)
    edit(folder, files={WEIGHTS: hashlib.sha256(content).hexdigest()})


def refused(folder, match):
    with pytest.raises(BundleError, match=match) as caught:
        bundles.load(folder)
    assert "\n" not in str(caught.value)


# there and back


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture("resnet20"),
        Architecture("resnet20", "pre", "pointwise"),
        Architecture("resnet20", gate="grouped:4", classes=7),
        Architecture("resnet20", gate="none"),
        Architecture("resnet18", classes=5),
        Architecture("resnet164", classes=100),
        Architecture("wrn-16-4", placement="bef-aft", gate_norm=False),
        Architecture("resnet20", gate="none", split="1/2"),
        Architecture("resnet20", "pre", split="1/4"),
    ],
)
def test_a_bundle_comes_back_as_it_was_saved(architecture, random_bundle, tmp_path):
    saved = replace(
        random_bundle(architecture),
        splits={"choose": 1, "measure": 2, "digest": "ab"},
        training=TrainingRecord(epochs=({"loss": 0.5},), test=AccuracyRecord(9, 0.5), more={"record": {"seed": 1}}),
        calibration={"layers": ["a", "ü"]},
        version="3",
    )
    digest = bundles.save(saved, tmp_path / "model")
    loaded = bundles.load(tmp_path / "model")
    state, expected = loaded.network.state_dict(), saved.network.state_dict()
    assert all(torch.equal(state[name], value) for name, value in expected.items() if "num_batches" not in name)
    assert loaded.digest == digest == read(tmp_path / "model")["digest"]
    for name in ("architecture", "labels", "preprocessing", "table", "splits", "training", "calibration", "version"):
        assert getattr(loaded, name) == getattr(saved, name)


def test_a_bundle_older_than_placements_bare_gates_and_splits_loads(bundle, folder):
    architecture = read(folder)["architecture"]
    edit(folder, architecture={name: architecture[name] for name in ("name", "form", "gate", "classes")})
    loaded = bundles.load(folder)
    assert loaded.architecture == bundle.architecture
    assert torch.equal(loaded.network.classifier.weight, bundle.network.classifier.weight)


def test_the_self_test_of_a_bundle_before_version_0_2_is_read(folder):
    recorded = {"seed": 3, "logits": {"exact": [[0.5] * 10]}}
    edit(folder, canary=recorded)
    description = read(folder)
    write(folder, {name: value for name, value in description.items() if name != "self_test"})
    assert bundles.load(folder).self_test == recorded


def test_a_loaded_network_is_ready_to_run(bundle, folder, draw_images):
    loaded = bundles.load(folder)
    options = uniform(2, [0.2] * 18)
    logits = [compile_network(one).run(draw_images(2), options).logits for one in (bundle, loaded)]
    assert np.array_equal(*logits)
    assert not loaded.network.training
    assert not any(parameter.requires_grad for parameter in loaded.network.parameters())


def test_the_same_bundle_has_the_same_digest(bundle, tmp_path):
    assert bundles.save(bundle, tmp_path / "a") == bundles.save(bundle, tmp_path / "b")


@pytest.mark.parametrize(
    "change",
    [{"version": "2"}, {"labels": tuple("abcdefghij")}, {"training": TrainingRecord(more={"seed": 1})}],
)
def test_the_digest_covers_the_description(bundle, tmp_path, change):
    assert bundles.save(bundle, tmp_path / "a") != bundles.save(replace(bundle, **change), tmp_path / "b")


def test_the_digest_covers_the_weights(bundle, tmp_path):
    before = bundles.save(bundle, tmp_path)
    bundle.network.classifier.bias[0] += 1
    assert bundles.save(bundle, tmp_path) != before


def test_saving_over_a_bundle_leaves_nothing_else(bundle, folder):
    bundles.save(replace(bundle, version="2"), folder)
    assert bundles.load(folder).version == "2"
    assert sorted(file.name for file in folder.iterdir()) == [DESCRIPTION, WEIGHTS]


# files


def test_a_missing_folder_is_refused(tmp_path):
    refused(tmp_path / "nowhere", "cannot be read: No such file")


@pytest.mark.parametrize("name", [DESCRIPTION, WEIGHTS])
def test_a_missing_file_is_refused(folder, name):
    (folder / name).unlink()
    refused(folder, f"{name} cannot be read: No such file")


@pytest.mark.parametrize("name", [DESCRIPTION, WEIGHTS])
def test_a_folder_in_a_files_place_is_refused(folder, name):
    (folder / name).unlink()
    (folder / name).mkdir()
    refused(folder, f"{name} cannot be read: Is a directory")


def test_a_description_beyond_the_limit_is_refused_unread(folder, monkeypatch):
    monkeypatch.setattr(bundles, "MAX_DESCRIPTION_BYTES", 1000)
    refused(folder, "larger than")


def test_weights_beyond_the_limit_are_refused_unread(folder, monkeypatch):
    monkeypatch.setattr(bundles, "MAX_WEIGHTS_BYTES", 1000)
    refused(folder, "larger than")


# the description


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"{}}", b"{'format': 1}", b'{"format": ' + b"9" * 5000 + b"}"]
)
def test_a_description_that_is_no_json_is_refused(folder, content):
    (folder / DESCRIPTION).write_bytes(content)
    refused(folder, "not readable JSON")


@pytest.mark.parametrize(
    "content", [b"[]", b"null", b'"lccl-bundle"', b"{}", b'{"format": "other"}', b'{"format": ["lccl-bundle"]}']
)
def test_json_of_something_else_is_refused(folder, content):
    (folder / DESCRIPTION).write_bytes(content)
    refused(folder, "does not describe an LCCL bundle")


@pytest.mark.parametrize("version", [0, 3, "1", None])
def test_another_format_version_is_refused(folder, version):
    edit(folder, format_version=version)
    refused(folder, "has format version")


def test_deeply_nested_json_is_refused(folder):
    """However deep: somewhere below the interpreter's limit the reader passes and only the digest gives up."""
    start = '{"format": "lccl-bundle", "format_version": 1, "deep": '
    for depth in (100_000, *range(sys.getrecursionlimit() - 200, sys.getrecursionlimit())):
        (folder / DESCRIPTION).write_text(start + "[" * depth + "]" * depth + "}")
        refused(folder, "not readable JSON|was edited")


def test_a_record_of_too_many_earlier_runs_is_refused(folder):
    record = {}
    for _ in range(300):
        record = {"earlier": {"digest": "", "training": record}}
    edit(folder, training=record)
    refused(folder, "not usable")


def test_an_edited_description_is_refused(folder):
    file = folder / DESCRIPTION
    file.write_text(file.read_text().replace('"accuracy": 0.9,', '"accuracy": 0.99,', 1))
    refused(folder, "damaged or was edited")


@pytest.mark.parametrize("digest", [None, "", "0" * 64, 5])
def test_a_wrong_digest_is_refused(folder, digest):
    (folder / DESCRIPTION).write_text(json.dumps(read(folder) | {"digest": digest}))
    refused(folder, "damaged or was edited")


@pytest.mark.parametrize(
    "name",
    [
        "architecture",
        "labels",
        "preprocessing",
        "operating_points",
        "splits",
        "training",
        "calibration",
        "files",
        "version",
    ],
)
def test_a_description_without_one_of_its_parts_is_refused(folder, name):
    write(folder, {key: value for key, value in read(folder).items() if key != name})
    refused(folder, f"lacks '{name}'")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"labels": ["cat"] * 9}, "names 9 labels for 10 classes"),
        ({"labels": ["cat"] * 11}, "names 11 labels for 10 classes"),
        ({"labels": "0123456789"}, "list of texts"),
        ({"labels": list(range(10))}, "list of texts"),
        ({"labels": None}, "list of texts"),
        ({"labels": ["\ud800"] + ["cat"] * 9}, "labels or a version that are no text"),
        ({"version": "\udfff"}, "labels or a version that are no text"),
        ({"version": 1}, "version is a text"),
        ({"self_test": {"seed": 1, "logits": {"exact": [[10**400] * 10]}}}, "unreadable self-test"),
        ({"splits": []}, "splits and calibration are objects"),
        ({"calibration": "x"}, "splits and calibration are objects"),
        ({"training": None}, "None is no object"),
        ({"training": {"test": {"images": "9", "accuracy": 0.5}}}, "images is '9', which is no int"),
        ({"training": {"sidenets": {"exits": 5}}}, "exits is 5, which is no tuple"),
        ({"training": {"teacher": {"digest": ""}}}, "accuracy"),
        ({"files": {}}, "exactly model.safetensors"),
        ({"files": [WEIGHTS]}, "exactly model.safetensors"),
        ({"files": {WEIGHTS: "", "../../etc/passwd": ""}}, "exactly model.safetensors"),
        ({"files": {WEIGHTS: None}}, "damaged or foreign"),
        ({"architecture": {}}, "not usable"),
        ({"architecture": None}, "not usable"),
        ({"preprocessing": {"size": 32}}, "not usable"),
        ({"operating_points": {"points": [], "images": 1}}, "starts with exact"),
        ({"operating_points": None}, "not readable"),
    ],
)
def test_a_description_with_a_wrong_part_is_refused(folder, changes, match):
    edit(folder, **changes)
    refused(folder, match)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", "resnet51"), ("form", "both"), ("form", "auto"), ("gate", "grouped:0"), ("classes", 1),
        ("placement", "bef-aft"), ("gate_norm", "yes"),
        ("gate", "grouped:3"),  # does not divide 16 channels
        ("split", "0.5"), ("split", "2/1"), ("split", 0.5), ("split", None), ("split", True), ("split", ["1/2"]),
        ("split", "1/" + "9" * 9000), ("split", "999/1"),
        ("split", "1/100"),  # leaves a group no channel
    ],
)  # fmt: skip
def test_an_architecture_that_cannot_be_built_is_refused(folder, name, value):
    edit(folder, architecture=read(folder)["architecture"] | {name: value})
    refused(folder, "not usable")


def test_weights_of_a_whole_network_do_not_fit_a_split_one(folder):
    edit(folder, architecture=read(folder)["architecture"] | {"split": "1/2"})
    refused(folder, "does not fit its architecture")


def test_a_block_form_that_the_network_lacks_is_refused(folder):
    edit(folder, architecture=Architecture("resnet18").to_json() | {"form": "pre"})
    refused(folder, "not usable")


def test_a_wrong_number_of_thresholds_is_refused(folder, make_table):
    edit(folder, operating_points=make_table(17).to_json())
    refused(folder, "gives 17 thresholds for 18 gated convolutions")


def test_the_normalisation_set_of_a_bundle_before_version_0_2_is_read(bundle, folder):
    table = read(folder)["operating_points"]
    for point in table["points"]:
        point["norm_set"] = 0
    edit(folder, operating_points=table)
    assert bundles.load(folder).table == bundle.table


def test_another_normalisation_set_is_refused(folder):
    table = read(folder)["operating_points"]
    table["points"][2]["norm_set"] = 1
    edit(folder, operating_points=table)
    refused(folder, "one normalisation for all thresholds")


# the weights


def test_truncated_weights_are_refused(folder):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-1])
    refused(folder, "damaged or foreign")


def test_one_flipped_bit_is_refused(folder):
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / WEIGHTS).write_bytes(content)
    refused(folder, "damaged or foreign")


class Executed:
    """Unpickling this would raise."""

    def __reduce__(self):
        return eval, ("1 / 0",)


@pytest.mark.parametrize(
    "content", [pickle.dumps({"weight": [1.0]}), pickle.dumps(Executed()), b"", b"\x00" * 8, b"\xff" * 64, b"{}" * 40]
)
def test_weights_in_another_format_are_refused_and_never_executed(folder, content):
    write_weights(folder, content)
    refused(folder, "not a safetensors file")


def test_truncated_weights_with_a_matching_hash_are_refused(folder):
    write_weights(folder, (folder / WEIGHTS).read_bytes()[:-4])
    refused(folder, "not a safetensors file")


def change_tensors(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    write_weights(folder, tensor_bytes(tensors))


@pytest.mark.parametrize("name", ["stem_conv.weight", "blocks.0.conv1.gate.norm.running_var", "classifier.bias"])
def test_a_missing_tensor_is_named(folder, name):
    change_tensors(folder, lambda tensors: tensors.pop(name))
    refused(folder, f"lacks {name}")


def test_an_unknown_tensor_is_named(folder):
    change_tensors(folder, lambda tensors: tensors.update({"extra": torch.zeros(1)}))
    refused(folder, "has an unknown tensor extra")


def test_a_tensor_of_another_shape_is_named(folder):
    change_tensors(folder, lambda tensors: tensors.update({"classifier.weight": torch.zeros(10, 63)}))
    refused(folder, r"classifier.weight is \[10, 63\], not \[10, 64\]")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["blocks.3.conv2.conv.weight", "stem_norm.running_mean"])
def test_a_weight_that_is_not_finite_is_named(folder, name, value):
    change_tensors(folder, lambda tensors: tensors[name].view(-1)[3:4].fill_(value))
    refused(folder, f"{name} must hold finite")


def test_a_float64_weight_beyond_float32_is_named(folder):
    change_tensors(
        folder, lambda tensors: tensors.update({"classifier.bias": torch.full((10,), 1e300, dtype=torch.float64)})
    )
    refused(folder, "classifier.bias must hold finite")


def test_whole_numbers_as_weights_are_refused(folder):
    change_tensors(folder, lambda tensors: tensors.update({"classifier.bias": torch.zeros(10, dtype=torch.int64)}))
    refused(folder, "classifier.bias must hold finite floating numbers")


def test_a_negative_variance_is_named(folder):
    change_tensors(folder, lambda tensors: tensors["stem_norm.running_var"][5:6].fill_(-0.01))
    refused(folder, "stem_norm.running_var holds a negative variance")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_half_precision_are_taken_as_float32(folder, dtype):
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / WEIGHTS).items()}
    write_weights(folder, tensor_bytes(tensors))
    loaded = bundles.load(folder).network
    assert loaded.classifier.weight.dtype == torch.float32
    assert torch.equal(loaded.classifier.weight, tensors["classifier.weight"].float())


def test_nothing_in_the_library_can_unpickle():
    forbidden = re.compile(r"\b(pickle|cloudpickle|dill|joblib|shelve|marshal|torch\.load|allow_pickle)\b")
    files = list(Path(lccl.__file__).parent.rglob("*.py"))
    assert len(files) > 20
    assert not [file for file in files if forbidden.search(file.read_text())]
