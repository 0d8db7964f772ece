"""The GPU benchmarks as far as they need no GPU: their arithmetic, their command, and all of a measurement on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from benchmarks.gpu import baselines, environment, kernels, networks, summary, verdict
from benchmarks.gpu.goals import goals, show
from benchmarks.gpu.kernels import Effort, Layer, layers_of
from benchmarks.gpu.networks import CASES, DENSE, SKIP, Case, realised
from benchmarks.gpu.timing import Samples, WallClock, take_turns
from benchmarks.gpu.train import row
from benchmarks.paper.rows import RUNS
from lccl.engines.cuda.devices import proven
from lccl.engines.reference import ReferenceEngine
from lccl.errors import LcclError
from lccl.networks import Architecture, build
from lccl.networks.lowering import lower
from lccl.plan.geometry import shape_of
from lccl.train.export import network_input

HOME = Path(__file__).parents[2]
SCRIPT = HOME / "benchmarks" / "on_gpu.sh"
CPU = torch.device("cpu")

# timing


def samples(**milliseconds):
    return Samples({name: np.array(turns) / 1e3 for name, turns in milliseconds.items()})


def test_figures_are_the_median_and_the_quantiles_over_all_launches():
    made = samples(own=[[1, 2, 3], [4, 5, 6]])
    assert made.figures("own") == {"median_ms": 3.5, "p20_ms": 2.0, "p80_ms": 5.0}


def test_ratios_are_paired_by_round_so_that_drift_is_not_in_them():
    made = samples(own=[[1, 1], [10, 10], [100, 100]], other=[[2, 2], [20, 20], [200, 200]])
    assert made.ratio("own", "other") == 0.5
    assert samples(own=[[1], [9], [2]], other=[[2], [3], [4]]).ratio("own", "other") == 0.5
    assert made.fastest(["other", "own"]) == "own"


def test_every_contestant_has_as_many_turns_and_runs():
    runs = dict.fromkeys("abc", 0)

    def count(name):
        def launch():
            runs[name] += 1

        return launch

    made = take_turns({name: count(name) for name in runs}, WallClock(), rounds=4, runs=3)
    assert all(made.seconds[name].shape == (4, 3) for name in runs)
    assert len(set(runs.values())) == 1


def test_the_wall_clock_tells_seconds():
    assert 0.02 <= WallClock().seconds(lambda: time.sleep(0.02), 2).min() < 1


# layers and formulas


@pytest.mark.parametrize(("network", "shapes"), [("resnet18", 7), ("wrn-28-10", 6)])
def test_the_layers_of_a_network_are_its_distinct_gated_convolutions(network, shapes):
    layers = layers_of(network)
    assert len(layers) == len(set(layers)) == shapes
    assert {layer.kernel for layer in layers} == {3}
    for layer in layers:
        _, _, height, width = layer.images(1)
        assert (height, width) == (layer.stride * layer.height, layer.stride * layer.width)
        assert layer.macs == layer.height * layer.width * int(np.prod(layer.weight))


def test_layers_macs_are_those_that_the_network_counts():
    network = build(Architecture("resnet20"))
    shape = shape_of(lower(network, network_input(32)))
    counted = {layer.convolution.macs for layer in shape.layers}
    assert {layer.macs for layer in layers_of("resnet20")} == counted


def test_realised_is_the_saved_time_over_the_saved_macs():
    assert realised(6, 10, 60, 100) == pytest.approx(1)
    assert realised(8, 10, 60, 100) == pytest.approx(0.5)
    assert realised(11, 10, 60, 100) < 0


def test_cudnn_is_given_the_shapes_of_the_layer():
    layer = next(layer for layer in layers_of("resnet20") if layer.stride == 2)
    small = baselines.convolutions(layer.images(2), layer.weight, layer.stride, CPU)
    assert set(small) == {"fp16", "bf16"}
    assert small["bf16"]().shape == (2, layer.out_channels, layer.height, layer.width)


# one layer


class StandInLayer:
    """Own kernels whose time is that of the cells they keep, and a gate that takes no time."""

    def __init__(self, layer, batch, skip):
        self.kept = 1 - skip
        self.convolution = lambda: time.sleep(self.kept * 0.02)
        self.dense = lambda: time.sleep(0.02)
        self.gate = lambda: None


def test_kernels_are_measured_in_three_parts_each_kept_as_it_comes():
    layer = Layer("toy", 4, 8, 3, 1, 4, 4, 4 * 4 * 8 * 9 * 4)
    kept = []
    made = kernels.measure(
        [layer], 2, StandInLayer, WallClock(), CPU, Effort(3, 2), lambda figures: kept.append(json.dumps(figures))
    )
    assert len(kept) == 3
    assert json.loads(kept[-1]) == json.loads(json.dumps(made))
    found = made["all_rows"][0]
    assert found["best_baseline"] in ("cudnn fp16", "cudnn bf16")
    assert 0 < found["rate_against_cudnn"] < 1
    rates = made["random_rows"][0]["rate_kept"]
    assert all(rates[f"{skip:g}"] == pytest.approx(1, abs=0.25) for skip in kernels.SKIP)
    assert made["gate"][0]["each_us"] < 1000
    out = StringIO()
    kernels.show(made, Console(file=out, width=150))
    assert "toy 4→8 4²" in out.getvalue()


INTERPRETED = """
import json, torch
from benchmarks.gpu import kernels, ours
from benchmarks.gpu.timing import WallClock
from lccl.engines.cuda.tiles import Tiles
device = torch.device("cpu")
make = ours.layers_on(device, "fp16", Tiles("defaults", {}))
layer = kernels.Layer("toy", 16, 32, 3, 2, 4, 4, 4 * 4 * 32 * 9 * 16)
made = kernels.measure([layer], 2, make, WallClock(), device, kernels.Effort(1, 1), lambda figures: None)
print(json.dumps([made, make(layer, 2, 0.5).kept, make(layer, 2, 0.0).kept]))
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_own_kernels_of_a_layer_are_measured_by_tritons_interpreter_too():
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], env={**os.environ, "TRITON_INTERPRET": "1"}, cwd=HOME,
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made, half, whole = json.loads(done.stdout)
    assert set(made["all_rows"][0]["contestants"]) == {"own", "own, no list", "cudnn fp16", "cudnn bf16"}
    assert 0.2 < half < 0.8
    assert whole == 1


# whole networks


class StandInNetwork:
    """The reference engine in the own engine's place."""

    def __init__(self, plan, batch):
        self.shape = shape_of(plan)
        self.engine = ReferenceEngine(plan, CPU)

    def run(self, images, options):
        return self.engine.run(images, options)

    def launch(self, images, options):
        return lambda: self.engine.run(images, options)


class WrongNetwork(StandInNetwork):
    """It answers, but not what was asked."""

    def run(self, images, options):
        output = super().run(images, options)
        return replace(output, logits=output.logits[:, ::-1])


@pytest.fixture(scope="module")
def fitted():
    return networks.fit("resnet20", (0.5,))


@pytest.fixture
def no_compiler(monkeypatch):
    """Compiling takes most of a minute; eager stands in."""
    monkeypatch.setattr(baselines, "_compiled", lambda module, frozen: module)


@pytest.mark.usefixtures("no_compiler")
def test_a_network_is_measured_with_the_ratio_that_it_reached(fitted):
    made = networks.measure(Case("resnet20", 2, 1), fitted, StandInNetwork, WallClock(), CPU, 2, float("inf"))
    (setting,) = made["settings"]
    assert setting["name"] == "0.5"
    assert setting["skip_reached"] == pytest.approx(0.5, abs=0.15)
    assert setting["gated_macs"] < setting["dense_macs"] == 40551040
    assert set(made["baselines"]) == set(made["own_dense_error"])
    assert sum(name.startswith(baselines.COMPILED) for name in made["baselines"]) == 4
    assert set(made["end_to_end"]) == {DENSE, "0.5", made["best_baseline"]}
    assert max(made["own_dense_error"].values()) < 0.05
    json.dumps(made)


@pytest.mark.usefixtures("no_compiler")
def test_one_baseline_is_compiled_even_when_time_is_up_and_what_is_left_out_is_told(fitted):
    pixels = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    found = baselines.dense_networks(fitted.twin, fitted.model.preprocessing, pixels, WallClock(), until=0)
    assert sum(name.startswith(baselines.COMPILED) for name in found.ready) == 1
    assert list(found.failed.values()) == ["no time was left to compile it"] * 3


def test_a_compiler_that_fails_is_told_and_the_others_count(fitted, monkeypatch):
    def broken(module, frozen):
        raise RuntimeError("no such thing")

    monkeypatch.setattr(baselines, "_compiled", broken)
    pixels = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    found = baselines.dense_networks(fitted.twin, fitted.model.preprocessing, pixels, WallClock())
    assert set(found.ready) == {"eager fp16", "eager bf16"}
    assert set(found.failed.values()) == {"RuntimeError: no such thing"}


@pytest.mark.usefixtures("no_compiler")
def test_wrong_answers_are_not_timed(fitted):
    with pytest.raises(LcclError, match="disagrees with the baselines"):
        networks.measure(Case("resnet20", 2, 1), fitted, WrongNetwork, WallClock(), CPU, 1, 0)


def test_cases_that_fail_or_come_too_late_are_noted_and_kept(monkeypatch):
    def fail(*arguments):
        raise LcclError("no thresholds")

    monkeypatch.setattr(networks, "fit", fail)
    kept = []
    late = networks.measure_all(CASES[:1], StandInNetwork, WallClock(), CPU, 1, 0, kept.append)
    assert late["not_measured"] == {"resnet18 b256": "no time was left"}
    made = networks.measure_all(CASES[:1], StandInNetwork, WallClock(), CPU, 1, float("inf"), kept.append)
    assert made["not_measured"] == {"resnet18 b256": "LcclError: no thresholds"}
    assert kept == [made]
    out = StringIO()
    networks.show(made, Console(file=out))
    assert "no thresholds" in out.getvalue()


def test_names_of_cases_are_what_the_command_line_takes():
    assert len({case.name for case in CASES}) == len(CASES)
    assert 0.5 in SKIP


# goals


def case(name, own_dense, at_half, share):
    setting = {"name": "0.5", "realised": share, "speed_against_best_baseline": at_half}
    return {
        "case": name,
        "baselines": {"torch.compile frozen fp16": {}},
        "own_dense": {"speed_against_best_baseline": own_dense},
        "settings": [{"name": "0.3"}, setting],
    }


def test_goals_are_reached_at_their_least_and_missed_below():
    made = {"cases": [case("wrn-28-10 b256", 1.1, 1.8, 0.9), case("resnet18 b256", 1.099, 1.599, 0.799)]}
    found = {goal.what: goal.reached for goal in goals(None, made) if goal.figure is not None}
    assert found == {
        "own dense / best baseline, resnet18 b256": False,
        "own dense / best baseline, wrn-28-10 b256": True,
        "realised at 0.5, wrn-28-10 b256": True,
        "realised at 0.5, resnet18 b256": False,
        "speed-up / best baseline at 0.5, wrn-28-10 b256": True,
        "speed-up / best baseline at 0.5, resnet18 b256": False,
    }


def test_goals_that_were_not_measured_are_not_reached():
    found = goals(None, None)
    assert len(found) == 16
    assert not any(goal.reached for goal in found)
    out = StringIO()
    show(found, Console(file=out, width=120))
    assert out.getvalue().count("not measured") == len(found)


def test_every_layer_has_a_goal_of_its_own():
    rows = [{"layer": "a", "rate_against_cudnn": 0.9}, {"layer": "b", "rate_against_cudnn": 0.89}]
    found = goals({"all_rows": rows}, None)[:2]
    assert [(goal.what[-1], goal.reached) for goal in found] == [("a", True), ("b", False)]


def test_eager_baselines_alone_reach_no_goal():
    made = case("resnet18 b256", 9.0, 9.0, 0.9)
    made["baselines"] = {"eager fp16": {}}
    reached = [goal.what for goal in goals(None, {"cases": [made]}) if goal.reached]
    assert reached == ["realised at 0.5, resnet18 b256"]


def test_the_goals_name_cases_that_are_measured():
    names = {goal.what.split(", ")[-1] for goal in goals({"all_rows": []}, None)[1:]}
    assert names == {case.name for case in CASES}


# the tests' verdict


def junit(path, *suites):
    lines = "".join(f'<testsuite tests="{t}" failures="{f}" errors="{e}" skipped="{s}"/>' for t, f, e, s in suites)
    path.write_text(f"<testsuites>{lines}</testsuites>")
    return path


def test_a_report_becomes_counts(tmp_path):
    report = junit(tmp_path / "report.xml", (10, 1, 2, 3), (5, 0, 0, 0))
    assert verdict.counts(report) == {"passed": 9, "failed": 1, "errors": 2, "skipped": 3}


@pytest.mark.parametrize("content", [None, "", "<testsuite"])
def test_without_a_whole_report_there_is_an_error(tmp_path, content):
    report = tmp_path / "report.xml"
    if content is not None:
        report.write_text(content)
    assert verdict.counts(report) == {"passed": 0, "failed": 0, "errors": 1, "skipped": 0}


@pytest.mark.parametrize(
    ("passed", "failed", "errors", "proved"), [(1, 0, 0, True), (0, 0, 0, False), (9, 1, 0, False), (9, 0, 1, False)]
)
def test_only_tests_that_ran_and_passed_prove(passed, failed, errors, proved):
    assert verdict.proves({"passed": passed, "failed": failed, "errors": errors}) == proved


def a_run(folder, gpu="NVIDIA H200"):
    machine = {"torch": "2.11.0", "triton": "3.6.0", "python": "3.12.3"} | ({"gpu": {"name": gpu}} if gpu else {})
    summary.write(folder / "summary.json", {"commit": "abc", "machine": machine, "stages": {}})
    return folder


def ended(folder):
    out = StringIO()
    return summary.end(folder, Console(file=out, width=200)), out.getvalue()


def test_the_verdict_names_device_versions_and_command(tmp_path):
    status = summary.tests(a_run(tmp_path), junit(tmp_path / "r.xml", (3, 0, 0, 1)), "python -m pytest tests -q")
    assert status == 0
    assert json.loads((tmp_path / "tests.json").read_text()) == {
        "device": "NVIDIA H200", "passed": 2, "failed": 0, "errors": 0, "skipped": 1, "commit": "abc",
        "torch": "2.11.0", "triton": "3.6.0", "python": "3.12.3", "command": "python -m pytest tests -q",
    }  # fmt: skip


@pytest.mark.parametrize("failures", [0, 1])
def test_the_engine_takes_the_verdict_as_its_record(tmp_path, failures):
    summary.tests(a_run(tmp_path), junit(tmp_path / "r.xml", (3, failures, 0, 0)), "python -m pytest")
    (tmp_path / "tests.json").rename(tmp_path / "nvidia-h200.json")
    assert proven("NVIDIA H200", tmp_path) == (not failures)


@pytest.mark.parametrize(
    ("gpu", "failures", "tests", "told"),
    [
        ("NVIDIA H200", 0, "tests/lccl/cuda", True),
        ("NVIDIA H200", 1, "tests/lccl/cuda", False),
        ("NVIDIA H200", 0, "tests/lccl/cuda -k one", False),
        (None, 0, "tests/lccl/cuda", False),
    ],
)
def test_what_makes_a_device_proven_is_told_when_all_tests_passed_on_it(tmp_path, gpu, failures, tests, told):
    report = junit(tmp_path / "r.xml", (3, failures, 0, 0))
    summary.tests(a_run(tmp_path, gpu), report, f"python -m pytest {tests} -q -ra")
    assert ("lccl/engines/cuda/proven/nvidia-h200.json" in ended(tmp_path)[1]) == told


def test_a_failed_stage_fails_the_run_and_an_unusable_sanitizer_does_not(tmp_path):
    a_run(tmp_path)
    summary.stage(tmp_path, "kernels", 0, 3)
    summary.stage(tmp_path, "sanitizer", 9, 3)
    assert ended(tmp_path)[0] == 0
    summary.stage(tmp_path, "networks", 124, 3)
    status, said = ended(tmp_path)
    assert status == 1
    assert "networks: ran out of time (3 s)" in said


def test_the_commit_is_the_environments_where_it_has_one(monkeypatch):
    monkeypatch.setenv("COMMIT", "abc1234")
    assert environment.describe(CPU)["commit"] == "abc1234"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_nothing_is_begun(tmp_path, capsys):
    assert environment.main([str(tmp_path)]) == 1
    assert "torch sees no GPU here" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# the command

STAND_IN = """#!/usr/bin/env bash
# In the interpreter's place: notes what it is asked for, and fails what FAIL names; what notes stages is run.
case "$*" in
  *benchmarks.gpu.summary*) exec "$REAL" "$@" ;;
  *benchmarks.gpu.environment*) exec "$REAL" "$@" cpu ;;
  *find_spec*) [ -n "${XDIST:-}" ]; exit ;;
esac
echo "$*" >>"$ASKED"
case "$*" in
  *lccl.cli*tune*) echo '{}' >"${@: -1}" ;;
  *junitxml*) echo '<testsuite tests="2" failures="0" errors="0" skipped="0"/>' >"${@: -1}" ;;
esac
case "$*" in *${FAIL:-nothing at all}*) exit 3 ;; esac
"""


@pytest.fixture
def on_gpu(tmp_path):
    """``on_gpu("tests", FAIL="kernels")`` → status, what was printed, and what the interpreter was asked for."""
    python, asked = tmp_path / "python", tmp_path / "asked"
    python.write_text(STAND_IN)
    python.chmod(0o755)

    def run(*stages, **settings):
        asked.write_text("")
        done = subprocess.run(
            ["bash", SCRIPT, tmp_path / "out", *stages],
            env={**os.environ, "PYTHON": str(python), "REAL": sys.executable, "ASKED": str(asked), **settings},
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr, asked.read_text().splitlines()

    return run


def stages_of(folder):
    return {name: found["ended"] for name, found in summary.read(folder / "out" / "summary.json")["stages"].items()}


def test_the_script_is_bash():
    assert not subprocess.run(["bash", "-n", SCRIPT], capture_output=True, text=True, check=True).stderr


def test_all_stages_run_by_themselves_and_leave_few_files(on_gpu, tmp_path):
    status, said, asked = on_gpu()
    assert status == 0, said
    assert list(stages_of(tmp_path)) == ["tests", "tune", "kernels", "networks", "sanitizer"]
    assert "tests/lccl/cuda -q -ra --junitxml" in asked[0]
    assert [line.split()[2] for line in asked[2:4]] == ["kernels", "networks"]
    assert all(f"--tiles {tmp_path}/out/tiles.json" in line for line in asked[2:4])
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) <= 6
    assert all(set(path.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-") for path in files)


def test_tests_run_in_several_processes_where_pytest_can(on_gpu):
    assert " -n " not in on_gpu("tests")[2][0]
    assert " -n 3 tests/lccl/cuda -q -ra --junitxml" in on_gpu("tests", XDIST="1", JOBS="3")[2][0]


def test_a_stage_that_fails_is_told_and_the_others_go_on(on_gpu, tmp_path):
    status, said, _ = on_gpu("kernels", "tune", FAIL="gpu kernels")
    assert status == 1
    assert stages_of(tmp_path) == {"kernels": "failed", "tune": "done"}
    assert "kernels: failed" in said


def test_pytest_that_fails_after_its_report_fails_the_stage(on_gpu, tmp_path):
    assert on_gpu("tests", FAIL="junitxml")[0] == 1
    assert stages_of(tmp_path)["tests"] == "failed"


def test_a_stage_that_no_time_is_left_for_is_not_begun(on_gpu, tmp_path):
    status, _, asked = on_gpu("networks", TOTAL_S="15")
    assert status == 1
    assert not asked
    assert stages_of(tmp_path) == {"networks": "ran out of time"}


def test_a_training_gets_its_row_its_epochs_and_its_data(on_gpu, tmp_path):
    status, said, asked = on_gpu("train:resnet20-shared@4", DATA="images.tar", TRAIN="--seed 1")
    assert status == 0, said
    assert asked == [f"-m benchmarks.gpu.train {tmp_path}/out resnet20-shared@4 {Path.cwd()}/images.tar --seed 1"]
    assert row("resnet20-shared@4") == ["resnet20-shared", "--epochs", "4"]
    assert row("resnet20-shared") == ["resnet20-shared"]
    assert "resnet20-shared" in RUNS


@pytest.mark.parametrize(
    ("stage", "told"),
    [("lunch", "no stage lunch"), ("train:", "no stage train:"), ("train:resnet20-shared", "set DATA")],
)
def test_stages_that_cannot_be_are_refused_before_anything_runs(on_gpu, stage, told):
    status, said, asked = on_gpu("kernels", stage, DATA="")
    assert (status, asked) == (2, [])
    assert told in said


def test_without_a_folder_it_says_how_it_is_used():
    done = subprocess.run(["bash", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "bash benchmarks/on_gpu.sh OUT [STAGE ...]" in done.stderr
