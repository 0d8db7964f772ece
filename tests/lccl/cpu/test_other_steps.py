"""Normalisation, pools and the classifier agree with the reference in float64, whatever their shape."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lccl.plan import steps
from tests.lccl.comparison import TOLERANCES, each_array_of, interpret, rounded, without_border
from tests.lccl.convolutions import LARGE, weights
from tests.lccl.settings import uniform

SIDES = st.sampled_from((1, 2, 3, 5, 7, 13))
CHANNELS = st.sampled_from((1, 3, 5, 8, 16, 17, 48))


def small_plan(channels, height, width, *between, buffers=(), classes=2, weight=None, bias=None, last="image", exits=0):
    """Normalise, ``between``, an average pool of ``last`` and a classifier."""
    wide = next((one.channels for one in buffers if one.name == last), channels)
    return steps.Plan(
        buffers=(steps.Buffer("image", channels, height, width), *buffers, steps.Buffer("features", wide, 1, 1)),
        steps=(
            steps.Normalise(np.linspace(0.4, 0.6, channels), np.linspace(0.2, 0.3, channels), "image"),
            *between,
            steps.AveragePool(last, "features"),
            steps.Classify(
                "features",
                np.zeros((classes, wide), np.float32) if weight is None else weight,
                np.zeros(classes, np.float32) if bias is None else bias,
            ),
        ),
        layers=(),
        classes=classes,
        exits=exits,
    )


def test_pixels_are_normalised(arithmetic, make_cpu):
    plan = small_plan(3, 1, 1, classes=3, weight=np.eye(3, dtype=np.float32))
    pixels = np.stack([np.random.default_rng(seed).permutation(256) for seed in range(3)], 1).astype(np.uint8)
    images = pixels[:, None, None, :]
    out = make_cpu(plan, arithmetic, threads=2).run(images, uniform(256, []))
    expected = (pixels / 255 - plan.steps[0].mean) / plan.steps[0].std
    np.testing.assert_allclose(out.logits, expected, rtol=max(1e-6, TOLERANCES[arithmetic[1]]["stored"]), atol=1e-6)


@settings(max_examples=20)
@given(
    channels=st.sampled_from((1, 3, 5, 8, 16, 17, 48, 64)),
    classes=st.sampled_from((1, 2, 10, 16, 17, 100)),
    images=st.sampled_from((1, 2, 5, 13)),
    threads=st.sampled_from((1, 2, 3)),
)
def test_classifiers(channels, classes, images, threads, arithmetic, make_cpu):
    random = np.random.default_rng(channels)
    weight, bias = weights(random, classes, channels), weights(random, classes)
    values = rounded(random.normal(0, 1, (images, channels)).astype(np.float32))
    plan = small_plan(channels, 1, 1, classes=classes, weight=weight, bias=bias)
    out = make_cpu(plan, arithmetic, threads).run(values[:, None, None, :], uniform(images, []))
    size = np.abs(values) @ np.abs(weight.T) + np.abs(bias)
    expected = values.astype(np.float64) @ weight.T.astype(np.float64) + bias
    assert (np.abs(out.logits - expected) <= TOLERANCES[arithmetic[1]]["sums"] * size).all()
    assert (out.executed_macs >= weight.size).all()


@settings(max_examples=20)
@given(
    height=SIDES, width=SIDES, channels=CHANNELS, kernel=st.sampled_from((1, 3, 5)), stride=st.sampled_from((1, 2, 3)),
    images=st.sampled_from((1, 2, 9)), threads=st.sampled_from((1, 2, 3)), cache_bytes=st.sampled_from((0, LARGE)),
)  # fmt: skip
def test_max_pools(height, width, channels, kernel, stride, images, threads, cache_bytes, arithmetic, make_cpu):
    out_size = -(-height // stride), -(-width // stride)
    between = (
        steps.MaxPool("image", kernel, stride, "pooled"),
        steps.Convolve("", "pooled", np.zeros((1, channels, 3, 3)), 1, None, False, raw="after"),
    )
    buffers = (steps.Buffer("pooled", channels, *out_size), steps.Buffer("after", 1, *out_size))
    plan = small_plan(channels, height, width, *between, buffers=buffers, last="after")
    values = rounded(np.random.default_rng(0).normal(-1, 1, (images, channels, height, width)).astype(np.float32))
    options = uniform(images, [])
    written, _ = make_cpu(plan, arithmetic, threads, cache_bytes).run_step(1, {"image": values}, options)
    expected = interpret(plan, between[0], {"image": values}, options).values["pooled"].numpy()
    assert np.array_equal(without_border(written["pooled"], buffers[0]), expected)


@settings(max_examples=30)
@given(
    height=SIDES, width=SIDES, channels=CHANNELS, grid=st.sampled_from((1, 1, 2, 3, 4, 16)),
    images=st.sampled_from((1, 2, 9)), threads=st.sampled_from((1, 2, 3)),
)  # fmt: skip
def test_average_pools(height, width, channels, grid, images, threads, arithmetic, make_cpu):
    parts = steps.Buffer("parts", channels, grid, grid)
    plan = small_plan(channels, height, width, steps.AveragePool("image", "parts", grid), buffers=(parts,))
    values = {
        "image": rounded(np.random.default_rng(0).normal(0, 1, (images, channels, height, width)).astype(np.float32))
    }
    options = uniform(images, [])
    written, _ = make_cpu(plan, arithmetic, threads).run_step(1, values, options)
    expected = interpret(plan, plan.steps[1], values, options).values["parts"].numpy()
    size = interpret(plan, plan.steps[1], each_array_of(values, np.abs), options).values["parts"].numpy()
    assert (np.abs(written["parts"] - expected) <= TOLERANCES[arithmetic[1]]["sums"] * size).all()


@settings(max_examples=20)
@given(
    channels=st.sampled_from((1, 3, 8, 17, 64)), grid=st.sampled_from((1, 2, 3)), hidden=st.sampled_from((1, 7, 33)),
    classes=st.sampled_from((1, 2, 10, 17, 1000)), images=st.sampled_from((1, 2, 13)),
    threads=st.sampled_from((1, 2, 3)),
)  # fmt: skip
def test_exits(channels, grid, hidden, classes, images, threads, arithmetic, make_cpu):
    """Of whole images: means over one pixel each. All leave."""
    random = np.random.default_rng(channels)
    early = steps.Exit(
        0, "parts", weights(random, hidden, channels, grid, grid), weights(random, hidden),
        weights(random, classes, hidden), weights(random, classes),
    )  # fmt: skip
    plan = small_plan(
        channels, grid, grid, steps.AveragePool("image", "parts", grid), early,
        buffers=(steps.Buffer("parts", channels, grid, grid),), classes=classes, exits=1,
    )  # fmt: skip
    values = rounded(random.normal(0, 1, (images, channels, grid, grid)).astype(np.float32))
    engine, options = make_cpu(plan, arithmetic, threads), uniform(images, [], exit_confidence=[0])
    out = engine.run(np.ascontiguousarray(values.transpose(0, 2, 3, 1)), options)
    assert out.exit_index.tolist() == [0] * images
    expected = interpret(plan, early, {"parts": values}, options).logits.numpy()
    made = np.maximum(values.reshape(images, -1) @ early.hidden_weight.reshape(hidden, -1).T + early.hidden_bias, 0)
    size = np.abs(values).reshape(images, -1) @ np.abs(early.hidden_weight).reshape(hidden, -1).T
    size = (size + np.abs(early.hidden_bias) + made) @ np.abs(early.weight.T) + np.abs(early.bias)
    assert (np.abs(out.logits - expected) <= TOLERANCES[arithmetic[1]]["sums"] * size).all()
    assert (out.executed_macs >= early.hidden_weight.size + early.weight.size).all()


def answering(logits, confidence):
    """The exit that an image leaves by where an early exit gives these logits."""
    early = steps.Exit(
        0, "parts", np.zeros((1, 3, 1, 1), np.float32), np.zeros(1, np.float32),
        np.zeros((len(logits), 1), np.float32), np.float32(logits),
    )  # fmt: skip
    plan = small_plan(
        3, 1, 1, steps.AveragePool("image", "parts", 1), early, buffers=(steps.Buffer("parts", 3, 1, 1),),
        classes=len(logits), exits=1,
    )  # fmt: skip
    return plan, uniform(1, [], exit_confidence=[confidence])


@pytest.mark.parametrize(
    ("logits", "confidence", "leaves"),
    [
        ([1, 1], 0.5, False), ([1, 1], np.nextafter(np.float32(0.5), np.float32(0)), True), ([1] * 4, 0.25, False),
        ([1] * 4, 0.2499, True), ([1000, 0, -1000], 1, False), ([1000, 0, -1000], 0.9999, True), ([7], 1, False),
        ([7], 0.9999, True), ([3, 1, 2], 0.6652, True), ([3, 1, 2], 0.6653, False), ([-3e38, -3e38], 0.4, True),
        ([0, np.nan], 0, False), ([np.nan, 0], 0, False), ([np.inf, 0], 0, False), ([-np.inf] * 2, 0, False),
        ([-np.inf, 0], 0.9999, True), ([0] * 1000, 0, True), ([0] * 1000, 0.0011, False), ([0, 1], -np.inf, True),
    ],
)  # fmt: skip
def test_an_image_leaves_where_its_confidence_lies_above_its_own(logits, confidence, leaves, arithmetic, make_cpu):
    plan, options = answering(logits, confidence)
    out = make_cpu(plan, arithmetic).run(np.zeros((1, 1, 1, 3), np.uint8), options)
    assert out.exit_index.tolist() == [0 if leaves else 1]
    assert np.array_equal(out.logits[0], np.float32(logits) if leaves else np.zeros(len(logits)))
