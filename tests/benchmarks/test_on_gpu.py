"""``benchmarks/on_gpu.sh`` with something that stands in for the interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import summary

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "on_gpu.sh"

STAND_IN = """#!/usr/bin/env bash
# In the interpreter's place: notes what it is asked for, and fails what FAIL names; what notes stages is run.
case "$*" in
  *benchmarks.gpu.summary*) exec "$REAL" "$@" ;;
  *benchmarks.gpu.environment*)
    [ -z "${DESCRIBE:-}" ] || exec "$REAL" "$@" cpu
    echo '{"stages": {}}' >"$3/summary.json"
    exit
    ;;
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
    status, said, asked = on_gpu(DESCRIBE="1")
    assert status == 0, said
    assert list(stages_of(tmp_path)) == ["tests", "tune", "kernels", "networks", "sanitizer"]
    assert "tests/lccl/cuda -q -ra --junitxml" in asked[0]
    assert " -n " not in asked[0]
    assert [line.split()[2] for line in asked[2:4]] == ["kernels", "networks"]
    assert all(f"--tiles {tmp_path}/out/tiles.json" in line for line in asked[2:4])
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) <= 6
    assert all(set(path.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-") for path in files)


def test_tests_run_in_several_processes_where_pytest_can(on_gpu):
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
    stages = "train:resnet20-shared@4", "train:resnet20-pointwise"
    status, said, asked = on_gpu(*stages, DATA="images.tar", TRAIN="--seed 1")
    assert status == 0, said
    rest = f"--data {Path.cwd()}/images.tar --device cuda --results {tmp_path}/out/train --seed 1"
    assert asked == [
        f"-m benchmarks.paper resnet20-shared --epochs 4 {rest}", f"-m benchmarks.paper resnet20-pointwise {rest}"
    ]  # fmt: skip


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
