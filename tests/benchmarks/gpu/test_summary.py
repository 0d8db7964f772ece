"""What a run on a GPU came to: the tests' verdict, the stages, and the machine."""

from __future__ import annotations

import json
from io import StringIO

import pytest
import torch
from rich.console import Console

from benchmarks.gpu import environment, summary
from lccl.engines.cuda.devices import proven

CPU = torch.device("cpu")


def junit(path, *suites):
    lines = "".join(f'<testsuite tests="{t}" failures="{f}" errors="{e}" skipped="{s}"/>' for t, f, e, s in suites)
    path.write_text(f"<testsuites>{lines}</testsuites>")
    return path


def test_a_report_becomes_counts(tmp_path):
    report = junit(tmp_path / "report.xml", (10, 1, 2, 3), (5, 0, 0, 0))
    assert summary.counted_tests(report) == {"passed": 9, "failed": 1, "errors": 2, "skipped": 3}


@pytest.mark.parametrize("content", [None, "", "<testsuite"])
def test_without_a_whole_report_there_is_an_error(tmp_path, content):
    report = tmp_path / "report.xml"
    if content is not None:
        report.write_text(content)
    assert summary.counted_tests(report) == {"passed": 0, "failed": 0, "errors": 1, "skipped": 0}


@pytest.mark.parametrize(
    ("passed", "failed", "errors", "proved"), [(1, 0, 0, True), (0, 0, 0, False), (9, 1, 0, False), (9, 0, 1, False)]
)
def test_only_tests_that_ran_and_passed_prove(passed, failed, errors, proved):
    assert summary.proves({"passed": passed, "failed": failed, "errors": errors}) == proved


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
