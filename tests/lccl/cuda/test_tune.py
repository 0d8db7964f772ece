"""Tuning takes the fastest tile and knows where lists stop to pay; a table of tiles is read as it was written."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("triton", reason="the GPU engine needs Triton")

from lccl.engines.cuda.batch import Batch
from lccl.engines.cuda.layer_program import LayerProgram
from lccl.engines.cuda.tiles import DEFAULT_BREAK_EVEN, Shape, Tile, Tiles, default, tiles_for, write
from lccl.engines.cuda.tune import STAGES, _Trial, tune
from lccl.errors import EngineError
from lccl.networks import Architecture, build
from lccl.networks.lowering import lower
from lccl.plan.geometry import shape_of
from lccl.plan.steps import Convolve
from lccl.preprocessing import Preprocessing

SHAPE = Shape(64, 64, 3, 1, 56, 56)


@pytest.fixture
def plan(square):
    network = build(Architecture("resnet20")).eval()
    network.blocks = torch.nn.ModuleList([network.blocks[0]])
    network.classifier = torch.nn.Linear(16, 10)
    return lower(network, square(8))


def stand_in_clock(launch):
    """For a GPU's: time is what a launch's constants and the rows that it is given say."""
    constants = launch.constants
    rows = int(launch.arguments[10][0]) if constants["LISTED"] else 1.1 * launch.arguments[-1]
    return rows * (1 + (constants["BM"] != 128) + (launch.warps != 4) + (launch.stages != 4))


def test_the_fastest_tile_is_taken(plan, device):
    found = tune(plan, shape_of(plan), 2, device, torch.float16, stand_in_clock)
    assert len(found) == 2  # the stem and both gated convolutions, which have one shape
    for tile in found.values():
        assert (tile.rows, tile.warps, tile.stages) == (128, 4, 4)
    gated = next(tile for shape, tile in found.items() if shape.inputs == 16)
    assert gated.break_even == 1.0  # by that clock lists are always faster


def test_what_is_timed_does_all_its_work(plan, device):
    """No image counts as gone, and inputs are no zeros."""
    timed = []

    def clock(launch):
        names = dict(zip(launch.kernel.arg_names, launch.arguments, strict=False))
        rows = names["rows"] // 64  # of 8 × 8 positions
        timed.append(names["active"][:rows].all() and names["x"].float().std() > 0.5)
        return 1.0

    tune(plan, shape_of(plan), 8, device, torch.float16, clock)
    assert timed
    assert all(timed)


def test_shapes_that_are_known_are_left_out(plan, device):
    found = tune(plan, shape_of(plan), 2, device, torch.float16, stand_in_clock)
    stem = next(shape for shape in found if shape.inputs == 4)
    others = tune(plan, shape_of(plan), 2, device, torch.float16, stand_in_clock, known={stem})
    assert set(others) == set(found) - {stem}


def test_few_tiles_are_tried(device):
    """Compiling each takes half a second, and all of a network are to take less than two minutes."""
    plan = lower(build(Architecture("wrn-28-10")).eval(), Preprocessing(32, 32, (0.5,) * 3, (0.25,) * 3))
    program = LayerProgram(plan, shape_of(plan), 1, device, torch.float16, Tiles("tuning", {}))
    batch = Batch.of(plan, shape_of(plan), 1, device, torch.uint8)
    tried = {
        program.shape_of(step): len(list(_Trial(program, batch, number, step).sizes()))
        for number, step in enumerate(plan.steps)
        if isinstance(step, Convolve)
    }
    assert sum(tried.values()) + len(tried) * len(STAGES) < 200
    assert min(tried.values()) >= 3


@pytest.mark.parametrize(("channels", "wide"), [(16, 16), (64, 64), (160, 64), (320, 64), (512, 128), (640, 128)])
def test_default_tiles_waste_little(channels, wide):
    assert default(Shape(64, channels, 3, 1, 32, 32)).channels == wide


def test_lists_stop_to_pay_where_all_positions_take_as_long(plan, device):
    def clock(launch):
        rows = launch.arguments[-1]
        return 0.8 * rows if not launch.constants["LISTED"] else float(launch.arguments[10][0])

    tiles = tune(plan, shape_of(plan), 8, device, torch.float16, clock)
    gated = next(tile for shape, tile in tiles.items() if shape.inputs == 16)
    assert gated.break_even == pytest.approx(0.8, abs=0.05)


def test_a_table_is_read_as_it_was_written(tmp_path):
    tile = Tile(256, 64, 8, 4, 0.75)
    write(tmp_path / "nvidia-h200.json", "NVIDIA H200", {SHAPE: tile}, {"torch": "2.11.0"})
    tiles = tiles_for("NVIDIA H200", tmp_path)
    assert tiles.source == "the table nvidia-h200.json"
    assert tiles.of(SHAPE) == tile
    other = Shape(64, 64, 3, 1, 7, 7)
    assert tiles.of(other) == default(other)


def test_a_device_without_a_table_gets_defaults(tmp_path):
    tiles = tiles_for("NVIDIA A100-SXM4-80GB", tmp_path)
    assert tiles == Tiles("defaults, for there is no table of NVIDIA A100-SXM4-80GB", {})
    assert tiles.of(SHAPE) == Tile(128, 64, 4, 3, DEFAULT_BREAK_EVEN)


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
