"""Maps share a place only when no one reads the first any more, and a residual gives up its own where it may."""

from __future__ import annotations

import pytest

pytest.importorskip("triton", reason="the GPU engine needs Triton")

from lccl.engines.cuda.image_layout import lay_out, maps_read, maps_written
from lccl.networks import Architecture, build
from lccl.networks.gates import GateSpec
from lccl.networks.lowering import lower
from lccl.preprocessing import Preprocessing
from tests.lccl.cuda.image_networks import small_plan

BEFORE = GateSpec("shared", before=(True, True))


def plan_of(name, form):
    network = build(Architecture(name, form)).eval().requires_grad_(False)
    return lower(network, Preprocessing(32, 32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)))


def span(place):
    return range(place.offset, place.offset + place.channels * (place.height + 2) * (place.width + 2))


@pytest.mark.parametrize("plan", [plan_of("resnet32", "post"), plan_of("resnet32", "pre"), small_plan("pre", BEFORE)])
def test_no_map_is_overwritten_while_it_is_read(plan):
    layout = lay_out(plan)
    held = {}
    for step in plan.steps:
        for name in maps_read(step):
            assert {held[element] for element in span(layout.places[name])} == {name}
        for name in maps_written(step):
            held |= dict.fromkeys(span(layout.places[name]), name)
    assert max(held) < layout.elements


def test_places_do_not_grow_with_depth():
    assert lay_out(plan_of("resnet110", "post")).elements == lay_out(plan_of("resnet20", "post")).elements


def test_a_post_activation_block_with_an_identity_shortcut_works_in_place():
    plan = plan_of("resnet20", "post")
    layout = lay_out(plan)
    identity = {one.name for one in plan.gated if one.residual is not None and one.residual.stride == 1}
    assert layout.in_place == identity
    assert len(identity) == 7


def test_what_is_activated_anew_is_not_left_as_it_was():
    assert not lay_out(plan_of("resnet20", "pre")).in_place
