"""From an archive of images to a calibrated bundle by the command line, and errors in one sentence."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lccl import provenance
from lccl.bundle import format as bundles
from lccl.networks import Architecture
from tests.lccl.cli.commands import EPOCH, PER_CLASS, failed, lccl, succeeded, write_images


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
    assert bundle.training.data.train == 3 * PER_CLASS - 14
    assert bundle.training.test.images == 9
    assert (trained / "runs" / "model" / "checkpoint.safetensors").is_file()


def test_training_further_begins_from_a_bundle_and_learns_from_a_teacher(trained, data, tmp_path):
    model, twin, out = trained / "model", trained / "twin", tmp_path / "further"
    taught = ["--start", model, "--teacher", twin, "--distill", "1", "--lr", 1e-9]
    succeeded(lccl("train", data, "--out", out, "--runs", tmp_path, *taught, *EPOCH))
    first, further = bundles.load(model), bundles.load(out)
    assert further.training.earlier.digest == first.digest
    assert further.training.earlier.training == first.training
    assert further.training.teacher.digest == bundles.load(twin).digest
    assert further.training.recipe["distill"] == 1
    weights = [bundle.network.state_dict()["blocks.0.conv1.conv.weight"] for bundle in (first, further)]
    assert np.allclose(*weights, atol=1e-5)


def test_training_further_from_what_does_not_fit(model, data, tmp_path, random_bundle):
    start = ["--start", model, "--out", tmp_path / "other", "--runs", tmp_path, *EPOCH]
    failed(lccl("train", data, *start, "--gate", "pointwise"), "cannot begin from the weights of another network")
    failed(lccl("train", data, *start, "--network", "resnet32"), "cannot begin from the weights of another network")
    others = write_images(tmp_path / "others.tar", {"train": PER_CLASS}, seed=5)
    failed(lccl("train", others, *start), "was trained on other images")
    foreign = replace(bundles.load(model), labels=("a", "b", "c"))
    bundles.save(foreign, tmp_path / "foreign")
    failed(lccl("train", data, *start[2:], "--teacher", tmp_path / "foreign"), "has other classes: a, b, c")
    large = random_bundle(Architecture("resnet18", gate="none", classes=3))
    bundles.save(replace(large, labels=bundles.load(model).labels), tmp_path / "large")
    failed(lccl("train", data, *start[2:], "--teacher", tmp_path / "large"), "another size: 224 pixels a side")
    failed(lccl("train", data, *start, "--teacher", model, "--distill", 2), "distill in 0..1")
    failed(lccl("train", data, *start, "--teacher", model, "--distill", 0), "leaves the teacher's answers out")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--network", "wrn-40-1", "--placement", "bef-aft"], Architecture("wrn-40-1", "pre", "shared", 3, "bef-aft")),
        (["--no-gate-norm"], Architecture("resnet20", "post", "shared", 3, gate_norm=False)),
        (["--split", "1/2"], Architecture("resnet20", "post", "shared", 3, split="1/2")),
    ],
)
def test_training_takes_the_networks_own_form_and_the_gates_asked_for(options, expected, data, tmp_path):
    succeeded(lccl("train", data, "--out", tmp_path / "model", "--runs", tmp_path, *EPOCH, *options))
    assert bundles.load(tmp_path / "model").architecture == expected


def test_gates_can_be_regularised(data, tmp_path):
    weigh = ["--no-gate-norm", "--gate-l1", "0.1"]
    succeeded(lccl("train", data, "--out", tmp_path / "model", "--runs", tmp_path, *EPOCH, *weigh))
    assert bundles.load(tmp_path / "model").training.recipe["gate_l1"] == 0.1


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
    assert figures.items() >= {"command": provenance.command(), "machine": provenance.machine()}.items()


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


def test_a_self_test_is_recorded_under_its_old_name_with_a_warning(calibrated, model):
    recorded = bundles.load(model)
    bundles.save(replace(recorded, self_test={}), model)
    assert "lccl canary is now lccl self-test" in " ".join(succeeded(lccl("canary", model)).split())
    assert bundles.load(model).self_test == recorded.self_test
    assert succeeded(lccl("self-test", model)) == ""
    assert "canary" not in succeeded(lccl("--help"))


def test_the_plain_twin_is_entered_for_comparison(calibrated, model, trained, tmp_path):
    folder = Path(shutil.copytree(calibrated, tmp_path / "compared"))
    succeeded(lccl("compare", folder, trained / "twin"))
    twin = bundles.load(trained / "twin")
    noted = bundles.load(folder).training.plain_twin
    assert noted.digest == twin.digest
    assert noted.accuracy == twin.table.exact.accuracy
    assert "The plain twin has" in (folder / "README.md").read_text()  # it was trained, this network was not
    succeeded(lccl("compare", model, trained / "twin"))
    assert "The plain twin, trained with the same budget, has" in (model / "README.md").read_text()


def test_help_names_every_command():
    output = succeeded(lccl("--help"))
    assert all(
        command in output
        for command in ("train", "attach", "calibrate", "compare", "evaluate", "self-test", "bench", "tune")
    )


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
        (["--gate", "none", "--gate-l1", "0.1"], "--gate none has none"),
        (["--no-gate-norm", "--gate-l1", "-0.1"], "gate_l1 and spread from 0 on"),
        (["--distill", "0.5"], "name one with --teacher"),
        (["--split", "0.5"], "unknown split '0.5': use none, or a fraction below 1 such as 1/2 or 1/4"),
        (["--split", "1/12"], "1/12 of 16 channels are fewer than 2 groups"),
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
def test_a_data_set_of_other_classes(trained, data, tmp_path, command):
    bundle = bundles.load(trained / "model")
    bundles.save(replace(bundle, labels=("blue", "green", "pink")), tmp_path / "model")
    failed(lccl(command, tmp_path / "model", data), "the labels have a class 'pink' that the data lack")


@pytest.mark.parametrize("command", ["calibrate", "evaluate"])
def test_an_engine_that_is_not_there(model, data, command):
    failed(lccl(command, model, data, "--engine", "warp"), "unknown engine 'warp'")


@pytest.mark.parametrize("command", ["calibrate", "evaluate"])
def test_accuracies_are_measured_in_fp32_which_the_cuda_engine_lacks(model, data, command, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    failed(lccl(command, model, data, "--engine", "cuda"), "the cuda engine has no precision 'fp32'")


def test_calibrating_on_other_data(model, tmp_path):
    other = write_images(tmp_path / "other.tar", {"train": PER_CLASS}, seed=1)
    failed(lccl("calibrate", model, other), "not the data that the bundle was trained on")
    assert [point.name for point in bundles.load(model).table.points] == ["exact"]


def test_measuring_on_other_data_or_dealt_by_other_pixels(model, data, tmp_path):
    """What is held out there may be what the network was trained on."""
    other = write_images(tmp_path / "other.tar", {"train": PER_CLASS}, seed=1)
    failed(lccl("evaluate", model, other, "--part", "measure"), "not the data that the bundle was trained on")
    bundle = bundles.load(model)
    by_pixels = {name: value for name, value in bundle.splits.items() if name != "by"}
    bundles.save(replace(bundle, splits=by_pixels), tmp_path / "older")
    options = ("--part", "measure", "--size", 48)
    failed(lccl("evaluate", tmp_path / "older", data, *options), "held-out images follow from their pixels")


def test_too_few_images_are_refused_before_training(tmp_path):
    few = write_images(tmp_path / "few.tar", {"train": 3})
    failed(lccl("train", few, "--out", tmp_path / "model", "--runs", tmp_path / "runs"), "9 images are too few")


def test_calibrating_a_plain_twin(trained, data):
    failed(lccl("calibrate", trained / "twin", data), "no gates")


def test_comparing_with_what_is_no_plain_twin(model, calibrated):
    failed(lccl("compare", model, calibrated), "is not the plain twin of this bundle")


@pytest.mark.parametrize("sparsity", ["0.999", "-1", "nan"])
def test_evaluating_beyond_the_range(calibrated, data, sparsity):
    failed(lccl("evaluate", calibrated, data, "--sparsity", sparsity), "sparsity")


def test_evaluating_without_test_images(model, tmp_path):
    failed(lccl("evaluate", model, write_images(tmp_path / "few.tar", {"train": 5})), "has no test images")


def test_evaluating_an_unknown_part(model, data):
    failed(lccl("evaluate", model, data, "--part", "tset"), "tset")


def test_too_few_images_to_hold_any_out(tmp_path):
    few = write_images(tmp_path / "few.tar", {"train": 3})
    failed(lccl("train", few, "--out", tmp_path / "out", "--runs", tmp_path, "--batch", 2, "--epochs", 1), "images")
