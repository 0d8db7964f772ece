"""What skips is compared with its rivals at equal cost, on test images; choices are made on others."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import figures, photographs, pictures, results
from benchmarks.models import Position
from benchmarks.photographs import tables
from benchmarks.photographs.__main__ import main
from benchmarks.photographs.comparison import AHEAD_BY, COSTS, _and_beyond, _row
from benchmarks.photographs.families import IMAGES, NAMES, NETWORKS, OWN, REMOVED, RIVALS, SKIPPING
from benchmarks.photographs.measuring import Bench, Candidate, front, load_bundles
from lccl.bundle.format import save
from lccl.bundle.training_record import TrainingRecord
from lccl.calibration.intervals import Z_TWO_SIDED, corrected
from lccl.data import hold_out, load_dataset
from lccl.errors import LcclError
from lccl.networks import Architecture
from lccl.plan.run import Setting
from lccl.preprocessing import Preprocessing
from lccl.train.export import first_bundle
from tests.lccl.train.photographs import write

PLAIN = {"plain": 64, "resnet10": 64, "plain-160": 48, "several": 48}


def input_of(size):
    return Preprocessing(size, size, (0.4, 0.3, 0.3), (0.2, 0.2, 0.2), "stretch", scaled=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    write(folder, 20)
    return write(folder, 8, part="test", seed=1)


@pytest.fixture(scope="module")
def models(data, tmp_path_factory, random_network, make_table):
    """A plain twin, one with gates and operating points, and a rival of each kind; small, of random weights."""
    folder = tmp_path_factory.mktemp("bundles")

    def measured(name, size, gate="none", **recipe):
        dataset = load_dataset(data, input_of(size))
        held, architecture = hold_out(dataset.train), Architecture(name, gate=gate, classes=3)
        record = TrainingRecord(recipe=recipe)
        return first_bundle(random_network(architecture), architecture, dataset, held, record, input_of(size))

    for name, size in PLAIN.items():
        network = "resnet18-w32" if name == "resnet10" else "resnet10"
        save(measured(network, size, sizes="32,48" if name == "several" else ""), folder / name)
    save(replace(measured("resnet10", 64, "shared"), table=make_table(8)), folder / "gated")
    return folder


@pytest.fixture(scope="module")
def written(data, models, tmp_path_factory):
    """The folder of the results of both commands."""
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "FOLDER", folder)
        for more in ([], ["--time", "--rounds", "2"]):
            command = ["photographs", str(data), "--models", str(models), "--threads", "1", *more]
            patch.setattr("sys.argv", command)
            main()
    return folder


@pytest.fixture
def compared(written):
    return json.loads((written / "photographs.json").read_text())


@pytest.fixture
def times(written):
    return json.loads((written / "photographs_time.json").read_text())


# the commands


def test_what_has_no_bundle_is_not_run(compared):
    assert {row["network"] for row in compared["not_run"]} == set(NAMES) - {*PLAIN, "gated"}
    assert {row["ours"] for row in compared["rivals"]} == {SKIPPING}
    assert {row["rival"] for row in compared["rivals"]} == set(RIVALS)
    assert {row["network"] for row in compared["lost"]} == {"gated"}


def test_losses_are_against_the_plain_twin_on_the_test_images(compared):
    assert compared["twin"]["images"] == 24
    exact, *_ = compared["lost"]
    assert exact["asked"] == "exact"
    assert exact["lost"] == pytest.approx(100 * (compared["twin"]["accuracy"] - exact["accuracy"]))


def test_a_rival_with_smaller_images_is_measured_at_each_size(compared):
    places = {(row["network"], row["size"]) for row in compared["positions"] if row["family"] == IMAGES}
    assert places <= {("plain-160", 48), ("several", 48), ("several", 32), ("plain", 64)}
    smaller = [row for row in compared["positions"] if row["family"] == IMAGES and row["size"] == 48]
    assert all(0.5 < row["work"] < 0.65 for row in smaller)


def test_without_branches_no_gate_costs_anything(compared):
    removed = [row for row in compared["positions"] if row["family"] == REMOVED]
    assert removed
    assert all(row["work"] <= 1 and bool(row["removed"]) == (row["work"] < 1) for row in removed)


def test_every_layer_is_looked_at(compared):
    assert [row["side"] for row in compared["layers"]] == [16] * 2 + [8] * 2 + [4] * 2 + [2] * 2
    assert all(0 <= row["images_within"] <= 1 for row in compared["layers"])


def test_times_are_taken_of_what_was_compared(compared, times):
    assert {row["batch"] for row in times["rows"]} == {1, 8}
    wanted = {(row["network"], row["asked"]) for row in compared["lost"] if "out_of_reach" not in row}
    wanted |= {(row["network"], row["point"]) for row in compared["positions"] if row["family"] != SKIPPING}
    assert {(row["network"], row["point"]) for row in times["rows"]} == wanted
    assert all(row["ms"] > 0 and row["quartiles"][0] <= row["share"] <= row["quartiles"][1] for row in times["rows"])


def test_times_of_other_bundles_are_refused(data, models, written, monkeypatch):
    other = json.loads((written / "photographs.json").read_text()) | {"bundles": {}}
    monkeypatch.setattr(results, "read", lambda _: other)
    monkeypatch.setattr("sys.argv", ["photographs", str(data), "--models", str(models), "--time"])
    with pytest.raises(LcclError, match="without --time first"):
        main()


def test_bundles_of_other_images_or_fits_are_refused(data, models):
    bundles, _ = load_bundles(models, NAMES)
    other = replace(bundles["resnet10"], splits={"digest": "other"})
    with pytest.raises(LcclError, match="resnet10 was trained on other images"):
        Bench(bundles | {"resnet10": other}, data)
    cropped = replace(bundles["resnet10"], preprocessing=replace(input_of(64), fit="crop"))
    with pytest.raises(LcclError, match="train it with the same --fit"):
        Bench(bundles | {"resnet10": cropped}, data)


def test_nothing_is_compared_without_a_plain_twin(tmp_path):
    with pytest.raises(LcclError, match="the plain twin"):
        load_bundles(tmp_path, NAMES)


# positions


def position(work, right, of=10):
    return Position(work, np.arange(of) < right)


def candidates(*places):
    return {Candidate(f"{work}", 64, "exact", Setting(())): position(work, right) for work, right in places}


def test_a_rival_takes_what_is_best_at_each_cost():
    best = front(candidates((0.25, 5), (0.5, 8), (0.6, 7), (0.75, 8), (0.8, 9), (1.0, 10)))
    assert [candidate.network for candidate in best] == ["0.25", "0.5", "1.0"]


def test_a_rival_that_is_best_for_little_has_that_for_more():
    row = _row(SKIPPING, NETWORKS, {SKIPPING: [position(0.3, 6), position(1.0, 9)], NETWORKS: [position(0.5, 9)]}, 0.75)
    assert row["rival_accuracy"] == pytest.approx(0.9)
    assert len(_and_beyond([position(1.0, 9)])) == 1


def test_below_the_least_cost_of_a_rival_there_is_no_comparison():
    row = _row(SKIPPING, NETWORKS, {SKIPPING: [position(0.3, 6), position(1.0, 9)], NETWORKS: [position(0.5, 9)]}, 0.35)
    assert row["ahead"] is None
    assert row["interval"] == []


def test_intervals_of_five_looks_are_wider_than_one():
    assert corrected(1) == pytest.approx(Z_TWO_SIDED)
    assert corrected(5) == pytest.approx(2.5758, abs=1e-4)


# pages


def versus(*rows):
    """Rows against one rival: points ahead and their interval, by cost."""
    return [
        {"ours": SKIPPING, "rival": IMAGES, "work": cost, "accuracy": 0.9, "rival_accuracy": 0.89, "goal": AHEAD_BY,
         "ahead": ahead, "interval": interval}
        for cost, (ahead, interval) in zip(COSTS, rows, strict=True)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([(1.0, [0.8, 1.2])] * 2 + [(0.0, [-0.5, 0.5])] * 3, "shown"),
        ([(0.8, [-0.1, 1.7])] * 2 + [(0.0, [-0.5, 0.5])] * 3, "reached"),
        ([(0.8, [-0.1, 1.7])] + [(0.0, [-0.5, 0.5])] * 4, "not reached"),
        ([(1.0, [0.8, 1.2])] * 4 + [(-1.0, [-1.5, -0.5])], "not reached"),
        ([(None, [])] * 5, "not run"),
    ],
)
def test_a_rival_is_beaten_at_two_costs_and_beats_nowhere(compared, rows, verdict):
    lines = list(tables.goals_table(compared | {"rivals": versus(*rows)}, None, None, None))
    (line,) = [line for line in lines if f"against {IMAGES}" in line]
    assert line.endswith(f"| {verdict} |")


def test_goals_that_were_not_measured_say_so(compared):
    lines = list(tables.goals_table(compared, None, None, None))
    unmeasured = [line for line in lines if "time at 0.5" in line or "HTTP" in line or "fine-tuned" in line]
    assert [line.endswith("| – | not run |") for line in unmeasured] == [True] * 4


@pytest.mark.parametrize(
    ("reached", "z", "end"),
    [
        (0.51, -1.0, "0.010 off; z at most 1.00 | reached |"),
        (0.5, 2.5, "| not reached |"),
        (0.53, 0.0, "| not reached |"),
    ],
)
def test_what_is_stated_over_http_is_within_bounds(compared, reached, z, end):
    rows = [{"skip_reached": reached, "skip_stated": 0.5, "z": z}, {"skip_reached": 0.3, "skip_stated": 0.3, "z": 0.0}]
    *_, line, _ = tables.goals_table(compared, None, {"rows": rows}, None)
    assert line.endswith(end)


@pytest.mark.parametrize(
    ("ahead", "interval", "verdict"), [(20, [16, 24], "shown"), (16, [12, 20], "reached"), (9, [5, 13], "not reached")]
)
def test_fine_tuning_is_held_against_training_from_nothing(compared, ahead, interval, verdict):
    tuned = {"tuned": 0.9, "fresh": 0.7, "seconds_tuned": 600, "seconds_fresh": 590, "goal": 15}
    *_, line = tables.goals_table(compared, None, None, tuned | {"ahead": ahead, "interval": interval})
    assert "10.0 and 9.8 minutes" in line
    assert line.endswith(f"| {verdict} |")


def test_pages_and_picture_show_what_was_written(compared, times, tmp_path):
    made = {name: list(rows) for name, rows in tables.tables(compared, times, None, None).items()}
    assert len(made["photographs-lost"]) == 2 + 4
    assert len(made["photographs-rivals"]) == 2 + len(COSTS)
    assert len(made["photographs-times"]) == 2 + len(times["rows"]) // 2
    columns = {name: {line.count("|") for line in rows} for name, rows in made.items()}
    assert all(len(counts) == 1 for counts in columns.values()), columns
    pytest.importorskip("matplotlib", reason="matplotlib is an extra of the figures")
    pictures.draw_photographs(tmp_path / "with.svg", compared, times)
    pictures.draw_photographs(tmp_path / "without.svg", compared, None)
    assert "measured time" not in (tmp_path / "without.svg").read_text()


def test_a_page_gets_its_tables(written, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", written)
    assert results.read(photographs.RESULT) is not None
    page = figures.fill_tables("<!-- photographs-lost: x -->\n\n<!-- end of photographs-lost -->\n")
    assert "| skipping | exact |" in page


def test_families_are_told_apart():
    assert len({*OWN, *RIVALS}) == len(OWN) + len(RIVALS) == len(pictures.LINES)
