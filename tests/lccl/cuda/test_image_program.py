"""One program per image gives what the reference gives, bitwise the same in any company, and compiles without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="the GPU engine needs Triton")

from lccl.engines.cuda.image_program import ImageProgram
from lccl.engines.reference import ReferenceEngine
from lccl.errors import EngineError
from lccl.networks import Architecture, build
from lccl.networks.gates import GateSpec
from lccl.networks.lowering import lower
from lccl.plan.geometry import shape_of
from lccl.preprocessing import Preprocessing
from tests.lccl.cpu.networks import with_sets
from tests.lccl.cuda.image_networks import (
    check_against_reference,
    controls_for,
    images,
    launch,
    mixed,
    of_images,
    small_plan,
)

SHARED = GateSpec("shared")
NETWORKS = {
    "post-shared": ("post", SHARED),
    "pre-shared": ("pre", SHARED),
    "pre-shared-before": ("pre", GateSpec("shared", before=(True, True))),
    "post-grouped": ("post", GateSpec("grouped", 4)),
    "pre-pointwise": ("pre", GateSpec("pointwise", one_by_one=True)),
    "pre-shared-projected": ("pre", SHARED, True),
    "post-shared-projected": ("post", SHARED, True),
    "post-plain": ("post", None),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_it_agrees_with_the_reference(kind, device):
    plan = small_plan(*NETWORKS[kind])
    options, pixels = controls_for(plan, mixed(4, len(plan.layers))), images(4)
    answer = launch(plan, pixels, options, device)
    told = check_against_reference(plan, pixels, options, answer)
    assert told > 0.7
    assert not plan.layers or len(np.unique(answer.kept)) > 5


def test_bfloat16_agrees_within_its_own_precision(device):
    if device.type == "cpu":
        pytest.skip("Triton's interpreter multiplies the bits of bfloat16 as whole numbers")
    plan = small_plan("pre", SHARED)
    options, pixels = controls_for(plan, np.zeros((1, len(plan.layers)))), images(1)
    answer = launch(plan, pixels, options, device, torch.bfloat16)
    check_against_reference(plan, pixels, options, answer, gate_error=0.1, logit_error=0.1)


def test_values_that_are_normalised_already_pass_as_they_are(device):
    plan = small_plan("post", SHARED)
    options, pixels = controls_for(plan, np.zeros((1, len(plan.layers)))), images(1)
    step = plan.steps[0]
    values = ((pixels / np.float32(255) - step.mean) / step.std).astype(np.float32)
    answer, from_pixels = (launch(plan, images, options, device) for images in (values, pixels))
    np.testing.assert_allclose(answer.logits, from_pixels.logits, atol=1e-3)


@pytest.mark.parametrize("kind", ["post-shared", "post-grouped"])
def test_forced_masks_stand_for_the_threshold_test(kind, device):
    plan = small_plan(*NETWORKS[kind])
    random = np.random.default_rng(0)
    masks = tuple(
        random.integers(0, 2, (2, one.gate_groups, one.convolution.height, one.convolution.width), dtype=np.uint8)
        for one in shape_of(plan).layers
    )
    options = controls_for(plan, np.full((2, len(plan.layers)), np.inf), forced_masks=masks)
    answer = launch(plan, images(2), options, device)
    for mask, forced in zip(answer.masks, masks, strict=True):
        np.testing.assert_array_equal(mask, forced)
    engine = ReferenceEngine(plan, torch.device("cpu"))
    expected = engine.run(images(2), options)
    np.testing.assert_allclose(answer.logits, expected.logits, atol=0.02 * np.abs(expected.logits).max())
    np.testing.assert_array_equal(answer.kept, expected.kept)


def test_an_image_gets_the_same_bits_alone_and_beside_others(device):
    plan = small_plan("pre", SHARED, exits=True)
    options, pixels = controls_for(plan, mixed(4, len(plan.layers))), images(4)
    together = launch(plan, pixels, options, device)
    alone = launch(plan, pixels[[3]], of_images(options, [3]), device)
    np.testing.assert_array_equal(alone.logits[0], together.logits[3])
    np.testing.assert_array_equal(alone.kept[0], together.kept[3])
    for one, all_of_them in zip(alone.masks, together.masks, strict=True):
        np.testing.assert_array_equal(one[0], all_of_them[3])


def test_an_invalid_image_keeps_nothing_and_answers_nothing(device):
    plan = small_plan("post", SHARED)
    options = controls_for(plan, np.full((2, len(plan.layers)), -np.inf))
    answer = launch(plan, images(2), options, device, valid=[0, 1])
    assert (answer.kept[0] == 0).all()
    assert all((mask[0] == 0).all() for mask in answer.masks)
    assert np.isnan(answer.logits[0]).all()
    assert (answer.kept[1] == shape_of(plan).cells).all()


def test_images_leave_where_they_are_sure(device):
    plan = small_plan("pre", SHARED, exits=True)
    pixels, thresholds = images(4), np.full((4, len(plan.layers)), 0.1, np.float32)
    engine = ReferenceEngine(plan, torch.device("cpu"))
    first = engine.run(pixels, controls_for(plan, thresholds, exit_confidence=np.full((4, 2), -np.inf, np.float32)))
    sure = 1 / np.exp(first.logits - first.logits.max(1, keepdims=True)).sum(1)
    confidence = np.ones((4, 2), np.float32)
    confidence[:, 0] = sure * [0.98, 1.02, 0.98, 1.02]
    confidence[1, 1] = 0
    options = controls_for(plan, thresholds, exit_confidence=confidence)
    answer = launch(plan, pixels, options, device)
    assert answer.left.tolist() == [0, 1, 0, 2]
    check_against_reference(plan, pixels, options, answer)
    assert (answer.kept[0, 2:] == 0).all()
    assert (answer.kept[3, 2:] > 0).all()
    assert all((mask[[0, 2]] == 0).all() for mask in answer.masks[2:])
    assert answer.executed[0] < answer.executed[1] < answer.executed[3]


def test_each_image_runs_with_its_own_normalisation_set(device):
    plan = with_sets(small_plan("pre", SHARED), 1, 1.2)
    options = controls_for(plan, np.zeros((2, len(plan.layers))), norm_set=np.array([0, 1]))
    pixels = np.repeat(images(1), 2, 0)
    answer = launch(plan, pixels, options, device)
    check_against_reference(plan, pixels, options, answer)
    assert (answer.logits[0] != answer.logits[1]).all()


def executed_by(plan, kept):
    program = ImageProgram(plan, shape_of(plan), 1, torch.device("cpu"), torch.float16)
    return int(program.executed_macs(np.array([kept]), np.array([plan.exits]), ())[0])


def test_executed_macs_count_started_tiles_and_all_padding():
    plan = small_plan("post", SHARED, size=32)
    tile, none = 128 * 16 * 3 * 64, executed_by(plan, [0] * 6)
    gates = 2 * 16 * (3 * 1024 * 16 + 2 * 256 * 32 + 64 * 64)
    stem, classifier = 1024 * 16 * 3 * 64, 16 * 64
    assert none == stem + classifier + gates
    for rows, tiles in ((1, 1), (128, 1), (129, 2), (1024, 8)):
        assert executed_by(plan, [16 * rows, 0, 0, 0, 0, 0]) == none + tiles * tile
    assert executed_by(plan, [0, 0, 0, 0, 0, 64]) == none + 64 * 64 * 9 * 64


def test_executed_macs_of_grouped_gates_are_those_of_all_positions():
    plan = small_plan("post", GateSpec("grouped", 4))
    assert executed_by(plan, [0] * 6) == executed_by(plan, shape_of(plan).cells) > shape_of(plan).dense


def plan_of(architecture, size=32):
    network = build(architecture).eval().requires_grad_(False)
    return lower(network, Preprocessing(size, size, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)))


def test_it_takes_the_small_cifar_networks_and_leaves_the_others_alone():
    small = [Architecture(f"resnet{depth}", form) for depth in (20, 110) for form in ("post", "pre")]
    small += [Architecture("resnet20", gate=gate) for gate in ("pointwise", "grouped:4", "none")]
    assert all(ImageProgram.fits(plan_of(one)) for one in small)
    large = [Architecture("resnet18"), Architecture("wrn-16-4"), Architecture("resnet164")]
    assert not any(ImageProgram.fits(plan_of(one)) for one in [*large, Architecture("resnet20", split="1/2")])
    assert not ImageProgram.fits(plan_of(Architecture("resnet20"), 33))


def test_a_plan_that_does_not_fit_is_refused():
    plan = plan_of(Architecture("wrn-16-4"))
    with pytest.raises(EngineError, match="run it by layers"):
        ImageProgram(plan, shape_of(plan), 1, torch.device("cpu"), torch.float16)


COMPILE = """
import sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from lccl.engines.cuda.kernels.image import run_image

capability, half, widths, grouped = int(sys.argv[1]), "*" + sys.argv[2], int(sys.argv[3]), sys.argv[4] == "grouped"
pointers = {
    "images": "*u8", "masks": "*i64", "weights": half, "maps": half,
    **dict.fromkeys(("thresholds", "confidence", "logits", "values", "room"), "*fp32"),
    **dict.fromkeys(("norm_sets", "valid", "kept", "left", "table", "listed"), "*i32"),
}
constants = {"WIDTHS": widths, "CELLS": 1024, "SHARED": True, "GROUPED": grouped, "FORCED": False}
signature = {one: pointers.get(one, "constexpr" if one in constants else "i32") for one in run_image.arg_names}
aligned = {(i,): [["tt.divisibility", 16]] for i, one in enumerate(run_image.arg_names) if one in pointers}
source = ASTSource(fn=run_image, signature=signature, constexprs=constants, attrs=aligned)
options = {"num_warps": 8, "enable_fp_fusion": True}
print(compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm["ptx"])
"""


@pytest.mark.parametrize(
    ("arguments", "product"),
    [(("90", "fp16", "16", "grouped"), "wgmma.mma_async"), (("80", "bf16", "1", "shared"), "mma.sync")],
)
def test_it_compiles_to_tensor_core_instructions_and_coherent_loads(arguments, product):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", COMPILE, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert product in done.stdout
    assert "cp.async" in done.stdout
    assert "ld.global.nc" not in done.stdout
