"""From an archive of images to a calibrated bundle by the command line, and errors in one sentence."""

import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from lccl import provenance
from lccl.bundle import format as bundles
from lccl.cli.main import app
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


def write_images(file, parts, seed=0):
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
    return write_images(place / "colours.tar", {"train": PER_CLASS, "test": 3})


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
    bundles.save(replace(bundle, splits=twin.splits, labels=twin.labels), trained / "calibrated")
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


# attaching


@pytest.fixture(scope="module")
def attached(trained, data, place):
    """An LCCL network from a file whose outputs are in another order than the folders: green, red, blue."""
    weights = load_file(trained / "twin" / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name][[1, 2, 0]]
    save_file(weights, place / "plain.safetensors")
    (place / "labels.txt").write_text("green\nred\nblue\n")
    options = ["--labels", place / "labels.txt", "--out", place / "attached", "--runs", place / "runs", *EPOCH]
    return place / "attached", succeeded(lccl("attach", place / "plain.safetensors", data, *options))


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


def test_help_names_every_command():
    output = succeeded(lccl("--help"))
    assert all(
        command in output
        for command in ("train", "attach", "calibrate", "compare", "evaluate", "self-test", "bench", "tune")
    )


# early exits


@pytest.fixture(scope="module")
def leaving(calibrated, data, place):
    out = place / "leaving"
    shape = ["--after", 2, "--after", 5, "--grid", 2, "--hidden", 8]
    recipe = ["--epochs", 2, "--batch", 8, "--threads", 1, "--engine", "reference"]
    output = succeeded(lccl("sidenet", "train", calibrated, data, "--out", out, *shape, *recipe))
    assert "block 5" in output
    assert "the end" in output
    assert len(bundles.load(calibrated).table.points) > 1
    assert "operating points yet" not in output
    return out


def test_sidenets_before_calibration_are_worth_a_word(model, data, tmp_path):
    shape = ["--after", 2, "--grid", 1, "--hidden", 2, "--epochs", 1, "--engine", "reference"]
    done = lccl("sidenet", "train", model, data, "--out", tmp_path / "hasty", *shape)
    assert "has no operating points yet: SideNets are fitted to exact gates alone" in " ".join(done.output.split())


def test_sidenets_are_written_to_a_new_bundle_with_a_card(leaving, calibrated):
    loaded = bundles.load(leaving)
    assert [(side.spec.after, side.spec.grid, side.spec.hidden) for side in loaded.network.sidenets] == [
        (2, 2, 8),
        (5, 2, 8),
    ]
    assert not len(bundles.load(calibrated).network.sidenets)
    assert "## Early exits" in (leaving / "README.md").read_text()
    assert {"exit 0", "exit 1"} <= set(loaded.self_test["logits"])


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_a_reliability_diagram_is_drawn(leaving, tmp_path, kind):
    file = tmp_path / f"diagram.{kind}"
    succeeded(lccl("sidenet", "diagram", leaving, "--out", file))
    assert file.stat().st_size > 2000


def test_evaluation_at_given_exit_confidences(leaving, data, tmp_path):
    out = tmp_path / "reached.json"
    succeeded(lccl("evaluate", leaving, data, "--exit-confidence", 0.5, "--exit-confidence", 1, "--out", out))
    low, never = json.loads(out.read_text())["rows"]
    assert low["gated_macs"] <= never["gated_macs"]
    assert never["point"] == "exact"


def test_training_further_leaves_sidenets_behind(leaving, data, tmp_path):
    succeeded(
        lccl("train", data, "--out", tmp_path / "further", "--runs", tmp_path / "runs", "--start", leaving, *EPOCH)
    )
    assert not len(bundles.load(tmp_path / "further").network.sidenets)


def test_a_bundle_without_sidenets_has_no_diagram(calibrated, tmp_path):
    failed(lccl("sidenet", "diagram", calibrated, "--out", tmp_path / "no.svg"), "no SideNets: fit some")


def test_a_diagram_of_another_kind_is_refused(leaving, tmp_path):
    failed(
        lccl("sidenet", "diagram", leaving, "--out", tmp_path / "no.txt"), "use a name that ends in .svg, .png, .pdf"
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [(["--after", "9"], "no block 9"), (["--grid", "0"], "parts a side"), (["--lr", "0"], "learning rate")],
)
def test_sidenets_that_cannot_be_fitted(calibrated, data, tmp_path, options, sentence):
    failed(lccl("sidenet", "train", calibrated, data, "--out", tmp_path / "no", *options), sentence)


def test_a_network_without_finite_answers_gets_no_sidenets(calibrated, data, tmp_path):
    wild = bundles.load(calibrated)
    wild.network.stem_norm.weight.fill_(1e30)
    bundles.save(wild, tmp_path / "wild")
    failed(lccl("sidenet", "train", tmp_path / "wild", data, "--out", tmp_path / "no"), "finite")


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
