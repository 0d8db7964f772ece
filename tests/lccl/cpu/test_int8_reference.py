"""The native engine gives the reference engine's bits on networks that lccl.quantization made int8."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lccl.engines.reference import ReferenceEngine
from lccl.networks import Architecture
from lccl.networks.lowering import lower
from lccl.quantization.parameters import Quantisation
from lccl.quantization.plan import quantise
from tests.lccl.bits import same_bits
from tests.lccl.cpu.networks import INT8, NETWORKS, POST, PRE, SIZES, crossed, mixed, named
from tests.lccl.exits import SIDENETS, add_sidenets
from tests.lccl.int8_plans import drawn_quantisation, largest_scales
from tests.lccl.networks import called, layers_of

COUNT = 5
WITH_EXITS = [POST, PRE, Architecture("resnet18")]


@pytest.fixture(scope="session")
def runs(gated_network, draw_images, square, rows):
    """``runs(Architecture(...), exits=False)``: the reference engine in int8, images, options and its answers."""
    made = {}

    def make(architecture, exits=False):
        key = called(architecture), exits
        if key not in made:
            size = SIZES.get(architecture.name, 13)
            pixels, thresholds = draw_images(COUNT, size), mixed(COUNT, layers_of(architecture))
            network = gated_network(architecture, pixels, thresholds)
            if exits:
                add_sidenets(network, [spec for spec in SIDENETS if spec.after < len(network.blocks)])
            plan = lower(network.float(), square(size))
            values = ReferenceEngine(plan).trace(pixels, rows(thresholds))[1].values
            weights = drawn_quantisation(plan).weights
            engine = ReferenceEngine(
                quantise(plan, Quantisation(largest_scales(plan, values), weights)), precision="int8"
            )
            confidence = np.full((COUNT, plan.exits), 0.5, np.float32)
            options = replace(rows(thresholds, want_masks=True), exit_confidence=confidence)
            made[key] = engine, pixels, options, engine.run(pixels, options)
        return made[key]

    return make


@pytest.mark.parametrize(("architecture", "arithmetic"), crossed(NETWORKS, INT8), ids=named)
def test_networks_give_the_bits_of_the_reference_engine(architecture, arithmetic, runs, make_cpu):
    reference, pixels, options, expected = runs(architecture)
    assert len({row.tobytes() for row in expected.logits}) > 1
    same_bits(make_cpu(reference.plan, arithmetic, threads=2).run(pixels, options), expected)


@pytest.mark.parametrize("architecture", WITH_EXITS, ids=called)
def test_the_same_images_leave_at_the_same_exits(architecture, int8, runs, make_cpu):
    reference, pixels, options, expected = runs(architecture, exits=True)
    engine = make_cpu(reference.plan, int8, threads=2)
    same_bits(engine.run(pixels, options), expected)
    for confidence in (0.0, 0.2, 1.0):
        asked = replace(options, exit_confidence=np.full_like(options.exit_confidence, confidence))
        same_bits(engine.run(pixels, asked), reference.run(pixels, asked))


@pytest.mark.parametrize("architecture", [POST, PRE], ids=called)
def test_masks_that_are_forced_and_images_of_floats_give_the_same_bits(architecture, int8, runs, make_cpu):
    reference, pixels, options, expected = runs(architecture)
    engine, random = make_cpu(reference.plan, int8), np.random.default_rng(0)
    masks = tuple(random.integers(0, 2, mask.shape, np.uint8) for mask in expected.masks)
    forced = replace(options, forced_masks=masks)
    values = random.normal(0, 2, pixels.shape).astype(np.float32)
    for images, asked in ((pixels, forced), (values, options)):
        same_bits(engine.run(images, asked), reference.run(images, asked))
