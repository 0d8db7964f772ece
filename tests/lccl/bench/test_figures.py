"""From samples to figures, by setting and by step, and from figures to tables."""

import json

import numpy as np
import pytest
from rich.console import Console

from benchmarks import results
from lccl.bench.report import tables
from lccl.bench.run import Measured, figures, realised, step_facts
from lccl.bench.turns import Contestant, Samples
from lccl.bench.workload import DENSE, OPEN, OWN, OWN_DENSE, Counts
from lccl.networks import Architecture, build
from lccl.networks.lowering import lower
from lccl.plan.geometry import shape_of
from lccl.preprocessing import Preprocessing
from tests.lccl.bench.conftest import FakeRunner


@pytest.mark.parametrize(
    ("time_share", "macs_share", "expected"),
    [(0.5, 0.5, 1.0), (0.6, 0.5, 0.8), (1.2, 0.5, -0.4), (0.19, 0.1, 0.9), (0.9, 1.0, None), (1.0, 1.03, None)],
)
def test_realised(time_share, macs_share, expected):
    assert realised(time_share, macs_share) == (None if expected is None else pytest.approx(expected))


@pytest.fixture(scope="module")
def made(workload):
    """Figures of made-up seconds: a baseline at 8 ms, own dense at 10 ms, 0.25 at 8 ms and 0.7 at 5 ms."""
    names = {"ONNX Runtime": 8, OWN_DENSE: 10, f"{OWN} {OPEN}": 11, f"{OWN} 0.25": 8, f"{OWN} 0.7": 5}
    slow = {f"{name}, 1 thread": 1.9 * names[name] for name in (OWN_DENSE, f"{OWN} 0.7")}
    drift = np.array([1.0, 1.5, 2.0])
    samples = Samples({name: drift * value / 1000 for name, value in (names | slow).items()}, 32)
    contestants = [Contestant("OpenVINO", "baseline", 2, DENSE, absent="not installed")]
    for name in names | slow:
        kind = "own" if name.startswith((OWN, OWN_DENSE)) else "baseline"
        contestants.append(Contestant(name, kind, 1 if name in slow else 2, "", FakeRunner()))
    counts = {
        setting.name: Counts(setting.kept, np.full(16, 50_000_000), np.zeros(16, int)) for setting in workload.settings
    }
    steps = len(workload.plan.steps)
    profiles = {OWN_DENSE: np.full(steps, 0.01)}
    for setting, share in ((OPEN, 1.1), ("0.25", 0.8), ("0.7", 0.5)):
        profiles[f"{OWN} {setting}"] = np.full(steps, 0.01 * share)
    return figures(workload, "fp32", Measured(tuple(contestants), samples, counts, profiles))


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
    assert len(step_facts(workload.dense_plan)) == len(made["layers"])


@pytest.fixture(scope="module")
def made_early(early_workload):
    """Figures where half of the images leave by the first exit and half by the second.

    The n-th step of own dense takes n ms, of LCCL a tenth of that.
    """
    network, twin = early_workload.plan.steps, early_workload.dense_plan.steps
    seconds = {OWN_DENSE: 0.01} | {f"{OWN} {setting.name}": 0.01 for setting in early_workload.settings}
    contestants = tuple(Contestant(name, "own", 1, "", FakeRunner()) for name in seconds)
    kept = np.full((16, 18), 100)
    left = np.repeat([0, 1], 8)
    kept[:8, 6:], kept[8:, 12:] = 0, 0
    counts = {setting.name: Counts(kept, np.full(16, 1), left) for setting in early_workload.settings}
    profiles = {name: np.arange(1, len(network) + 1) / 10_000 for name in seconds}
    profiles[OWN_DENSE] = np.arange(1, len(twin) + 1) / 1000
    samples = Samples({name: np.array([each]) for name, each in seconds.items()}, 1)
    return figures(early_workload, "fp32", Measured(contestants, samples, counts, profiles))


def test_steps_are_held_against_the_twins_of_the_same_name(made_early, early_workload):
    twin = [fact.name for fact in step_facts(early_workload.dense_plan)]
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
    shape = shape_of(early_workload.plan)
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


@pytest.mark.parametrize("file", sorted((results.FOLDER / "cpu").glob("*.json")), ids=lambda file: file.stem)
def test_committed_figures_become_tables(file):
    assert tables(json.loads(file.read_text()))


def test_figures_become_json_and_tables(made):
    console = Console(width=250, record=True)
    for table in tables(json.loads(json.dumps(made))):
        console.print(table)
    text = console.export_text()
    assert all(word in text for word in ("not installed", "1/f noise", "blocks.8.conv2", "last stage apart", "1.90"))


@pytest.mark.parametrize("split", ["none", "1/2"])
def test_steps_have_the_dense_macs_of_their_network(split):
    plan = lower(build(Architecture("resnet20", split=split)), Preprocessing(32, 32, (0.5,) * 3, (0.25,) * 3))
    assert sum(fact.macs for fact in step_facts(plan)) == shape_of(plan).dense
    assert {fact.exits_before for fact in step_facts(plan)} == {0}
