"""Engines, plans, images and options that do not fit are refused with a sentence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lccl.engines.cpu.engine import CpuEngine
from lccl.errors import EngineError, InputError
from tests.lccl.cpu.networks import POST
from tests.lccl.settings import uniform


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"precision": "fp64"}, "no precision 'fp64'"),
        ({"precision": ""}, "no precision"),
        ({"instruction_set": "sse2"}, "no instruction set 'sse2'"),
        ({"instruction_set": "avx2", "precision": "bf16"}, "no instruction set 'avx2' for bf16"),
        ({"instruction_set": ""}, "no instruction set"),
        ({"threads": -1}, "cannot run"),
        ({"threads": 1025}, "threads"),
        ({"threads": 1 << 40}, "cannot run"),
        ({"cache_bytes": -1}, "cannot run"),
    ],
)
def test_engines_that_cannot_be_are_refused(options, match, small):
    reference, _, _ = small(POST, 13)
    with pytest.raises(EngineError, match=match):
        CpuEngine(reference.plan, **{"precision": "fp32"} | options)


def test_a_plan_that_does_not_fit_is_refused(small):
    plan = small(POST, 13)[0].plan
    narrower = replace(plan, buffers=tuple(replace(one, channels=max(1, one.channels // 2)) for one in plan.buffers))
    for wrong in (narrower, replace(plan, steps=plan.steps[1:]), replace(plan, steps=plan.steps[:-1])):
        with pytest.raises(EngineError, match="cannot run"):
            CpuEngine(wrong)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda pixels: pixels[:, :12], "images must be"),
        (lambda pixels: pixels[:0], "images must be"),
        (lambda pixels: pixels.astype(np.int64), "uint8 or floating"),
        (lambda pixels: np.full(pixels.shape, np.nan), "finite"),
        (lambda pixels: np.full(pixels.shape, 1e300), "finite as float32"),
    ],
)
def test_images_that_do_not_fit_are_refused(change, match, small, make_cpu, rows):
    reference, pixels, _ = small(POST, 13)
    engine, images = make_cpu(reference.plan, ("portable", "fp32")), change(pixels[:2])
    with pytest.raises(InputError, match=match):
        engine.run(images, rows(np.zeros((len(images), 18))))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"thresholds": np.zeros((3, 18), np.float32)}, "thresholds must be"),
        ({"thresholds": np.zeros((2, 17), np.float32)}, "thresholds must be"),
        ({"thresholds": np.full((2, 18), np.nan, np.float32)}, "NaN"),
        ({"exit_confidence": np.zeros((2, 1), np.float32)}, "exit_confidence"),
        ({"forced_masks": (np.ones((2, 1, 13, 13), np.uint8),) * 17}, "18 masks"),
        ({"forced_masks": (np.ones((2, 1, 13, 13), np.uint8),) * 18}, "a forced mask must be"),
    ],
)
def test_options_that_do_not_fit_are_refused(changes, match, small, make_cpu):
    reference, pixels, _ = small(POST, 13)
    engine = make_cpu(reference.plan, ("portable", "fp32"))
    with pytest.raises(InputError, match=match):
        engine.run(pixels[:2], replace(uniform(2, [0.0] * 18), **changes))
