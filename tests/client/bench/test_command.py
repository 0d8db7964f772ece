"""``lccl-client bench`` against the real service: it runs, its counts add up, and what it reads is right."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from lccl_client import Client
from lccl_client.cli import app


def bench(*arguments):
    return CliRunner().invoke(app, ["bench", *map(str, arguments)])


@pytest.fixture
def labelled(address, draw_image, tmp_path):
    """A folder whose images lie under the classes that the served model gives them, but for a quarter of them."""
    with Client(address) as client:
        for number in range(8):
            content = draw_image(seed=number)
            answer = client.classify(content, operating_point="exact", top_k=10)
            label = answer.predictions[0].classes[number % 4 == 0].label
            (tmp_path / label).mkdir(exist_ok=True)
            (tmp_path / label / f"{number}.png").write_bytes(content)
    return tmp_path


def test_runs_at_several_rates_add_up(address, labelled, tmp_path):
    file = tmp_path / "report.json"
    result = bench(
        address, "--closed", 4, "--rate", "20", "--rate", "0.2x", "--duration", 1.5, "--warmup", 0.2, "--slo-ms", 5000,
        "--images", labelled, "--mix", "exact:1", "--mix", "sparsity=0.5:2",
        "--mix", "operating_point=exact&max_accuracy_drop=3:1", "--json", file,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    capacity, fixed, relative = json.loads(file.read_text())["runs"]
    assert capacity["in_flight"] == 4
    assert fixed["rate_per_s"] == 20
    assert relative["rate_per_s"] == pytest.approx(0.2 * capacity["total"]["successes_per_s"])
    for run in (capacity, fixed, relative):
        total = run["total"]
        assert sum(total["statuses"].values()) == total["requests"] > 0
        assert sum(stream["requests"] for stream in run["streams"].values()) == total["requests"]
        assert set(total["statuses"]) == {"200"}
        assert total["goodput_per_s"] * run["duration_s"] == pytest.approx(total["statuses"]["200"])
        assert total["means"]["unreadable"]["value"] == 0
        assert total["means"]["skip_ratio"]["answers"] == total["requests"]
    accuracy = capacity["streams"]["exact"]["means"]["correct"]
    assert accuracy["value"] == pytest.approx(0.75, abs=0.75 / accuracy["answers"] * 8)
    for word in ("4 at once", "20/s", "  sparsity=0.5", "accuracy", "goodput/s", "generator"):
        assert word in result.output


def test_deadlines_are_answered_or_refused(address, tmp_path):
    file = tmp_path / "report.json"
    mix = ("--mix", "deadline_ms=5000:1", "--mix", "deadline_ms=0.001:1")
    result = bench(address, "--rate", 30, "--duration", 1, "--warmup", 0, *mix, "--json", file)
    assert result.exit_code == 0, result.output
    (run,) = json.loads(file.read_text())["runs"]
    assert set(run["streams"]["deadline_ms=5000"]["statuses"]) == {"200"}
    assert set(run["streams"]["deadline_ms=0.001"]["statuses"]) == {"504"}


def test_it_is_a_process_too(guarded):
    flags = ["--rate", "30", "--duration", "1", "--draw", "16x8", "--arrivals", "uniform", "--api-key", "s3cret"]
    command = [sys.executable, "-m", "lccl_client.load", guarded, *flags, "--model", "twin", "--read-every", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"30/s +30 +", done.stdout)
    assert "skipped" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "say how much load"),
        (("--rate", "fast"), "is no rate"),
        (("--rate", "1", "--mix", "sparsty=1"), "no field of a quality request"),
        (("--rate", "1", "--draw", "big"), "not a size"),
        (("--rate", "1", "--version", "1"), "needs the name of its model"),
        (("--rate", "1", "--model", "nobody"), "404"),
        (("--rate", "1", "--images", "/nowhere"), "/nowhere"),
    ],
)
def test_mistakes_are_told_in_a_sentence(address, arguments, told):
    result = bench(address, *arguments)
    assert result.exit_code == 1
    assert "error:" in result.output
    assert told in result.output


def test_classes_that_the_model_does_not_know_are_told(address, draw_image, tmp_path):
    (tmp_path / "unicorn").mkdir()
    (tmp_path / "unicorn" / "1.png").write_bytes(draw_image())
    result = bench(address, "--rate", 1, "--images", tmp_path)
    assert result.exit_code == 1
    assert "'unicorn' is no class of the model" in result.output


def test_nobody_there_is_told(answering):
    with answering(lambda handler: handler.reply(200, b"<html>")) as base:
        assert "the answer is no ModelList" in bench(base, "--rate", 1).output
    result = bench(base, "--rate", 1)
    assert result.exit_code == 1
    assert "refused" in result.output
