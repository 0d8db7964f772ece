"""``lccl bench`` refuses in a sentence."""

import json
import shlex
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from lccl.cli.main import app


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


def test_the_file_names_the_command_that_was_run(tmp_path):
    out = tmp_path / "figures.json"
    flags = [*("--threads", "1", "--rounds", "1", "--skip", "0.5"), "--no-baselines", "--no-layers", "--out", str(out)]
    subprocess.run(
        [sys.executable, "-m", "lccl.cli.main", "bench", "resnet20", *flags],
        check=True,
        capture_output=True,
        timeout=240,
    )
    figures = json.loads(out.read_text())
    named = [*flags[:-1], out.name]  # what lies elsewhere on this machine is named without its folder
    assert shlex.split(figures["command"]) == ["python", "-m", "lccl.cli.main", "bench", "resnet20", *named]
    assert (figures["best_baseline"], figures["rounds"]) == (None, 1)
    assert "layers" not in figures
