"""Which buffers share memory, which skipped cells are written, and how wide borders are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lccl.engines.cuda.layer_layout import lay_out
from lccl.networks import Architecture, build
from lccl.networks.lowering import lower
from lccl.plan import steps


@pytest.fixture(scope="module")
def places(square):
    def make(architecture, size=32, blocks=None):
        with torch.device("meta"):
            network = build(architecture)
        network = network.to_empty(device="cpu").eval()
        if blocks is not None:
            network.add_sidenets(blocks)
        return lay_out(lower(network, square(size)))

    return make


def test_identity_blocks_add_up_in_one_memory(places):
    found = places(Architecture("resnet20"))
    assert found["stem"].skipped == "none"
    for block in range(3):
        assert found[f"blocks.{block}.conv1"].skipped == "absent"
        assert found[f"blocks.{block}.conv2"].skipped == "in place"
        assert found[f"blocks.{block}.conv2"].storage == "stem"
    assert found["blocks.3.conv2"].skipped == "written"  # its shortcut has fewer channels
    assert found["blocks.4.conv2"].storage == "blocks.3.conv2"


def test_a_projection_that_may_be_negative_is_no_fill(places):
    found = places(Architecture("resnet18"), 64)
    assert found["blocks.2.conv2"].skipped == "written"
    assert found["blocks.3.conv2"].skipped == "in place"


def test_raw_values_add_up_in_place_and_activated_ones_are_written(places):
    found = places(Architecture("resnet20", "pre"))
    assert found["blocks.0.conv2"].skipped == "in place"
    assert found["blocks.0.conv2"].storage == "stem"
    assert found["blocks.0.conv2.a"].skipped == "written"
    assert found["blocks.0.conv1.a"].skipped == "written"  # ReLU(shift) is not 0


def test_gates_of_groups_leave_nothing_absent(places):
    found = places(Architecture("resnet20", "post", "grouped:4"))
    assert not any(place.skipped == "absent" for place in found.values())


def test_what_is_read_again_is_not_overwritten(square):
    network = build(Architecture("resnet20")).eval()
    plan = lower(network, square(32))
    again = (steps.AveragePool("stem", "again"),)
    plan = replace(
        plan,
        steps=(*plan.steps[:-2], *again, *plan.steps[-2:]),
        buffers=(*plan.buffers, steps.Buffer("again", 16, 1, 1)),
    )
    assert lay_out(plan)["blocks.0.conv2"].skipped == "written"


def test_borders_are_as_wide_as_windows_need_and_shared_with_the_memory(places):
    found = places(Architecture("resnet18"), 64)
    assert found["image"].border == 3
    assert found["image"].stored == 4
    assert {place.border for name, place in found.items() if name.startswith("blocks.")} <= {0, 1}
    assert all(place.border == found[place.storage].border for place in found.values())
    assert found["stem.pool"].pitch == 16 + 2
