"""The benchmark's workloads, its arithmetic, its children and its command; no test looks at how fast anything is."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from lccl.bench import provenance
from lccl.bench.child import OWN, OWN_DENSE, AbsentError, Child, Task, save_workload, timed
from lccl.bench.images import Images, dataset_images, noise_images
from lccl.bench.measure import Contestant, Samples, measure, profile, profile_turns
from lccl.bench.report import Entry, Measured, figures, realised, step_facts, tables
from lccl.bench.run import Options, run
from lccl.bench.workload import (
    DENSE,
    OPEN,
    Counts,
    Model,
    choose_thresholds,
    find_model,
    images_needed,
    make_workload,
    normalised,
)
from lccl.bundle import format as bundles
from lccl.bundle.self_test import draw as draw_smooth
from lccl.cli.main import app
from lccl.compiler import compile_network
from lccl.errors import DataError, LcclError
from lccl.networks import Architecture, build
from lccl.networks.lowering import lower
from lccl.plan.geometry import shape_of
from lccl.preprocessing import Preprocessing

SIXTEEN = noise_images(16, 32)
# To a SideNet's means images of noise all look the same.
SMOOTH = Images("smooth", (0.75 * draw_smooth(3, 16, 32, 32) + 0.25 * SIXTEEN.images).astype(np.uint8))


@pytest.fixture(scope="module")
def workload():
    """Fresh weights, 16 images in four batches, a quarter and 0.7 skipped."""
    return make_workload(find_model("resnet20"), SIXTEEN, 4, (0.25, 0.7))


@pytest.fixture(scope="module")
def early_model(early_folder):
    """A bundle with two early exits and confidences that some of ``SMOOTH`` exceed."""
    model = find_model(str(early_folder / "early"))
    sure = ((1.0, 1.0), (0.75, 0.85), (0.66, 0.7), (0.6, 0.6))
    points = [replace(point, exit_confidence=each) for point, each in zip(model.table.points, sure, strict=True)]
    return replace(model, table=replace(model.table, points=tuple(points)))


@pytest.fixture(scope="module")
def early_workload(early_model):
    """Between two operating points and at one; more images leave early at the second."""
    return make_workload(early_model, SMOOTH, 4, (0.3, 0.4))


@pytest.fixture
def folder(workload, tmp_path):
    save_workload(workload, tmp_path)
    return tmp_path


@pytest.fixture
def started():
    """``started(task)``: a child that ends with the test."""
    children = []

    def start(task):
        children.append(Child(task))
        return children[-1]

    yield start
    for child in children:
        child.close()


class FakeChild:
    """Takes ``seconds`` for every batch, and notes its turns."""

    def __init__(self, seconds, batches=2, turns=None):
        self.seconds, self.batches, self.turns = seconds, batches, [] if turns is None else turns

    def time(self, setting, repeats):
        self.turns.append(setting)
        return np.full((repeats, self.batches), self.seconds)

    def profile(self, setting, index, repeats):
        self.turns.append((setting, index))
        return np.array([self.seconds, 10.0 * index])


# workloads


@pytest.mark.parametrize(
    ("name", "form", "gate"),
    [
        ("resnet20", "post", "shared"), ("resnet20", "pre", "shared"), ("resnet20", "post", "pointwise"),
        ("resnet164", None, None), ("wrn-16-4", None, None),
    ],
)  # fmt: skip
def test_every_layer_skips_what_is_asked_for(name, form, gate):
    made = make_workload(find_model(name, form, gate), SIXTEEN, 1, (0.25, 0.7))
    shape = shape_of(lower(made.network, made.preprocessing))
    assert [setting.wanted for setting in made.settings] == [None, 0.25, 0.7]
    assert not shape.layer_skip_ratios(made.settings[0].kept).any()
    for setting in made.settings[1:]:
        np.testing.assert_allclose(shape.layer_skip_ratios(setting.kept).mean(0), setting.wanted, atol=0.05)
        assert min(setting.thresholds) > 0


def test_the_plain_twin_has_the_same_weights_and_no_gates(workload):
    state, twin = workload.network.state_dict(), workload.twin.state_dict()
    assert not workload.twin.skip_convs
    assert set(twin) == {name for name in state if ".gate." not in name}
    assert all(torch.equal(value, state[name]) for name, value in twin.items())


def test_its_logits_are_the_modules(workload):
    images = torch.from_numpy(normalised(workload.images.images, workload.preprocessing))
    np.testing.assert_allclose(workload.logits[DENSE], workload.twin(images).logits, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(workload.logits[OPEN], workload.network(images).logits, rtol=1e-3, atol=1e-3)


def test_gates_that_are_zero_anyway_allow_no_smaller_ratio(workload):
    network = find_model("resnet20").network
    network.load_state_dict(workload.network.state_dict())
    for module in network.skip_convs.values():
        module.gate.norm.bias.fill_(-10)
    engine = compile_network(network, engine="reference", preprocessing=workload.preprocessing)
    with pytest.raises(LcclError, match=r"skips 1.000 of its cells where 0.25 is asked for: 1.000 of its gates"):
        choose_thresholds(engine, SIXTEEN.images, 0.25)


def test_values_that_grow_are_refused(workload):
    network = find_model("resnet20").network
    network.load_state_dict(workload.network.state_dict())
    network.blocks[3].conv1.norm.weight.fill_(1e5)
    engine = compile_network(network, engine="reference", preprocessing=workload.preprocessing)
    with pytest.raises(LcclError, match=r"in blocks.3.conv1: not a network"):
        choose_thresholds(engine, SIXTEEN.images, 0.25)


def test_a_bundles_thresholds_come_from_its_table(random_bundle):
    bundle = random_bundle()
    model = Model("random", bundle.architecture, bundle.network, bundle.preprocessing, bundle.table)
    made = make_workload(model, SIXTEEN, 1, (0.4,))
    assert made.settings[1].thresholds == next(point for point in bundle.table.points if point.name == "p40").thresholds
    assert [setting.wanted for setting in make_workload(model, SIXTEEN, 1, None).settings] == [None, 0.35, 0.5]
    with pytest.raises(LcclError, match="out of reach"):
        make_workload(model, SIXTEEN, 1, (0.7,))


def test_exit_confidences_come_from_its_table_too(early_workload):
    opened, between, at_a_point = early_workload.settings
    assert opened.exit_confidence == ()
    assert between.exit_confidence == pytest.approx((0.72, 0.8))
    assert at_a_point.exit_confidence == (0.66, 0.7)
    # The first exit stands behind the third block.
    left = [int((setting.kept[:, 6:].sum(1) == 0).sum()) for setting in early_workload.settings]
    assert 0 == left[0] < left[1] < left[2] < 16


def test_all_images_may_leave_early(early_folder):
    model = find_model(str(early_folder / "early"))
    next(iter(model.network.sidenets)).classifier.weight.mul_(1e6)
    made = make_workload(model, SIXTEEN, 4, (0.4,))
    assert made.settings[1].kept[:, :6].any(1).all()
    assert not made.settings[1].kept[:, 6:].any()


def test_the_plain_twin_has_no_exits(early_workload):
    assert len(early_workload.network.sidenets) == 2
    assert len(early_workload.twin.sidenets) == 0


@pytest.mark.parametrize("batch", [1, 3, 32, 100])
def test_images_make_whole_batches(batch):
    count = images_needed(find_model("resnet20"), batch)
    assert count % batch == 0
    assert count >= max(64, 2 * batch)


# images


def test_noise_has_the_spectrum_of_natural_images():
    grey = noise_images(32, 64).images.astype(float).mean(3)
    amplitude = np.abs(np.fft.fft2(grey - grey.mean((1, 2), keepdims=True))).mean(0)
    frequency = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64)[None])
    middle = (frequency > 0.05) & (frequency < 0.3)
    slope = np.polyfit(np.log(frequency[middle]), np.log(amplitude[middle]), 1)[0]
    assert -1.3 < slope < -0.7
    assert 40 < grey.std() < 80


def test_small_images_are_scaled_up(tmp_path):
    for number in range(4):
        file = tmp_path / "train" / "a" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise_images(1, 24, number).images[0]).save(file)
    found = dataset_images(tmp_path, Preprocessing(48, 48, (0.5,) * 3, (0.25,) * 3), 3)
    assert found.images.shape == (3, 48, 48, 3)
    assert found.source == f"{tmp_path.name}, scaled from 24 to 48 pixels"
    with pytest.raises(DataError, match="has 4 images, and 5 are needed"):
        dataset_images(tmp_path, Preprocessing(24, 24, (0.5,) * 3, (0.25,) * 3), 5)


# measuring


def test_every_contestant_has_a_turn_in_each_round_in_changing_order():
    turns = []
    contestants = [Contestant(name, FakeChild(1.0, turns=turns), name) for name in "abc"]
    samples = measure(contestants, 6)
    rounds = np.reshape(turns[3:], (6, 3))  # the first three find out how long a turn takes
    assert all(sorted(order) == list("abc") for order in rounds)
    assert len({tuple(order) for order in rounds}) > 1
    assert {name: len(seconds) for name, seconds in samples.seconds.items()} == {"a": 6, "b": 6, "c": 6}
    assert samples.runs_per_turn == 2


def test_turns_of_the_slowest_contestant_last_about_as_long_as_they_should():
    samples = measure([Contestant("fast", FakeChild(0.001), ""), Contestant("slow", FakeChild(0.01), "")], 1)
    assert samples.runs_per_turn == 2 * 15


def test_ratios_are_paired_by_round():
    samples = Samples({"a": np.array([2.0, 8.0, 4.0]), "b": np.array([1.0, 2.0, 4.0])}, 1)
    assert samples.ratio("a", "b") == 2
    assert samples.quantiles("b", (0.5,)) == [2]


def test_a_profile_covers_all_batches_equally():
    turns = []
    found = profile([Contestant("a", FakeChild(0.5, turns=turns), "s")], 3, 5)
    assert profile_turns(3) == 9
    assert turns == [("s", index) for index in (0, 1, 2)] * 3
    assert found["a"].tolist() == [0.5, 10.0]


def test_timing_runs_every_batch_as_often():
    runs = []
    assert timed(runs.append, 3, 2).shape == (2, 3)
    assert runs == [2, 0, 1, 2, 0, 1, 2]


# report


@pytest.mark.parametrize(
    ("time_share", "macs_share", "expected"),
    [(0.5, 0.5, 1.0), (0.6, 0.5, 0.8), (1.2, 0.5, -0.4), (0.19, 0.1, 0.9), (0.9, 1.0, None), (1.0, 1.03, None)],
)
def test_realised(time_share, macs_share, expected):
    assert realised(time_share, macs_share) == (None if expected is None else pytest.approx(expected))


@pytest.fixture
def made(workload):
    """Figures of made-up seconds: a baseline at 8 ms, own dense at 10 ms, 0.25 at 8 ms and 0.7 at 5 ms."""
    names = {"ONNX Runtime": 8, OWN_DENSE: 10, f"{OWN} {OPEN}": 11, f"{OWN} 0.25": 8, f"{OWN} 0.7": 5}
    slow = {f"{name}, 1 thread": 1.9 * names[name] for name in (OWN_DENSE, f"{OWN} 0.7")}
    drift = np.array([1.0, 1.5, 2.0])
    samples = Samples({name: drift * value / 1000 for name, value in (names | slow).items()}, 32)
    entries = [Entry("OpenVINO", "baseline", 2, None, "not installed")]
    for name in names | slow:
        kind = "own" if name.startswith((OWN, OWN_DENSE)) else "baseline"
        entries.append(Entry(name, kind, 1 if name in slow else 2, Contestant(name, FakeChild(0), "")))
    counts = {
        setting.name: Counts(setting.kept, np.full(16, 50_000_000), np.zeros(16, int)) for setting in workload.settings
    }
    steps = len(lower(workload.network, workload.preprocessing).steps)
    profiles = {OWN_DENSE: np.full(steps, 0.01)}
    for setting, share in ((OPEN, 1.1), ("0.25", 0.8), ("0.7", 0.5)):
        profiles[f"{OWN} {setting}"] = np.full(steps, 0.01 * share)
    return figures(workload, "fp32", 2, Measured(tuple(entries), samples, counts, profiles))


def test_figures_end_to_end(made):
    rows = {row["name"]: row for row in made["contestants"]}
    assert (made["best_baseline"], made["best_dense"]) == ("ONNX Runtime", "ONNX Runtime")
    assert rows["OpenVINO"]["absent"] == "not installed"
    assert rows[OWN_DENSE]["median_ms"] == pytest.approx(15)
    assert rows[OWN_DENSE]["speed_against_best_baseline"] == pytest.approx(0.8)
    half = made["settings"][2]
    assert half["name"] == "0.7"
    assert half["gated_macs"] == pytest.approx(half["macs_share"] * made["dense_macs"])
    assert half["realised"] == pytest.approx(0.5 / (1 - half["macs_share"]))
    assert half["speed_up_against_own_dense"] == pytest.approx(2)
    assert half["speed_up_against_best_dense"] == pytest.approx(1.6)
    assert half["executed_macs"] == 50_000_000
    assert made["settings"][0]["realised"] is None
    speed_ups = {row["name"]: (row["from"], row["to"], row["speed_up"]) for row in made["scaling"]}
    assert speed_ups == {OWN_DENSE: (1, 2, pytest.approx(1.9)), f"{OWN} 0.7": (1, 2, pytest.approx(1.9))}


def test_figures_by_layer(made, workload):
    layers = {row["step"]: row for row in made["layers"]}
    second = layers["blocks.0.conv2"]
    assert second["macs"] == 32 * 32 * 16 * 16 * 9
    assert second["dense_gmacs_per_s"] == pytest.approx(4 * second["macs"] / 0.01 / 1e9)
    assert second["settings"]["0.7"]["skip_ratio"] == pytest.approx(0.7, abs=0.05)
    macs_share = 1 - second["settings"]["0.7"]["skip_ratio"] + 1 / 16
    assert second["settings"]["0.7"]["realised"] == pytest.approx(0.5 / (1 - macs_share))
    assert "realised" not in layers["stem"]["settings"]["0.7"]
    assert sum(row["macs"] for row in made["layers"]) == made["dense_macs"]
    apart = [row["step"] for row in made["layers"] if row["last_stage"]]
    assert apart == [f"blocks.{block}.conv{number}" for block in (6, 7, 8) for number in (1, 2)]
    assert made["last_stage_apart"]["0.7"]["time_share"] == pytest.approx(0.5)
    assert len(step_facts(lower(workload.twin, workload.preprocessing))) == len(made["layers"])


@pytest.fixture
def made_early(early_workload):
    """Figures where half of the images leave by the first exit and half by the second.

    The n-th step of own dense takes n ms, of LCCL a tenth of that.
    """
    network, twin = (
        lower(one, early_workload.preprocessing).steps for one in (early_workload.network, early_workload.twin)
    )
    contestants = {OWN_DENSE: 0.01} | {f"{OWN} {setting.name}": 0.01 for setting in early_workload.settings}
    entries = [Entry(name, "own", 1, Contestant(name, FakeChild(0), "")) for name in contestants]
    kept = np.full((16, 18), 100)
    left = np.repeat([0, 1], 8)
    kept[:8, 6:], kept[8:, 12:] = 0, 0
    counts = {setting.name: Counts(kept, np.full(16, 1), left) for setting in early_workload.settings}
    profiles = {name: np.arange(1, len(network) + 1) / 10_000 for name in contestants}
    profiles[OWN_DENSE] = np.arange(1, len(twin) + 1) / 1000
    samples = Samples({name: np.array([seconds]) for name, seconds in contestants.items()}, 1)
    return figures(early_workload, "fp32", 1, Measured(tuple(entries), samples, counts, profiles))


def test_steps_are_held_against_the_twins_of_the_same_name(made_early, early_workload):
    twin = [fact.name for fact in step_facts(lower(early_workload.twin, early_workload.preprocessing))]
    layers = {row["step"]: row for row in made_early["layers"]}
    assert len(layers) == len(made_early["layers"]) == len(twin) + 4  # each exit has a pool
    assert [row["dense_ms"] for row in layers.values() if row["step"] in twin] == pytest.approx(
        list(range(1, len(twin) + 1))
    )
    for name in ("AveragePool sidenets.0", "Exit 0", "AveragePool sidenets.1", "Exit 1"):
        assert layers[name]["dense_ms"] is None
        assert layers[name]["settings"]["0.4"]["time_share"] is None
    number = list(layers).index("Classify") + 1
    assert layers["Classify"]["settings"]["0.4"]["ms"] == pytest.approx(number / 10)
    assert layers["Classify"]["settings"]["0.4"]["time_share"] == pytest.approx(number / 10 / len(twin))


def test_exits_have_macs_and_what_lies_behind_them_none(made_early, early_workload):
    shape = shape_of(lower(early_workload.network, early_workload.preprocessing))
    layers = {row["step"]: row for row in made_early["layers"]}
    assert [layers[f"Exit {number}"]["macs"] for number in (0, 1)] == [early.macs for early in shape.exits]
    assert layers["Exit 1"]["macs"] == 16 * (32 * 4 + 10)
    setting = made_early["settings"][1]
    half, whole = (shape.beside_cells[number] + kept @ shape.cell_macs for number, kept in enumerate(
        np.repeat([[100, 0, 0], [100, 100, 0]], 6, axis=1)
    ))  # fmt: skip
    assert setting["gated_macs"] == pytest.approx((half + whole) / 2)
    assert setting["left_early"] == 1
    dense = sum(row["macs"] for row in layers.values() if not row["last_stage"] and row["dense_ms"] is not None)
    # Nobody comes to the last stage or the classifier, so what is left without the stage is all there is.
    assert made_early["last_stage_apart"]["0.4"]["macs_share"] * dense == pytest.approx(setting["gated_macs"])


def test_figures_of_exits_become_tables(made_early):
    console = Console(width=250, record=True)
    for table in tables(json.loads(json.dumps(made_early))):
        console.print(table)
    text = console.export_text()
    assert all(word in text for word in ("left early", "Exit 0", "1.000"))


def test_figures_become_json_and_tables(made):
    console = Console(width=250, record=True)
    for table in tables(json.loads(json.dumps(made))):
        console.print(table)
    text = console.export_text()
    assert all(word in text for word in ("not installed", "1/f noise", "blocks.8.conv2", "last stage apart", "1.90"))


def test_a_result_names_where_it_comes_from(tmp_path):
    content = json.loads(provenance.write(tmp_path / "new" / "a.json", "lccl bench", {"rows": [1]}).read_text())
    assert (content["command"], content["rows"]) == ("lccl bench", [1])
    assert content["commit"]
    assert {"processor", "cores", "python", "torch", "numpy", "onnxruntime", "openvino", "flags", "caches"} <= set(
        content["machine"]
    )


# children


def test_a_baseline_in_a_child_checks_its_logits_and_answers(folder, started):
    child = started(Task(str(folder), "torch eager", 1, "fp32"))
    assert (child.time(DENSE, 2) > 0).all()
    assert child.time(DENSE, 2).shape == (2, 4)
    with pytest.raises(AbsentError, match="count"):
        child.count(DENSE)


def test_a_baseline_with_other_logits_is_absent(folder, workload, started):
    np.save(folder / f"logits {DENSE}.npy", workload.logits[DENSE] + 1)
    with pytest.raises(AbsentError, match="its logits are off by"):
        started(Task(str(folder), "torch eager", 1, "fp32"))


@pytest.mark.parametrize(("name", "packages"), [("ONNX Runtime", ["onnxruntime"]), ("OpenVINO", ["openvino"])])
def test_other_runtimes_agree_with_the_twin(folder, started, name, packages):
    for package in ["onnx", *packages]:
        pytest.importorskip(package, exc_type=ImportError)
    assert (started(Task(str(folder), name, 1, "fp32")).time(DENSE, 1) > 0).all()


def test_a_whole_benchmark_of_an_own_engine(workload):
    begun = {}

    class Stages:
        def begin(self, what, turns):
            begun[what] = [0, turns]

            def advance():
                begun[what][0] += 1

            return advance

    options = Options(1, rounds=1, baselines=False, layers=False)
    made = run(replace(workload, settings=workload.settings[::2]), options, Stages())
    assert all(done == turns for done, turns in begun.values())
    assert (made["best_baseline"], made["best_dense"]) == (None, OWN_DENSE)
    assert [row["name"] for row in made["settings"]] == [OPEN, "0.7"]
    assert made["settings"][1]["skip_reached"] == pytest.approx(0.7, abs=0.05)
    assert made["settings"][0]["gated_macs"] == made["dense_macs"] + made["gate_macs"]
    assert all(row["gated_macs"] <= row["executed_macs"] < 1.01 * row["gated_macs"] for row in made["settings"])
    assert "layers" not in made


def test_a_whole_benchmark_of_a_network_with_early_exits(early_workload):
    class Stages:
        def begin(self, *_):
            return lambda: None

    made = run(early_workload, Options(1, rounds=1, baselines=False), Stages())
    shape = shape_of(lower(early_workload.network, early_workload.preprocessing))
    assert made["settings"][0]["left_early"] == 0
    assert made["settings"][0]["gated_macs"] == shape.dense + shape.gates + sum(early.macs for early in shape.exits)
    assert 0 < made["settings"][1]["left_early"] < made["settings"][2]["left_early"] < 1
    for row, setting in zip(made["settings"], early_workload.settings, strict=True):
        assert row["skip_reached"] == pytest.approx(shape.skip_ratio(setting.kept).mean(), abs=0.01)
        assert row["gated_macs"] <= row["executed_macs"] < 1.01 * row["gated_macs"]
    assert [row["step"] for row in made["layers"] if row["dense_ms"] is None] == [
        "AveragePool sidenets.0", "Exit 0", "AveragePool sidenets.1", "Exit 1"
    ]  # fmt: skip


def test_a_baseline_runs_the_twin_of_a_network_with_early_exits(early_workload, tmp_path, started):
    save_workload(early_workload, tmp_path)
    assert (started(Task(str(tmp_path), "torch eager", 1, "fp32")).time(DENSE, 1) > 0).all()


# the command


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["resnet21"], "is neither a bundle's folder nor a network"),
        (["resnet20", "--gate", "none"], "has no gates, so there is nothing to skip"),
        (["resnet20", "--gate", "open"], "unknown gate 'open'"),
        (["resnet18", "--form", "pre"], "post-activation form only"),
        (["resnet20", "--precision", "fp8"], "unknown precision 'fp8'"),
        (["resnet20", "--batch", "0"], "at least one image"),
        (["resnet20", "--rounds", "0"], "at least one thread and one round"),
        (["resnet20", "--skip", "1.5"], "must lie between 0 and 1"),
        (["resnet20", "--images", "nowhere.tar"], "no data set at nowhere.tar"),
        (["."], "cannot be read"),
        ([".", "--gate", "shared"], "leave --form and --gate out"),
    ],
)
def test_what_cannot_be_measured_is_told_in_a_sentence(arguments, sentence):
    result = CliRunner().invoke(app, ["bench", *arguments, "--threads", "1"])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert sentence in " ".join(result.output.split()).split("error ", 1)[1]


def test_split_convolutions_are_not_measured(random_bundle, tmp_path):
    bundles.save(random_bundle(Architecture("resnet20", split="1/2")), tmp_path)
    with pytest.raises(LcclError, match="split convolutions, which the cpu engine, measured here, does not run"):
        find_model(str(tmp_path))


@pytest.mark.parametrize("split", ["none", "1/2"])
def test_steps_have_the_dense_macs_of_their_network(split):
    plan = lower(build(Architecture("resnet20", split=split)), Preprocessing(32, 32, (0.5,) * 3, (0.25,) * 3))
    assert sum(fact.macs for fact in step_facts(plan)) == shape_of(plan).dense
    assert {fact.exits_before for fact in step_facts(plan)} == {0}


def test_drawn_images_say_so():
    assert isinstance(SIXTEEN, Images)
    assert SIXTEEN.source == "1/f noise"
    assert SIXTEEN.images.dtype == np.uint8
