"""``lccl attach``: gates for a plain network."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lccl.bundle import format as bundles
from tests.lccl.cli.commands import EPOCH, failed, lccl, succeeded


def test_attaching_notes_the_plain_network_for_comparison(attached, trained):
    folder, output = attached
    bundle, twin = bundles.load(folder), bundles.load(trained / "twin")
    noted = bundle.training.plain_twin
    assert bundle.labels == ("green", "red", "blue")
    assert noted.accuracy == twin.table.exact.accuracy
    assert noted.test == twin.training.test
    assert noted.attached_to == "plain.safetensors"
    assert f"accuracy {noted.accuracy:.4f} on held-out images" in " ".join(output.split())
    assert "seed" in bundle.self_test


def test_what_was_attached_is_calibrated_and_evaluated_by_its_own_labels(attached, data, tmp_path):
    folder = Path(shutil.copytree(attached[0], tmp_path / "model"))
    succeeded(lccl("calibrate", folder, data))
    bundle, out = bundles.load(folder), tmp_path / "figures.json"
    assert bundle.table.exact.accuracy == bundles.load(attached[0]).table.exact.accuracy
    assert "The plain network it was attached to (plain.safetensors)" in (folder / "README.md").read_text()
    succeeded(lccl("evaluate", folder, data, "--out", out))
    assert json.loads(out.read_text())["rows"][0]["accuracy_reached"] == bundle.training.test.accuracy


def test_what_was_attached_is_trained_further_as_it_began(attached, data, tmp_path):
    """Its classes keep their order, and its images their normalisation."""
    bundle = bundles.load(attached[0])
    other = replace(bundle, preprocessing=replace(bundle.preprocessing, mean=(0.1, 0.2, 0.3)))
    bundles.save(other, tmp_path / "model")
    options = ["--start", tmp_path / "model", "--out", tmp_path / "further", "--runs", tmp_path, *EPOCH]
    succeeded(lccl("train", data, *options))
    further = bundles.load(tmp_path / "further")
    assert (further.labels, further.preprocessing) == (bundle.labels, other.preprocessing)


def test_a_bundle_is_attached_with_its_own_preprocessing(trained, data, tmp_path):
    """Its last classifier names one class alone, so that nothing of what it says is worth anything."""
    twin = bundles.load(trained / "twin")
    twin.network.classifier.weight.zero_()
    twin.network.classifier.bias.copy_(torch.tensor([0.0, 0.0, 1.0]))
    bundles.save(twin, tmp_path / "twin")
    output = succeeded(lccl("attach", tmp_path / "twin", data, "--out", tmp_path / "out", "--runs", tmp_path, *EPOCH))
    assert "hardly better than guessing" in " ".join(output.split())
    made = bundles.load(tmp_path / "out")
    assert made.preprocessing == twin.preprocessing
    assert made.training.plain_twin.may_know_the_images is False


def test_a_mean_and_a_deviation_are_taken(trained, data, tmp_path):
    options = ["--out", tmp_path / "out", "--runs", tmp_path, *EPOCH, "--mean", "0.1,0.2,0.3", "--std", "0.4,0.5,0.6"]
    succeeded(lccl("attach", trained / "twin", data, *options))
    preprocessing = bundles.load(tmp_path / "out").preprocessing
    assert (preprocessing.mean, preprocessing.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--mean", "0.1,0.2,0.3"], "give --mean and --std together"),
        (["--mean", "0.1,0.2", "--std", "1,1,1"], "three numbers R,G,B"),
        (["--mean", "a,b,c", "--std", "1,1,1"], "three numbers R,G,B"),
        (["--mean", "124,116,104", "--std", "58,57,57"], "divide those for values in 0..255 by 255"),
        (["--network", "resnet32"], "holds a resnet20, not a resnet32"),
        (["--gate", "none"], "attaching means gates"),
        (["--gate", "grouped:3"], "3 gate groups do not divide"),
        (["--labels", "nowhere.txt"], "nowhere.txt cannot be read"),
        (["--centred-shortcuts"], "no shortcuts that could be centred"),
        (["--epochs", "0"], "at least one epoch"),
        (["--device", "tpu"], "tpu"),
    ],
)
def test_attaching_that_cannot_start(trained, data, tmp_path, options, sentence):
    place = ["--out", tmp_path / "out", "--runs", tmp_path, "--threads", 1]
    failed(lccl("attach", trained / "twin", data, *place, *options), sentence)
    assert not (tmp_path / "out").exists()


def test_a_pickle_is_not_attached(data, tmp_path):
    """The error is shown as it is written, whatever brackets a name has."""
    pickled = tmp_path / "[red]net.pt"
    failed(lccl("attach", pickled, data, "--out", tmp_path / "out"), "[red]net.pt is no .safetensors file")
