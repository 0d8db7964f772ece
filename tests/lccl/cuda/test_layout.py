"""Which skipped cells are written, which are masked, and how maps lie."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lccl.engines.cuda.kernels.shapes import Map
from lccl.engines.cuda.layout import lay_out
from lccl.networks import Architecture, build
from lccl.networks.lowering import lower
from lccl.plan import steps


@pytest.fixture(scope="module")
def places(square):
    def make(architecture, size=32):
        with torch.device("meta"):
            network = build(architecture)
        network = network.to_empty(device="cpu").eval()
        return lay_out(lower(network, square(size)))

    return make


def test_identity_blocks_add_up_in_one_memory(places):
    layout = places(Architecture("resnet20"))
    assert layout["stem"].skipped == "none"
    for block in range(3):
        assert layout[f"blocks.{block}.conv1"].skipped == "masked"
        assert layout[f"blocks.{block}.conv2"].skipped == "none"
        assert layout[f"blocks.{block}.conv2"].storage == "stem"
    assert layout["blocks.3.conv2"].skipped == "filled"  # its shortcut has fewer channels
    assert layout["blocks.4.conv2"].storage == "blocks.3.conv2"


def test_what_lies_in_its_own_memory_is_filled(places):
    layout = places(Architecture("resnet18"), 64)
    assert layout["blocks.2.conv2"].skipped == "filled"  # a projection may be negative
    assert layout["blocks.3.conv2"].skipped == "none"


def test_raw_values_add_up_in_place_and_activated_ones_are_filled(places):
    layout = places(Architecture("resnet20", "pre"))
    assert layout["blocks.0.conv2"].skipped == "none"
    assert layout["blocks.0.conv2"].storage == "stem"
    assert layout["blocks.0.conv2.a"].skipped == "filled"
    assert layout["blocks.0.conv1.a"].skipped == "filled"  # ReLU(shift) is not 0


def test_gates_of_groups_mask_nothing(places):
    layout = places(Architecture("resnet20", "post", "grouped:4"))
    assert not any(place.skipped == "masked" for place in layout.values())
    # 4 channels a group are too few for lists, and all are computed; 16 are not.
    assert layout["blocks.0.conv1"].skipped == "none"
    assert layout["blocks.8.conv1"].skipped == "filled"


def test_what_is_pooled_or_read_again_is_filled(square):
    plan = lower(build(Architecture("resnet20")).eval(), square(32))
    again = (steps.AveragePool("blocks.0.conv1", "pooled"), steps.AveragePool("stem", "again"))
    plan = replace(
        plan,
        steps=(*plan.steps[:-2], *again, *plan.steps[-2:]),
        buffers=(*plan.buffers, steps.Buffer("pooled", 16, 1, 1), steps.Buffer("again", 16, 1, 1)),
    )
    layout = lay_out(plan)
    assert layout["blocks.0.conv1"].skipped == "filled"
    assert layout["blocks.0.conv2"].skipped == "filled"  # it cannot take its residual's memory
    assert "again" not in layout


def test_maps_are_aligned_and_windows_fit_into_their_borders(places):
    layout = places(Architecture("resnet18"), 64)
    assert layout["image"].map == Map(channels=3, stored=4, height=64, width=64, border=3)
    windows = layout["image"].windows(kernel=7, stride=2)
    assert (windows.height, windows.pitch, windows.shift, windows.block) == (70, 70, 0, 32)
    assert layout["stem.pool"].windows(kernel=1, stride=1).shift == 1
