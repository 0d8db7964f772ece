"""What a gate decides: which cells are computed, and that nothing is read for the others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lccl.plan import steps
from tests.lccl.convolutions import LARGE, Case, controls_for, plan_of, values_for
from tests.lccl.settings import uniform

PLAIN = Case(
    height=7, width=6, channels=5, out=48, kernel=3, stride=1, gate=None, gate_apart=True, affine=True, relu=False,
    outputs="both", residual="none", positive=False, reused=False, border=1, thresholds=(0.0, 0.0), threads=1,
    cache_bytes=LARGE, seed=0,
)  # fmt: skip
KINDS = {
    "shared": (3, 1),
    "pointwise": (1, 48),
    "of 3 channels": (1, 16),
    "of 24 channels": (3, 2),
    "of 16 channels": (3, 3),
}


def constant_gate(case, value, arithmetic, make_cpu):
    """The case with a gate that is ``value`` everywhere; returns what runs it and how many cells it rules."""
    plan, it = plan_of(case)
    number = plan.steps.index(it)
    maps = len(it.gate.weight)
    same = replace(it, gate=replace(it.gate, affine=steps.Affine(np.zeros(maps), np.full(maps, value))))
    plan = replace(plan, steps=(*plan.steps[:number], same, *plan.steps[number + 1 :]))
    engine, values = make_cpu(plan, arithmetic, case.threads), values_for(plan, it, 1, 0)

    def kept(threshold):
        options = uniform(1, [threshold])
        return int(engine.run_step(number, values, options)[1].kept[0, 0])

    return kept, int(engine.shape.cells[0])


@pytest.mark.parametrize("gate", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
def test_a_gate_at_its_threshold_is_skipped(value, gate, arithmetic, make_cpu):
    kept, cells = constant_gate(replace(PLAIN, gate=gate), value, arithmetic, make_cpu)
    below = np.nextafter(np.float32(value), np.float32(-1)) if value else -1e-3
    assert [kept(threshold) for threshold in (-np.inf, below, value, np.inf)] == [cells, cells, 0, 0]


@pytest.mark.parametrize("gate", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("residual", ["none", "identity"])
@pytest.mark.parametrize("cache_bytes", [0, LARGE])
def test_what_only_skipped_cells_read_does_not_matter(cache_bytes, residual, stride, gate, arithmetic, make_cpu):
    case = replace(PLAIN, gate=gate, stride=stride, residual=residual, threads=2, cache_bytes=cache_bytes, seed=stride)
    plan, it = plan_of(case)
    number, values = plan.steps.index(it), values_for(plan, it, 2, 0)
    engine = make_cpu(plan, arithmetic, case.threads, case.cache_bytes)
    mask = np.random.default_rng(0).integers(0, 2, (2, gate[1], *case.out_size), np.uint8)
    mask[0, :, :, : case.out_size[1] // 2] = mask[1, :, case.out_size[0] // 2 :] = 0
    options = replace(uniform(2, [0.0]), forced_masks=(mask,))
    unread = ~receptive_field(mask.any(1), case)
    assert unread.any((1, 2)).all()
    poisoned = np.where(unread[:, None], np.nan, values["x"]).astype(np.float32)
    clean, expected = engine.run_step(number, values, options)
    written, out = engine.run_step(number, values | {"x": poisoned}, options)
    for name, value in written.items():
        assert np.isfinite(value).all()
        assert np.array_equal(value, clean[name])
    assert np.array_equal(out.kept, expected.kept)


def receptive_field(kept, case):
    """The positions [N, H, W] of the input that kept positions [N, h, w] read."""
    field = np.zeros((len(kept), case.height, case.width), bool)
    half = case.kernel // 2
    for image, y, x in np.argwhere(kept) * (1, case.stride, case.stride):
        field[image, max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1] = True
    return field


@pytest.mark.parametrize("gate", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("cache_bytes", [0, LARGE])
def test_an_image_of_nothing_but_nan_changes_no_other(cache_bytes, gate, arithmetic, make_cpu):
    case = replace(PLAIN, gate=gate, residual="identity", threads=2, cache_bytes=cache_bytes, thresholds=(0.4,) * 3)
    plan, it = plan_of(case)
    number, values = plan.steps.index(it), values_for(plan, it, 3, 0)
    engine = make_cpu(plan, arithmetic, case.threads, case.cache_bytes)
    clean, expected = engine.run_step(number, values, controls_for(case))
    for value in values.values():
        value[1] = np.nan
    written, out = engine.run_step(number, values, controls_for(case))
    for name, value in written.items():
        assert np.array_equal(value[[0, 2]], clean[name][[0, 2]])
    assert np.array_equal(out.kept[[0, 2]], expected.kept[[0, 2]])
