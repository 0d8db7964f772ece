"""`lccl tune` without a GPU says what it needs; with one it writes a table that the engine reads."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from lccl.cli import main as cli
from lccl.engines.cuda.tiles import Tile


def run(*words):
    done = CliRunner().invoke(cli.app, ["tune", *map(str, words)])
    return done.exit_code, " ".join(done.output.split())


def test_it_wants_a_gpu():
    status, said = run("--device", "cpu")
    assert status == 1
    assert "give --device cuda" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_an_error():
    status, said = run()
    assert status == 1
    assert "torch sees 0 GPUs" in said


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_table_is_written(tmp_path):
    status, said = run("resnet20", "--batch", "8", "--out", tmp_path / "tiles.json")
    assert status == 0, said
    written = json.loads((tmp_path / "tiles.json").read_text())
    assert written["device"] == torch.cuda.get_device_name()
    assert all(Tile(**tile) for tile in written["tiles"].values())
    assert len(written["tiles"]) == 6
