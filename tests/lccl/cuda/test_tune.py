"""Tuning takes the fastest tile; a table of tiles is read as it was written."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("triton", reason="the GPU engine needs Triton")

from lccl.engines.cuda.convolutions import Convolution
from lccl.engines.cuda.program import Program
from lccl.engines.cuda.tiles import Shape, Tile, Tiles, default, tiles_for, write
from lccl.engines.cuda.tune import STAGES, sizes, tune
from lccl.errors import EngineError
from lccl.networks import Architecture, build
from lccl.networks.lowering import lower
from lccl.preprocessing import Preprocessing

SHAPE = Shape(64, 64, 3, 1, 56, 56)


@pytest.fixture
def plan(square):
    network = build(Architecture("resnet20")).eval()
    network.blocks = torch.nn.ModuleList([network.blocks[0]])
    network.classifier = torch.nn.Linear(16, 10)
    return lower(network, square(8))


def stand_in_clock(launch):
    """For a GPU's: time is what a launch's tile and the rows that it is given say."""
    given = launch.arguments
    rows = int(given["count"][0]) if given["LISTED"] else given["rows"]
    return rows * (1 + (given["BM"] != 128) + (launch.warps != 4) + (launch.stages != 4))


def test_the_fastest_tile_is_taken(plan, device):
    tiles = tune(plan, 2, device, torch.float16, stand_in_clock)
    assert len(tiles) == 2  # the stem and both gated convolutions, which have one shape
    for tile in tiles.values():
        assert (tile.rows, tile.warps, tile.stages) == (128, 4, 4)


def test_what_is_timed_does_all_its_work(plan, device):
    """No image counts as gone, inputs are no zeros, and half the positions are listed."""
    timed = []

    def clock(launch):
        given = launch.arguments
        rows, listed = given["rows"], int(given["count"][0]) if given["LISTED"] else None
        timed.append(given["active"][: rows // 64].all() and given["x"].float().std() > 0.5)  # 8 × 8 positions
        timed.append(listed is None or 0.4 * rows < listed < 0.6 * rows)
        return 1.0

    tune(plan, 8, device, torch.float16, clock)
    assert timed
    assert all(timed)


def test_shapes_that_are_known_are_left_out(plan, device):
    tiles = tune(plan, 2, device, torch.float16, stand_in_clock)
    stem = next(shape for shape in tiles if shape.inputs == 4)
    others = tune(plan, 2, device, torch.float16, stand_in_clock, known={stem})
    assert set(others) == set(tiles) - {stem}


def test_few_tiles_are_tried(device):
    """Compiling each takes half a second, and all of a network are to take less than two minutes."""
    plan = lower(build(Architecture("wrn-28-10")).eval(), Preprocessing(32, 32, (0.5,) * 3, (0.25,) * 3))
    program = Program(plan, 1, device, torch.float16, Tiles("tuning", {}))
    shapes = {step.shape for step in program.steps if isinstance(step, Convolution)}
    tried = {shape: len(list(sizes(shape.channels))) for shape in shapes}
    assert sum(tried.values()) + len(tried) * len(STAGES) < 200
    assert min(tried.values()) >= 3


@pytest.mark.parametrize(("channels", "wide"), [(16, 16), (64, 64), (160, 64), (320, 64), (512, 128), (640, 128)])
def test_default_tiles_waste_little(channels, wide):
    assert default(Shape(64, channels, 3, 1, 32, 32)).channels == wide


def test_a_table_is_read_as_it_was_written(tmp_path):
    tile = Tile(256, 64, 8, 4)
    write(tmp_path / "nvidia-h200.json", "NVIDIA H200", {SHAPE: tile}, {"torch": "2.11.0"})
    tiles = tiles_for("NVIDIA H200", tmp_path)
    assert tiles.source == "the table nvidia-h200.json"
    assert tiles.of(SHAPE) == tile
    other = Shape(64, 64, 3, 1, 7, 7)
    assert tiles.of(other) == default(other)


def test_a_device_without_a_table_gets_defaults(tmp_path):
    tiles = tiles_for("NVIDIA A100-SXM4-80GB", tmp_path)
    assert tiles == Tiles("defaults, for there is no table of NVIDIA A100-SXM4-80GB", {})
    assert tiles.of(SHAPE) == Tile(128, 64, 4, 3)


@pytest.mark.parametrize("text", ["{", "[]", '{"tiles": {"a": {"rows": 3}}}', '{"tiles": {"a": 3}}', "{}"])
def test_a_broken_table_is_an_error(text, tmp_path):
    (tmp_path / "cpu.json").write_text(text)
    with pytest.raises(EngineError, match="make it anew"):
        tiles_for("cpu", tmp_path)


def test_a_tile_that_no_kernel_is_built_for_is_an_error(tmp_path):
    (tmp_path / "cpu.json").write_text(
        json.dumps({"tiles": {str(SHAPE): {"rows": 32, "channels": 64, "warps": 4, "stages": 3}}})
    )
    with pytest.raises(EngineError, match="no table of tiles"):
        tiles_for("cpu", tmp_path)
