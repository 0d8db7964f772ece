"""Whole networks in int8: the model's bits, whatever the instruction set, batch, threads, masks and exits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lccl.networks import Architecture
from tests.lccl.cpu.int8_model import run as run_model
from tests.lccl.cpu.networks import HUGE, POST, PRE, SIZES, VARIED, mixed
from tests.lccl.exits import add_sidenets
from tests.lccl.networks import called, layers_of
from tests.lccl.quantised import quantised

COUNT = 4


@pytest.fixture(scope="session")
def answers(gated_network, make_reference, draw_images, rows):
    """``answers(Architecture(...), exits=False)``: a plan in int8, images, options and what the model makes of each."""
    made = {}

    def make(architecture, exits=False):
        key = called(architecture), exits
        if key not in made:
            size = SIZES.get(architecture.name, 13)
            pixels, thresholds = draw_images(COUNT, size), mixed(COUNT, layers_of(architecture))
            network = gated_network(architecture, pixels, thresholds)
            if exits:
                add_sidenets(network)
            reference = make_reference(network, size=size)
            found = reference.trace(pixels, rows(thresholds))[1].values
            most = {name: float(np.quantile(value.abs().numpy(), 0.99)) for name, value in found.items()}
            plan = quantised(reference.plan, most)
            confidence = np.full((COUNT, plan.exits), 0.5, np.float32)
            options = replace(rows(thresholds, want_masks=True), exit_confidence=confidence)
            made[key] = plan, pixels, options, [model(plan, pixels[i], options, i) for i in range(COUNT)]
        return made[key]

    return make


def model(plan, image, options, number):
    forced = options.forced_masks and [mask[number] for mask in options.forced_masks]
    return run_model(plan, image, options.thresholds[number], options.exit_confidence[number], forced)


def check(out, states):
    """An engine's answers are the model's, to the bit."""
    for image, state in enumerate(states):
        assert out.exit_index[image] == state.exit_index
        assert np.array_equal(out.logits[image].view(np.uint32), state.logits.view(np.uint32))
        for layer, mask in enumerate(out.masks or ()):
            assert np.array_equal(mask[image], state.masks.get(layer, np.zeros_like(mask[image])))
            assert out.kept[image, layer] == state.kept.get(layer, 0)


@pytest.mark.parametrize("architecture", VARIED, ids=called)
def test_networks_give_the_bits_of_the_model(architecture, int8, answers, make_cpu):
    plan, pixels, options, states = answers(architecture)
    assert len({state.logits.tobytes() for state in states}) > 1
    check(make_cpu(plan, int8, threads=2).run(pixels, options), states)


@pytest.mark.parametrize("architecture", [POST, PRE, Architecture("resnet18")], ids=called)
def test_batches_threads_and_groups_change_no_bit(architecture, int8, answers, make_cpu):
    plan, pixels, options, states = answers(architecture)
    for threads, cache_bytes in ((1, 0), (1, HUGE), (2, 0), (3, None), (3, 30_000)):
        engine = make_cpu(plan, int8, threads, cache_bytes)
        check(engine.run(pixels, options), states)
        alone = replace(options, thresholds=options.thresholds[2:3], exit_confidence=options.exit_confidence[2:3])
        check(engine.run(pixels[2:3], alone), states[2:3])


@pytest.mark.parametrize("architecture", [POST, PRE], ids=called)
def test_exits_are_taken_by_the_model_s_images(architecture, int8, answers, make_cpu):
    plan, pixels, options, states = answers(architecture, exits=True)
    for threads, cache_bytes in ((1, None), (2, 0)):
        check(make_cpu(plan, int8, threads, cache_bytes).run(pixels, options), states)
    for share in (0.0, 1.0):
        every = replace(options, exit_confidence=np.full_like(options.exit_confidence, share))
        check(make_cpu(plan, int8, 2).run(pixels, every), [model(plan, pixels[i], every, i) for i in range(COUNT)])


@pytest.mark.parametrize("architecture", [POST, PRE], ids=called)
def test_forced_masks_rule(architecture, int8, answers, make_cpu):
    plan, pixels, options, _ = answers(architecture)
    engine, random = make_cpu(plan, int8, 2), np.random.default_rng(0)
    masks = tuple(random.integers(0, 2, mask.shape, np.uint8) for mask in engine.run(pixels, options).masks)
    forced = replace(options, forced_masks=masks)
    check(engine.run(pixels, forced), [model(plan, pixels[i], forced, i) for i in range(COUNT)])


def test_float_images_are_turned_into_pixels(int8, answers, make_cpu):
    plan, pixels, options, states = answers(POST)
    first, engine = plan.steps[0], make_cpu(plan, int8, 2)
    values = ((pixels / np.float64(255) - first.mean) / first.std).astype(np.float32)
    check(engine.run(values, options), states)
    far = np.random.default_rng(0).normal(0, 3, pixels.shape).astype(np.float32)
    check(engine.run(far, options), [model(plan, far[i], options, i) for i in range(COUNT)])
