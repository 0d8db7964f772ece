"""From an archive of pictures to a calibrated bundle by the command line, and errors in one sentence."""

import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from lccl import bundle as bundles
from lccl.cli import app
from lccl.networks import Architecture

PER_CLASS = 24
EPOCH = ["--epochs", "1", "--batch", "16", "--threads", "1"]


def lccl(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def succeeded(result):
    assert result.exit_code == 0, result.output
    return result.output


def failed(result, sentence):
    """It ended with status 1, and what it said last is one sentence on what is wrong."""
    text = " ".join(result.output.split())
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert sentence in text.split("error ", 1)[1]
    assert "Traceback" not in text


def write_pictures(file, parts, seed=0):
    random = np.random.default_rng(seed)
    with tarfile.open(file, "w") as archive:
        for part, count in parts.items():
            for number, label in enumerate(("blue", "green", "red")):
                for index in range(count):
                    pixels = random.integers(0, 128, (32, 32, 3), dtype=np.uint8)
                    pixels[:, :, 2 - number] += 100
                    out = io.BytesIO()
                    Image.fromarray(pixels).save(out, "PNG")
                    member = tarfile.TarInfo(f"{part}/{label}/{index}.png")
                    member.size = out.tell()
                    out.seek(0)
                    archive.addfile(member, out)
    return file


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def data(place):
    return write_pictures(place / "colours.tar", {"train": PER_CLASS, "test": 3})


@pytest.fixture(scope="module")
def trained(place, data):
    """An LCCL network and its plain twin, each after one epoch."""
    for name, gate in (("model", "shared"), ("twin", "none")):
        succeeded(lccl("train", data, "--out", place / name, "--runs", place / "runs", "--gate", gate, *EPOCH))
    return place


@pytest.fixture(scope="module")
def calibrated(trained, data, random_bundle):
    """A random network that always names the first class: however much it skips, it loses no accuracy."""
    twin = bundles.load(trained / "twin")
    bundle = random_bundle(Architecture("resnet20", classes=3))
    bundle.network.classifier.weight.zero_()
    bundles.save(replace(bundle, splits=twin.splits), trained / "calibrated")
    succeeded(lccl("calibrate", trained / "calibrated", data))
    return trained / "calibrated"


@pytest.fixture
def model(trained, tmp_path):
    return Path(shutil.copytree(trained / "model", tmp_path / "model"))


def test_training_writes_a_bundle_with_exact_alone_and_its_record(trained):
    bundle = bundles.load(trained / "model")
    assert bundle.labels == ("blue", "green", "red")
    assert (bundle.architecture.name, bundle.architecture.gate, bundle.architecture.classes) == (
        "resnet20",
        "shared",
        3,
    )
    assert [point.name for point in bundle.table.points] == ["exact"]
    assert (bundle.splits["choose"], bundle.splits["measure"]) == (7, 7)
    assert bundle.training["data"]["train"] == 3 * PER_CLASS - 14
    assert bundle.training["test"]["images"] == 9
    assert (trained / "runs" / "model" / "checkpoint.safetensors").is_file()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--network", "wrn-40-1", "--placement", "bef-aft"], Architecture("wrn-40-1", "pre", "shared", 3, "bef-aft")),
        (["--no-gate-norm"], Architecture("resnet20", "post", "shared", 3, gate_norm=False)),
    ],
)
def test_training_takes_the_networks_own_form_and_the_gates_asked_for(options, expected, data, tmp_path):
    succeeded(lccl("train", data, "--out", tmp_path / "model", "--runs", tmp_path, *EPOCH, *options))
    assert bundles.load(tmp_path / "model").architecture == expected


def test_training_again_goes_on_from_the_finished_run(trained, data, tmp_path):
    output = succeeded(lccl("train", data, "--out", tmp_path / "model", "--runs", trained / "runs", *EPOCH))
    first, again = bundles.load(trained / "model"), bundles.load(tmp_path / "model")
    assert "epoch" not in output
    assert again.digest == first.digest


def test_calibration_adds_points_and_a_card(calibrated):
    bundle = bundles.load(calibrated)
    points = bundle.table.points
    assert points[0].name == "exact"
    assert len(points) > 5
    assert bundle.table.images == 7
    card = (calibrated / "README.md").read_text()
    assert all(f"| {point.name} |" in card for point in points)


def test_evaluation_writes_a_row_per_operating_point(calibrated, data, tmp_path):
    out = tmp_path / "figures.json"
    output = succeeded(lccl("evaluate", calibrated, data, "--out", out))
    figures = json.loads(out.read_text())
    points = bundles.load(calibrated).table.points
    assert [row["point"] for row in figures["rows"]] == [point.name for point in points]
    assert {row["images"] for row in figures["rows"]} == {9}
    assert figures["dense_macs"] == 40_551_040 - 7 * 64
    assert figures["digest"] == bundles.load(calibrated).digest
    assert all(point.name in output for point in points)


def test_the_measuring_part_reaches_exactly_the_skip_ratios_stated(calibrated, data, tmp_path):
    out = tmp_path / "figures.json"
    succeeded(lccl("evaluate", calibrated, data, "--part", "measure", "--out", out))
    for row in json.loads(out.read_text())["rows"]:
        assert row["skip_reached"] == pytest.approx(row["skip_stated"])


def test_evaluation_at_given_sparsities(calibrated, data, tmp_path):
    low, high = bundles.load(calibrated).table.sparsity_range
    wanted, out = [low + share * (high - low) for share in (0.3, 0.7)], tmp_path / "figures.json"
    succeeded(lccl("evaluate", calibrated, data, "--sparsity", wanted[0], "--sparsity", wanted[1], "--out", out))
    rows = json.loads(out.read_text())["rows"]
    assert [row["skip_stated"] for row in rows] == pytest.approx(wanted)
    assert rows[0]["skip_reached"] < rows[1]["skip_reached"]


def test_the_plain_twin_is_entered_for_comparison(calibrated, trained, tmp_path):
    folder = Path(shutil.copytree(calibrated, tmp_path / "model"))
    succeeded(lccl("compare", folder, trained / "twin"))
    twin = bundles.load(trained / "twin")
    noted = bundles.load(folder).training["plain_twin"]
    assert noted["digest"] == twin.digest
    assert noted["accuracy"] == twin.table.exact.accuracy
    assert "The plain twin, trained with the same budget" in (folder / "README.md").read_text()


def test_help_names_every_command():
    output = succeeded(lccl("--help"))
    assert all(command in output for command in ("train", "calibrate", "compare", "evaluate"))


# errors


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--network", "resnet51"], "unknown network 'resnet51'"),
        (["--gate", "grouped:3"], "3 gate groups do not divide"),
        (["--gate", "open"], "unknown gate 'open'"),
        (["--form", "both"], "unknown block form 'both'"),
        (["--network", "resnet18", "--form", "pre"], "post-activation form only"),
        (["--network", "wrn-16-4", "--form", "post"], "pre-activation form only"),
        (["--placement", "bef-aft"], "needs the pre-activation form"),
        (["--form", "pre", "--placement", "after"], "unknown placement 'after'"),
        (["--gate", "none", "--no-gate-norm"], "without gates"),
        (["--epochs", "0"], "at least one epoch"),
        (["--lr", "nan"], "positive learning rates"),
        (["--precision", "fp8"], "unknown training precision 'fp8'"),
        (["--batch", "1000"], "do not fill a batch of 1000"),
        (["--device", "tpu"], "tpu"),
        (["--device", "cuda:99"], "cuda:99"),
    ],
)
def test_training_that_cannot_start(data, tmp_path, options, sentence):
    failed(lccl("train", data, "--out", tmp_path / "out", "--runs", tmp_path, "--threads", 1, *options), sentence)
    assert not (tmp_path / "out").exists()


def test_training_another_recipe_in_the_same_place(trained, data, tmp_path):
    options = ["--out", tmp_path / "model", "--runs", trained / "runs", *EPOCH, "--seed", "5"]
    failed(lccl("train", data, *options), "checkpoint with another recipe")


@pytest.mark.parametrize("command", ["calibrate", "evaluate"])
def test_a_data_set_that_is_not_there(model, tmp_path, command):
    failed(lccl(command, model, tmp_path / "nowhere.tar"), "no data set at")


@pytest.mark.parametrize("command", ["calibrate", "evaluate"])
def test_a_bundle_that_is_not_there(data, tmp_path, command):
    failed(lccl(command, tmp_path / "nowhere", data), "cannot be read")


@pytest.mark.parametrize("command", ["calibrate", "evaluate"])
def test_an_engine_that_is_not_there(model, data, command):
    failed(lccl(command, model, data, "--engine", "warp"), "unknown engine 'warp'")


def test_calibrating_on_other_data(model, tmp_path):
    other = write_pictures(tmp_path / "other.tar", {"train": PER_CLASS}, seed=1)
    failed(lccl("calibrate", model, other), "not the data that the bundle was trained on")
    assert [point.name for point in bundles.load(model).table.points] == ["exact"]


def test_calibrating_a_plain_twin(trained, data):
    failed(lccl("calibrate", trained / "twin", data), "no gates")


def test_comparing_with_what_is_no_plain_twin(model, calibrated):
    failed(lccl("compare", model, calibrated), "is not the plain twin of this bundle")


@pytest.mark.parametrize("sparsity", ["0.999", "-1", "nan"])
def test_evaluating_beyond_the_range(calibrated, data, sparsity):
    failed(lccl("evaluate", calibrated, data, "--sparsity", sparsity), "sparsity")


def test_evaluating_without_test_pictures(model, tmp_path):
    failed(lccl("evaluate", model, write_pictures(tmp_path / "few.tar", {"train": 5})), "has no test pictures")


def test_evaluating_an_unknown_part(model, data):
    failed(lccl("evaluate", model, data, "--part", "tset"), "tset")


def test_too_few_pictures_to_hold_any_out(tmp_path):
    few = write_pictures(tmp_path / "few.tar", {"train": 3})
    failed(lccl("train", few, "--out", tmp_path / "out", "--runs", tmp_path, "--batch", 2, "--epochs", 1), "pictures")
