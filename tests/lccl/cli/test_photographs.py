"""Photographs by the command line: read from files as they are needed, broken ones named, tuned to other classes."""

import json

import pytest
from typer.testing import CliRunner

from lccl.bundle import format as bundles
from lccl.cli.main import app
from tests.lccl.train import photographs


def lccl(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def failed(sentence, *arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 1
    assert sentence in " ".join(result.output.split())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def data(place):
    photographs.write(place / "photos", 12)
    photographs.write(place / "photos", 2, part="test", seed=1)
    (place / "photos/train/red/broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not much")
    return place / "photos"


@pytest.fixture(scope="module")
def trained(place, data):
    """A small network for images that are too large to be held in memory, and what training said."""
    options = [
        "--size",
        64,
        "--epochs",
        1,
        "--batch",
        8,
        "--threads",
        1,
        "--cache",
        place / "cache",
        "--closing",
        "last",
    ]
    return place / "model", lccl("train", data, "--out", place / "model", "--runs", place / "runs", *options)


def test_a_broken_file_is_named_at_the_end(trained):
    assert "1 file was skipped, as they cannot be read: train/red/broken.jpg (" in " ".join(trained[1].split())
    record = bundles.load(trained[0]).training.data
    assert [name.split(" ")[0] for name in record.skipped] == ["train/red/broken.jpg"]
    assert record.train == 36 - 6
    assert bundles.load(trained[0]).training.recipe["closing"] == "last"


def test_a_run_that_is_not_in_a_terminal_says_how_far_it_is(trained):
    output = trained[1].replace("\n", " ")
    assert "step 1/3  loss" in output
    assert "epoch 1/1  loss" in output


def test_calibration_and_evaluation_read_the_same_files(trained, data, place):
    folder = trained[0]
    output = " ".join(lccl("calibrate", folder, data, "--search", 2, "--closing", "last", "--threads", 1).split())
    assert "3 held-out images cannot exclude" in output
    assert "train/red/broken.jpg" in output
    assert "So few images cannot exclude" in (folder / "README.md").read_text()
    for cache in ([], ["--cache", place / "cache"]):
        lccl("evaluate", folder, data, "--part", "measure", "--out", place / "rows.json", "--threads", 1, *cache)
        figures = json.loads((place / "rows.json").read_text())
        assert len(figures["skipped"]) == 1
        assert all(row["skip_reached"] == pytest.approx(row["skip_stated"]) for row in figures["rows"])


def test_a_network_is_evaluated_at_another_size(trained, data, place):
    for size in (48, 64):
        out = place / f"{size}.json"
        lccl("evaluate", trained[0], data, "--size", size, "--out", out, "--threads", 1)
    small, whole = (json.loads((place / f"{size}.json").read_text()) for size in (48, 64))
    assert (small["size"], whole["size"]) == (48, 64)
    assert small["dense_macs"] < 0.6 * whole["dense_macs"]


def test_other_classes_are_learned_from_a_bundle(trained, place):
    photographs.write(place / "others", 8, classes=("oak", "pine"), seed=5)
    options = ["--epochs", 1, "--threads", 1, "--start", trained[0]]
    lccl("train", place / "others", "--out", place / "tuned", "--runs", place / "runs", *options)
    tuned, start = bundles.load(place / "tuned"), bundles.load(trained[0])
    assert tuned.labels == ("oak", "pine")
    assert tuned.preprocessing == start.preprocessing
    assert (tuned.training.recipe["trunk_rate"], tuned.training.earlier.digest) == (0.1, start.digest)


@pytest.fixture(scope="module")
def large(place, data):
    """A plain ResNet-18, hardly trained."""
    options = ["--network", "resnet18", "--gate", "none", "--size", "96", "--epochs", 1, "--threads", 1]
    lccl("train", data, "--out", place / "large", "--runs", place / "runs", "--fit", "stretch", *options)
    return place / "large"


def test_a_large_network_has_the_recipe_for_photographs(large):
    bundle = bundles.load(large)
    recipe, preprocessing = bundle.training.recipe, bundle.preprocessing
    assert (recipe["augmentation"], recipe["smoothing"], recipe["batch"]) == ("crops", 0.1, 8)
    assert (preprocessing.size, preprocessing.resize, preprocessing.fit) == (96, 96, "stretch")


def test_gates_and_early_exits_are_fitted_to_photographs(large, data, place):
    options = ["--epochs", 1, "--batch", 8, "--threads", 1, "--cache", place / "cache"]
    lccl("attach", large, data, "--out", place / "gated", "--runs", place / "runs", "--closing", "last", *options)
    output = lccl("sidenet", "train", place / "gated", data, "--out", place / "exits", *options)
    assert "epoch 1/1" in output
    gated, exits = bundles.load(place / "gated"), bundles.load(place / "exits")
    assert gated.training.recipe["closing"] == "last"
    assert len(exits.network.sidenets) == 4
    assert exits.table.exact.accuracy == gated.table.exact.accuracy
