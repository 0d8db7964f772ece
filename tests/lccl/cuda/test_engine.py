"""Whole networks agree with the reference, images do not notice each other, and what does not fit is refused."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from lccl.engines.cuda.engine import CudaEngine
from lccl.engines.cuda.workspace import Workspace
from lccl.engines.reference import ReferenceEngine
from lccl.errors import EngineError, InputError
from lccl.networks import Architecture
from lccl.networks.sidenet import SideNetSpec
from lccl.plan.geometry import shape_of
from tests.lccl.comparison import seen_by
from tests.lccl.cpu.networks import mixed
from tests.lccl.exits import add_sidenets, confidences, leaving_by, of_images, sending
from tests.lccl.networks import called, layers_of

NETWORKS = [
    Architecture("resnet20"),
    Architecture("resnet20", "pre"),
    Architecture("resnet20", "post", "grouped:4:1x1"),
    Architecture("resnet20", "pre", "pointwise"),
    Architecture("resnet20", "pre", placement="bef-aft"),
    Architecture("resnet18"),
    Architecture("resnet50"),
    Architecture("resnet20").plain_twin,
]
SIZES = {"resnet18": 32, "resnet50": 32}
BLOCKS = {"resnet20": (0, 1, 3, 6), "resnet18": (0, 2), "resnet50": (0, 3)}  # an interpreter is slow
IMAGES = 5
SIDENETS = (SideNetSpec(0, 2, 7), SideNetSpec(1, 3, 20), SideNetSpec(2, 1, 33))


@pytest.fixture(scope="session")
def small(gated_network, make_reference, draw_images):
    """``small(Architecture(...))``: its reference engine in float64, made once, images and thresholds."""
    references = {}

    def make(architecture):
        if called(architecture) not in references:
            size = SIZES.get(architecture.name, 8)
            blocks = BLOCKS[architecture.name]
            pixels, thresholds = draw_images(IMAGES, size), mixed(IMAGES, layers_of(architecture, blocks))
            network = gated_network(architecture, pixels, thresholds, blocks)
            references[called(architecture)] = make_reference(network, size=size), pixels, thresholds
        return references[called(architecture)]

    return make


@pytest.mark.parametrize("architecture", NETWORKS, ids=called)
def test_a_network_agrees_with_the_reference(architecture, precision, small, compile_network, rows):
    reference, pixels, thresholds = small(architecture)
    options = rows(thresholds, want_masks=True)
    out = compile_network(reference.plan, precision).run(pixels, options)
    forced = replace(options, forced_masks=out.masks)
    expected = reference.run(pixels, forced)
    assert (np.abs(out.logits - expected.logits) <= rounding(reference, pixels, forced, expected, precision)).all()
    assert np.array_equal(out.kept, expected.kept)
    own = reference.run(pixels, options)
    assert np.abs(out.kept - own.kept).sum() <= 0.01 * IMAGES * reference.shape.cells.sum()
    assert (out.executed_macs >= reference.shape.gated(out.kept)).all()


def rounding(reference, pixels, options, expected, precision):
    """How far logits may be off, [N, 1]: ten times what rounding the weights alone comes to, for gates multiply."""
    plan, _ = seen_by(precision, reference.plan, {})
    coarse = ReferenceEngine(plan, torch.device("cpu"), "fp64").run(pixels, options)
    return 1e-3 + 10 * np.abs(coarse.logits - expected.logits).max(1, keepdims=True)


def test_bits_do_not_depend_on_the_batch(small, compile_network, rows):
    reference, pixels, thresholds = small(Architecture("resnet20", "post", "grouped:4:1x1"))
    engine = compile_network(reference.plan)
    whole = engine.run(pixels, rows(thresholds, want_masks=True))
    halves = compile_network(reference.plan, batch_limit=3).run(pixels, rows(thresholds, want_masks=True))
    alone = engine.run(pixels[3:4], rows(thresholds[3:4], want_masks=True))
    for other, images in ((halves, np.s_[:]), (alone, np.s_[3:4])):
        assert np.array_equal(whole.logits[images], other.logits)
        assert np.array_equal(whole.kept[images], other.kept)
        assert all(np.array_equal(mask[images], same) for mask, same in zip(whole.masks, other.masks, strict=True))


@pytest.fixture(scope="module")
def ran(small, compile_network, rows):
    """An engine, images, options, and what it answered to them first."""
    reference, pixels, thresholds = small(Architecture("resnet20"))
    engine, options = compile_network(reference.plan), rows(thresholds, want_masks=True)
    return engine, pixels, options, engine.run(pixels, options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="lists differ from run to run on a GPU alone")
def test_a_hundred_runs_have_the_same_bits(ran):
    engine, pixels, options, first = ran
    for _ in range(100):
        again = engine.run(pixels, options)
        assert np.array_equal(first.logits, again.logits)
        assert np.array_equal(first.kept, again.kept)


def test_one_graph_serves_changing_images_and_thresholds(ran):
    engine, pixels, options, first = ran
    changed = engine.run(pixels[::-1].copy(), of_images(options, np.s_[::-1]))
    few = engine.run(pixels[:3], of_images(options, np.s_[:3]))  # in a graph of 4
    assert np.array_equal(changed.logits, first.logits[::-1])
    assert np.array_equal(few.logits, first.logits[:3])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="captures graphs: this needs a GPU")
def test_engines_capture_and_run_in_threads_of_their_own(small, compile_network, rows):
    reference, pixels, thresholds = small(Architecture("resnet20"))
    expected = compile_network(reference.plan).run(pixels, rows(thresholds)).logits

    def run_all_sizes(_):
        engine = compile_network(reference.plan)
        return all(
            np.array_equal(engine.run(pixels[:count], rows(thresholds[:count])).logits, expected[:count])
            for count in (*range(1, IMAGES + 1), 1, 2, 4)
        )

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(run_all_sizes, range(8)))


def test_normalised_images_are_taken_as_they_are(ran, square):
    engine, pixels, options, first = ran
    step = square(8)
    values = ((pixels / np.float32(255) - np.float32(step.mean)) / np.float32(step.std)).astype(np.float32)
    assert np.abs(engine.run(values, options).logits - first.logits).max() < 0.01 * np.abs(first.logits).max()


@pytest.fixture(scope="module")
def sided(gated_network, make_reference, draw_images):
    """A network with exits, images, and thresholds."""
    pixels, thresholds = draw_images(4, 8, seed=1), mixed(4, 6, seed=1)
    network = gated_network(Architecture("resnet20"), pixels, thresholds, (0, 3, 6))
    add_sidenets(network, SIDENETS)
    return make_reference(network, size=8), pixels, thresholds


def rows_are_summed_alike():
    """Whether a row's products do not depend on its place; the interpreter has them from numpy's BLAS."""
    if torch.cuda.is_available():  # then kernels are compiled
        return True
    rows, weights = np.random.default_rng(0).standard_normal((2, 64, 64), dtype=np.float32)
    return np.array_equal((rows[::-1] @ weights)[::-1], rows @ weights)


def test_images_leave_where_they_are_sure(sided, compile_network, rows):
    reference, pixels, thresholds = sided
    engine = compile_network(reference.plan)
    options = rows(thresholds, exit_confidence=np.ones((4, len(SIDENETS)), np.float32), want_masks=True)
    outs = [engine.run(pixels, leaving_by(options, end, len(SIDENETS))) for end in range(len(SIDENETS) + 1)]
    for end, out in enumerate(outs):
        assert out.exit_index.tolist() == [end] * 4
        behind = ~shape_of(reference.plan).reached(out.exit_index)
        assert not out.kept[behind].any()
        assert not any(mask[behind[:, layer]].any() for layer, mask in enumerate(out.masks))
        forced = leaving_by(replace(options, forced_masks=out.masks), end, len(SIDENETS))
        expected = reference.run(pixels, forced)
        assert (np.abs(out.logits - expected.logits) <= rounding(reference, pixels, forced, expected, "fp16")).all()
    assert all((one.executed_macs < two.executed_macs).all() for one, two in itertools.pairwise(outs))
    ends = np.array([3, 0, 1, 2])
    confidence = sending(confidences(outs[:-1]), ends)
    mixed_up = engine.run(pixels, replace(options, exit_confidence=confidence))
    assert mixed_up.exit_index.tolist() == ends.tolist()
    for image, end in enumerate(ends):
        # Kept positions lie elsewhere in the lists when other images have left.
        within = 0 if rows_are_summed_alike() else 1e-5 * np.abs(outs[end].logits[image]).max()
        assert np.abs(mixed_up.logits[image] - outs[end].logits[image]).max() <= within
        assert np.array_equal(mixed_up.kept[image], outs[end].kept[image])


def test_forced_masks_are_those_of_the_batch(ran):
    engine, pixels, options, first = ran
    forced = replace(options, forced_masks=first.masks)
    assert np.array_equal(engine.run(pixels[:3], of_images(forced, np.s_[:3])).logits, first.logits[:3])
    wrong = replace(options, forced_masks=tuple(mask[:, :, :1] for mask in first.masks))
    with pytest.raises(InputError, match="forced mask must be"):
        engine.run(pixels, wrong)


def test_kernels_are_compiled_at_load(small, compile_network):
    engine = compile_network(small(Architecture("resnet20"))[0].plan)
    assert set(engine._replays) == {(1, torch.uint8)}


def test_what_it_cannot_run_is_refused(small, device):
    plan = small(Architecture("resnet20"))[0].plan
    with pytest.raises(EngineError, match="use fp16 or bf16"):
        CudaEngine(plan, device, "fp32")


def test_a_batch_that_does_not_fit_is_halved_until_it_does(small, device, monkeypatch):
    """A stand-in for a GPU with little memory."""
    plan, take = small(Architecture("resnet20"))[0].plan, Workspace._take_maps

    def room_for(images):
        def take_some(self):
            if self.limit > images:
                raise torch.OutOfMemoryError("no more")
            take(self)

        monkeypatch.setattr(Workspace, "_take_maps", take_some)

    room_for(17)
    assert CudaEngine(plan, device, batch_limit=64).batch_limit == 16
    room_for(0)
    with pytest.raises(EngineError, match="cannot run this on"):
        CudaEngine(plan, device, batch_limit=4)


def test_no_map_is_larger_than_kernels_can_address(ran, device, monkeypatch):
    largest = max(place.elements for place in ran[0].program.workspace.places.values())
    monkeypatch.setattr("lccl.engines.cuda.workspace.ADDRESSABLE", 2 * largest + 1)
    assert CudaEngine(ran[0].plan, device, batch_limit=8).batch_limit == 2
