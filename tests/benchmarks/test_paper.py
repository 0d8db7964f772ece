"""The paper's tables: their rows, rows trained end to end on made-up images, and the page from fixed results."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks.paper.__main__ import PAGE, main
from benchmarks.paper.rows import (
    DATA,
    PRESETS,
    RECIPE,
    RESULTS,
    ROWS,
    RUNS,
    TABLES,
    Budget,
    Published,
    Row,
    Table,
    find,
    pack,
    read_all,
    with_twins,
)
from benchmarks.paper.table import difference, page, table_lines, why_not
from benchmarks.paper.train import plain_macs
from lccl import provenance
from lccl.calibration.intervals import paired_difference
from lccl.errors import LcclError
from lccl.networks import Architecture, build
from lccl.networks.lowering import network_shape
from tests.benchmarks.paper_results import ROW, TWIN, images, result

# the rows


def test_every_table_of_the_paper_is_there():
    assert [len(table.rows) for table in TABLES] == [6, 3, 4, 3, 8, 7, 2, 4, 6, 2]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.label}-{row.run}")
def test_published_figures_are_plausible_percentages(row):
    known = row.published
    for name in ("plain_error", "error", "drop", "speed_up"):
        assert 0 < (50 if getattr(known, name) is None else getattr(known, name)) < 100
    if known.plain_error is not None:
        assert abs(known.error - known.plain_error) < 1.5


def test_published_macs_are_what_the_published_speed_up_leaves_of_the_whole_network():
    for row in ROWS:
        if row.published.macs and row.published.speed_up:
            run = RUNS[row.run]
            plain = Architecture(run.network["name"], run.network["form"], "none")
            left = network_shape(plain, DATA[run.data].size).dense * (1 - row.published.speed_up / 100)
            assert left == pytest.approx(row.published.macs, rel=0.025), row.label


@pytest.mark.parametrize("run", RUNS.values(), ids=lambda run: run.name)
def test_every_row_is_a_network_that_there_is(run):
    with torch.device("meta"):
        network = build(Architecture(**run.network, classes=DATA[run.data].classes))
    assert network.image_size == DATA[run.data].size
    assert bool(network.skip_convs) == (run.network["gate"] != "none")
    assert run.twin == run.twin.twin == RUNS[run.twin.name]


def test_every_row_shows_a_run_and_every_run_is_shown_or_a_twin():
    twins = {run.twin.name for run in RUNS.values()}
    assert set(RUNS) - twins <= {row.run for row in ROWS} <= set(RUNS)
    assert all(name == run.name for name, run in RUNS.items())
    assert {name for preset in PRESETS.values() for name in preset.runs} <= set(RUNS)


def test_no_network_is_trained_under_two_names():
    settings = [(dict(run.network), run.data, dict(run.recipe), run.rival) for run in RUNS.values()]
    assert all(setting not in settings[:index] for index, setting in enumerate(settings))


def test_a_twin_comes_before_its_rows_and_once():
    names = [run.name for run in with_twins([RUNS["resnet20-shared"], RUNS["resnet20-pointwise"], RUNS["wrn-28-2"]])]
    assert names == ["resnet20-pre-plain", "resnet20-shared", "resnet20-pointwise", "wrn-28-2-pre-plain", "wrn-28-2"]
    assert with_twins([RUNS["resnet20-pre-plain"]]) == [RUNS["resnet20-pre-plain"]]


def test_a_row_and_its_twin_differ_in_the_gates_alone():
    run = RUNS["resnet20-pointwise"]
    assert Architecture(**run.network).plain_twin == Architecture(**run.twin.network)


def test_an_unknown_row_names_those_there_are():
    with pytest.raises(LcclError, match=r"no row 'resnet21': use resnet20-shared, .*wrn-28-2"):
        find("resnet21")


# training


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """CIFAR-10's binary folder with 130 images to train on and 20 to test on, ten classes told by brightness."""
    folder, random = tmp_path_factory.mktemp("data") / "tiny.v1", np.random.default_rng(0)
    folder.mkdir()
    for name, count in (("data_batch_1.bin", 130), ("test_batch.bin", 20)):
        labels = np.arange(count) % 10
        pixels = random.integers(0, 40, (count, 3072)) + 20 * labels[:, None]
        np.concatenate([labels[:, None], pixels], axis=1).astype(np.uint8).tofile(folder / name)
    return folder


@pytest.fixture(scope="module")
def trained(cifar, tmp_path_factory):
    """Two rows that share a twin, after one epoch: folders of results and checkpoints."""
    results, runs = tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("runs")
    main(words(cifar, results, "resnet20-shared", "resnet20-pointwise"), runs)
    return results, runs


def words(data, results, *names):
    return [*names, "--data", str(data), "--results", str(results), "--epochs", "1", "--images", "128"]


def files(folder):
    return {file.relative_to(folder).as_posix(): file for file in folder.rglob("*.json")}


def test_rows_and_their_common_twin_are_trained_at_one_budget(trained):
    found = files(trained[0])
    names = ("resnet20-pre-plain", "resnet20-shared", "resnet20-pointwise")
    assert set(found) == {f"tiny-1-epochs-128-images/{name}-s0.json" for name in names}
    values = [json.loads(file.read_text()) for file in found.values()]
    assert len({value["train_digest"] for value in values}) == 1
    for value in values:
        assert value["budget"] == {"data": "tiny", "epochs": 1, "images": 128}
        assert {name: value["recipe"][name] for name in RECIPE} == RECIPE
        assert value["recipe"]["skip_top"] == 0
        assert value["recipe"]["exact_share"] == 1
        assert (value["recipe"]["gate_scale"], value["recipe"]["gate_shift"]) == (1, 0)
        assert value["architecture"]["form"] == "pre"
        assert value["command"] == provenance.command()
        assert {"commit", "machine"} <= value.keys()


def test_what_is_stated_follows_from_what_was_counted(trained):
    for file in files(trained[0]).values():
        value = json.loads(file.read_text())
        (result,) = (result for result in read_all(trained[0]) if result.run == value["run"])
        assert len(result.right) == value["test"]["images"] == 20
        assert result.error == pytest.approx(value["error"])
        assert result.speed_up == pytest.approx(1 - value["gated_macs"] / 40_551_040)
        gates = {"resnet20-shared": 1_492_992, "resnet20-pointwise": 4_456_448}.get(result.run)
        if gates is None:
            assert result.speed_up == result.zeros == 0
        else:
            kept = (1 - value["zeros"]) * (40_551_040 - 442_368 - 640)  # all but stem and classifier is gated
            assert value["gated_macs"] == pytest.approx(kept + gates + 442_368 + 640, abs=50)


def test_what_has_a_result_is_not_trained_again_unless_asked(trained, cifar, tmp_path, monkeypatch, capsys):
    results, runs = trained[0], tmp_path
    monkeypatch.setattr("benchmarks.paper.train.train", lambda *_, **__: pytest.fail("trained"))
    before = {name: file.read_bytes() for name, file in files(results).items()}
    main(words(cifar, results, "resnet20-shared"), runs)
    assert "every result is there" in capsys.readouterr().out
    assert before == {name: file.read_bytes() for name, file in files(results).items()}
    with pytest.raises(pytest.fail.Exception, match="trained"):
        main([*words(cifar, results, "resnet20-shared"), "--again"], runs)


def test_a_row_goes_on_from_its_checkpoint(trained, cifar, tmp_path, capsys):
    """The twin's training is done, its result lost: nothing is left to train, and the result is the same."""
    results, runs = trained
    name = "tiny-1-epochs-128-images/resnet20-pre-plain-s0.json"
    main(words(cifar, tmp_path, "resnet20-pre-plain"), runs)
    assert "epoch" not in capsys.readouterr().out.replace("1-epochs", "")
    again, before = (json.loads((folder / name).read_text()) for folder in (tmp_path, results))
    assert again == before


def test_rivals_are_trained_and_tested_too_a_pruned_one_from_its_twin(cifar, tmp_path):
    main(words(cifar, tmp_path, "resnet20-pfec-24", "resnet20-xnor", "resnet20-bwn"), tmp_path / "runs")
    found = {result.run: result for result in read_all(tmp_path)}
    assert set(found) == {f"resnet20-{name}" for name in ("post-plain", "pre-plain", "pfec-24", "xnor", "bwn")}
    saved = {name: found[f"resnet20-{name}"].speed_up for name in ("pfec-24", "bwn", "xnor")}
    assert saved == pytest.approx({"pfec-24": 0.242, "bwn": 0.494, "xnor": 0.973}, abs=0.02)
    assert all(len(result.right) == 20 for result in found.values())


def test_a_row_that_fails_stops_no_other(cifar, tmp_path, monkeypatch, capsys):
    def train_row(run, *_):
        if run.name == "resnet20-pre-plain":
            raise LcclError("the loss is no longer finite")
        return {"run": run.name}

    monkeypatch.setattr("benchmarks.paper.train.train_row", train_row)
    with pytest.raises(SystemExit) as stopped:
        main(words(cifar, tmp_path, "resnet20-shared"), tmp_path)
    assert stopped.value.code == 1
    assert "1 of 2 rows failed: resnet20-pre-plain, seed 0: the loss is no longer finite" in capsys.readouterr().err
    assert [file.name for file in files(tmp_path).values()] == ["resnet20-shared-s0.json"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["resnet21"], "no row 'resnet21'"),
        (["cifar100-wrn-16-4"], "has 10 classes: these rows need CIFAR-100"),
        (["wrn-28-2", "cifar100-wrn-16-4"], "different data sets (cifar10, cifar100)"),
        (["resnet20-shared", "--images", "131"], "cannot train on 131 of 130 images"),
        (["resnet20-shared", "--images", "127"], "at least 128 are needed"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_sentence(asked, message, cifar, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*asked, "--data", str(cifar), "--results", str(tmp_path)], tmp_path)
    assert stopped.value.code == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("asked", "message"), [([], "nothing to do"), (["resnet20-shared"], "give --data")])
def test_an_incomplete_command_says_what_is_missing(asked, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(asked, tmp_path)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_preset_trains_its_rows_for_its_seeds_and_epochs(cifar, tmp_path, monkeypatch):
    heard = []
    monkeypatch.setattr("benchmarks.paper.__main__.train_rows", lambda rows, options: heard.append((rows, options)))
    main(["--rows", "gpu", "--data", str(cifar)], tmp_path)
    main(["--rows", "gpu", "--data", str(cifar), "--seed", "4", "5", "--epochs", "2"], tmp_path)
    assert [run.name for run in heard[0][0]] == list(PRESETS["gpu"].runs)
    assert [(options.seeds, options.epochs) for _, options in heard] == [((0, 1, 2), 164), ((4, 5), 2)]


# the page


SHARED = Row("ResNet-20", ROW, Published(error=8.32, speed_up=34.9))


def line(results, row=SHARED):
    _, _, _, *lines, _ = table_lines(Table("Title", (row,)), results)
    return lines


def test_a_row_stands_beside_what_was_published_and_its_twin():
    found = line([result(TWIN, images(1000, 100)), result(ROW, images(1000, 130))])
    low, high = paired_difference(30, 0, 1000)
    assert found == [
        f"| ResNet-20 | 8.32 | 34.9 | 10.00 | 13.00 | +3.00 ({100 * low:+.2f} – {100 * high:+.2f}) "
        "| 30.0 | 3.004E7 | 25.0 | 1 | 20 × 5,000, toy |"
    ]


def test_seeds_give_mean_and_deviation_and_are_paired_by_seed():
    results = [result(TWIN, images(1000, wrong), seed) for seed, wrong in ((0, 100), (1, 110), (9, 900))]
    results += [result(ROW, images(1000, wrong), seed) for seed, wrong in ((0, 120), (1, 150), (2, 180))]
    (found,) = line(results)
    low, high = paired_difference(30, 0, 1000)
    assert f"| 10.50 ± 0.71 | 15.00 ± 3.00 | +3.00 ({100 * low:+.2f} – {100 * high:+.2f}) |" in found
    assert "| 3 | 20 × 5,000" in found


def test_a_plain_network_is_not_compared_with_itself():
    (found,) = line([result("resnet20-post-plain", images(1000, 80))], Row("ResNet-20", "resnet20-post-plain"))
    assert found.startswith("| ResNet-20 | – | 8.00 | – |")


def test_split_convolutions_are_held_against_the_plain_network():
    run = RUNS["resnet20-spconv-1-2"]
    assert run.twin.network == {"name": "resnet20", "form": "post", "gate": "none"}
    assert plain_macs(run) == 40_551_040
    found = line([result(run.twin.name, images(1000, 80)), result(run.name, images(1000, 90))], Row("", run.name))
    assert "| 8.00 | 9.00 | +1.00 (" in found[0]


def test_budgets_have_lines_of_their_own_and_twins_of_the_same_budget():
    results = [result(TWIN, images(1000, 100), epochs=20), result(ROW, images(1000, 100), epochs=20)]
    results += [result(ROW, images(1000, 200), epochs=3)]
    assert line(results) == line(results[:2])  # of the largest
    _, _, _, first, second, _ = table_lines(Table("Title", (SHARED,), every_budget=True), results)
    assert "| – | 20.00 | – | 30.0 | 3.004E7 | 25.0 | 1 | 3 × 5,000, toy |" in first
    assert "| 10.00 | 10.00 | +0.00 (" in second


def test_a_difference_counts_both_sides_against_the_twin():
    first, second = np.ones(200, bool), np.ones(200, bool)
    first[:3], second[100:110] = False, False
    low, high = paired_difference(10, 3, 200)
    found = difference([(result(TWIN, first), result(ROW, second))])
    assert found == f"+3.50 ({100 * low:+.2f} – {100 * high:+.2f})"


def test_results_on_different_images_are_never_paired():
    pair = result(TWIN, [True], images="a"), result(ROW, [True], images="b")
    with pytest.raises(LcclError, match="different images"):
        difference([pair])


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        ("resnet20-shared", "not run"), ("resnet20-post-plain", "not run"),
        ("resnet110-shared", "not run: needs a GPU"),
        ("cifar100-wrn-40-1", "not run: needs CIFAR-100"), ("imagenet-resnet18-shared", "not run: needs ImageNet"),
    ],
)  # fmt: skip
def test_a_row_without_a_result_says_why(run, reason):
    assert why_not(Row("", run)) == reason
    assert f"| {reason} |" in line([], Row("", run))[0]


def test_a_run_shows_wherever_its_row_stands(trained):
    text = page(trained[0])
    lines = [line for line in text.splitlines() if "1 × 128, tiny" in line]
    assert [line.split(" |")[0] for line in lines] == [
        "| ResNet-20, pointwise", "| ResNet-20, shared", "| 0 ± 1, half open, as all other rows", "| Aft-Aft",
        "| conv + BN + ReLU", "| LCCL, shared"
    ]  # fmt: skip
    assert lines[1].split("| 34.9 |")[1] == lines[3].split("| 34.9 |")[1]


def test_the_command_writes_the_page(trained, tmp_path):
    main(["--table", "--results", str(trained[0])], to=tmp_path / "paper.md")
    assert (tmp_path / "paper.md").read_text(encoding="utf-8") == page(trained[0])


def test_right_and_wrong_survive_a_file(tmp_path):
    right = np.random.default_rng(0).random(1003) < 0.8
    value = {
        "run": ROW, "recipe": {"seed": 3}, "budget": {"data": "toy", "epochs": 2, "images": 128},
        "test": {"images": 1003, "digest": "d", "right": pack(right)}, "zeros": 0.1,
        "gated_macs": 75, "dense_macs": 100,
    }  # fmt: skip
    (tmp_path / "any").mkdir()
    (tmp_path / "any" / "one.json").write_text(json.dumps(value))
    (found,) = read_all(tmp_path)
    assert np.array_equal(found.right, right)
    assert (found.run, found.seed, found.budget) == (ROW, 3, Budget("toy", 2, 128))
    assert (found.macs, found.speed_up) == (75, 0.25)
    (tmp_path / "any" / "one.json").write_text("{}")
    with pytest.raises(LcclError, match="is not a result"):
        list(read_all(tmp_path))


def test_the_committed_page_is_what_the_committed_results_give():
    assert PAGE.read_text(encoding="utf-8") == page(RESULTS)


def test_committed_results_are_of_known_rows_and_the_recipe_that_the_page_states():
    for file in files(RESULTS).values():
        value = json.loads(file.read_text(encoding="utf-8"))
        run = RUNS[value["run"]]
        assert file.stem == f"{run.name}-s{value['recipe']['seed']}"
        stated = {**RECIPE, **run.recipe}
        if run.network["gate"] == "none":
            stated = {name: stated[name] for name in stated if not name.startswith("gate_")}
        assert {name: value["recipe"][name] for name in stated} == stated
        assert {name: value["architecture"][name] for name in run.network} == dict(run.network)
