"""int8's other steps, and the roundings that random values would hardly ever show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lccl.plan import steps
from lccl.plan.steps import Activated, Affine, Buffer, Convolve, Gate, Normalise, Plan, Quantum, Residual
from tests.lccl.cpu.int8_model import State, confidence, do
from tests.lccl.cpu.test_int8 import check, inside
from tests.lccl.settings import uniform

SIDES = st.sampled_from((1, 2, 3, 5, 7, 13))
CHANNELS = st.sampled_from((1, 3, 5, 8, 16, 17, 48, 65))
F = np.float32


def plan_of(channels, height, width, *between, buffers=(), quantum=None, layers=(), exits=0, classes=2):
    """An image, a map ``x`` of it, the steps given, and an end that reads ``x``."""
    quantum = quantum or Quantum(0.25, 0)
    zero = np.uint8([124, 116, 104])
    from_image = Convolve(
        "x", "image", np.zeros((channels, 3, 1, 1), np.int8), 1, Affine(np.ones(channels, F), np.zeros(channels, F)),
        offset=np.zeros(channels, np.int32), raw="x",
    )  # fmt: skip
    return Plan(
        buffers=(
            Buffer("image", 3, height, width), Buffer("x", channels, height, width, quantum),
            Buffer("features", channels, 1, 1), *buffers,
        ),
        steps=(
            Normalise(zero / F(255), np.full(3, 0.25, F), "image", zero), from_image, *between,
            steps.AveragePool("x", "features"),
            steps.Classify("features", np.zeros((classes, channels), F), np.zeros(classes, F)),
        ),
        layers=layers,
        classes=classes,
        exits=exits,
    )  # fmt: skip


def integers(images, channels, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (images, channels, height, width), np.uint8)


def run_both(engine, number, values):
    """What the engine and the model make of one pool on integers ``x`` [N, C, H, W]."""
    step = engine.plan.steps[number]
    written, _ = engine.run_step(number, {"x": values.astype(F)}, uniform(len(values), []))
    wanted = []
    for image in values:
        state = State({"x": image})
        do(engine.plan, step, state)
        wanted.append(state.values[step.raw])
    return written[step.raw], np.stack(wanted)


@settings(max_examples=20)
@given(
    height=SIDES, width=SIDES, channels=CHANNELS, kernel=st.sampled_from((1, 3, 5)), stride=st.sampled_from((1, 2, 3)),
    images=st.sampled_from((1, 2, 9)), threads=st.sampled_from((1, 2, 3)), zero=st.sampled_from((0, 128)),
)  # fmt: skip
def test_max_pools(height, width, channels, kernel, stride, images, threads, zero, int8, make_cpu):
    out = Buffer("out", channels, -(-height // stride), -(-width // stride), Quantum(0.25, zero))
    pool = steps.MaxPool("x", kernel, stride, "out")
    plan = plan_of(channels, height, width, pool, buffers=(out,), quantum=out.quantum)
    values = integers(images, channels, height, width)
    found, wanted = run_both(make_cpu(plan, int8, threads), 2, values // 2 if zero else values)
    assert np.array_equal(inside(plan, "out", found), wanted)


@settings(max_examples=20)
@given(
    height=SIDES, width=SIDES, channels=CHANNELS, grid=st.sampled_from((1, 2, 3, 4, 16)),
    images=st.sampled_from((1, 2, 9)), threads=st.sampled_from((1, 2, 3)), zero=st.sampled_from((0, 128)),
    scale=st.floats(1e-6, 1e3),
)  # fmt: skip
def test_average_pools(height, width, channels, grid, images, threads, zero, scale, int8, make_cpu):
    pool = steps.AveragePool("x", "parts", grid)
    buffers = (Buffer("parts", channels, grid, grid),)
    plan = plan_of(channels, height, width, pool, buffers=buffers, quantum=Quantum(scale, zero))
    found, wanted = run_both(make_cpu(plan, int8, threads), 2, integers(images, channels, height, width))
    assert np.array_equal(found, wanted)


@settings(max_examples=20)
@given(
    channels=st.sampled_from((1, 3, 8, 17, 64)), grid=st.sampled_from((1, 2, 3)), hidden=st.sampled_from((1, 7, 33)),
    classes=st.sampled_from((1, 2, 10, 17, 100)), threads=st.sampled_from((1, 2, 3)), seed=st.integers(0, 99),
)  # fmt: skip
def test_exits(channels, grid, hidden, classes, threads, seed, int8, make_cpu):
    """Two images, one of which may leave: the one whose confidence in float64 lies just above its own limit."""
    random = np.random.default_rng(seed)

    def floats(*shape):
        return random.normal(0, 1, shape).astype(F)

    early = steps.Exit(
        0, "parts", floats(hidden, channels, grid, grid), floats(hidden), floats(classes, hidden), floats(classes),
    )  # fmt: skip
    plan = plan_of(
        channels, 4, 4, steps.AveragePool("x", "parts", grid), early,
        buffers=(Buffer("parts", channels, grid, grid),), exits=1, classes=classes,
    )  # fmt: skip
    first = plan.steps[1]
    first = replace(
        first, weight=random.integers(-127, 128, first.weight.shape, np.int8),
        affine=Affine(np.full(channels, 0.01, F), np.full(channels, 20, F)),
    )  # fmt: skip
    plan = replace(plan, steps=(plan.steps[0], first, *plan.steps[2:]))
    images = random.integers(0, 256, (2, 4, 4, 3), np.uint8)
    engine, limits = make_cpu(plan, int8, threads), np.ones((2, 1), F)
    for number, image in enumerate(images):
        state = State()
        for step in plan.steps[:4]:
            do(plan, step, state, image, (), (0,))
        do(plan, early, state, image, (), (0,))
        if state.logits is not None:  # else its confidence is 0
            limits[number] = np.nextafter(F(confidence(state.logits)), F(number))
    out = engine.run(images, replace(uniform(2, []), exit_confidence=limits))
    for number, image in enumerate(images):
        state = State()
        for step in plan.steps:
            do(plan, step, state, image, (), limits[number])
            if state.exit_index is not None:
                break
        assert out.exit_index[number] == state.exit_index
        assert np.array_equal(out.logits[number], state.logits)


# roundings

COUNT = 200
TARGETS = np.arange(1, COUNT + 1)  # one position and one channel each


def alone(fields, quantum=None):
    """One convolution of 1 channel to 200 that takes each integer as it is, at 200 positions, and its plan."""
    ones = Affine(np.ones(COUNT, F), np.zeros(COUNT, F))
    it = Convolve(
        **{"name": "it", "input": "x", "weight": np.ones((COUNT, 1, 1, 1), np.int8), "stride": 1, "affine": ones,
           "offset": np.zeros(COUNT, np.int32), "raw": "y"} | fields
    )  # fmt: skip
    buffers = (
        Buffer("y", COUNT, 1, COUNT, quantum or Quantum(1, 0)), Buffer("on", COUNT, 1, COUNT, Quantum(1, 0)),
        Buffer("r", COUNT, 1, COUNT, Quantum(it.residual.scale if it.residual else 1, 128)),
    )  # fmt: skip
    written = {"y", "on"} - set(it.writes)
    r = Convolve(
        "r", "x", np.ones((COUNT, 1, 1, 1), np.int8), 1, ones, offset=np.zeros(COUNT, np.int32), raw="r"
    )  # fmt: skip
    kept = tuple(one for one in buffers if one.name not in written)
    return plan_of(1, 1, COUNT, r, it, buffers=kept, layers=("it",) if it.gate else ())


def cancelling():
    """Scales, and shifts that take the rounded product of the target away, with what is left of the exact one."""
    scale = np.random.default_rng(0).uniform(1e7, 1.1e7, COUNT).astype(F)
    shift = -(TARGETS.astype(F) * scale)
    return Affine(scale, shift), TARGETS * scale.astype(np.float64) + shift


def check_alone(plan, int8, make_cpu, **values):
    values = {"x": TARGETS.astype(np.uint8).reshape(1, 1, 1, COUNT)} | values
    options = uniform(1, [0.0] * len(plan.layers), want_masks=True)
    return check(make_cpu(plan, int8), 3, values, options)


def test_products_are_rounded_before_shifts_are_added(int8, make_cpu):
    affine, rest = cancelling()
    assert (rest > 1).sum() > 20  # which a fused product would store
    check_alone(alone({"affine": affine}), int8, make_cpu)
    check_alone(alone({"raw": None, "activated": Activated("on", affine)}), int8, make_cpu)


@pytest.mark.parametrize("maps", [1, COUNT])
def test_gates_are_rounded_before_their_shift_is_added(maps, int8, make_cpu):
    affine, rest = cancelling()
    chosen = np.argsort(-rest)[:maps] if maps == 1 else np.arange(COUNT)
    affine = Affine(affine.scale[chosen], affine.shift[chosen])
    gate = Gate("it", 0, "x", np.ones((maps, 1, 1, 1), np.int8), affine, np.zeros(maps, np.int32))
    (mask,) = check_alone(alone({"gate": gate}), int8, make_cpu)
    assert not mask[0, np.arange(maps), 0, chosen].any()  # 0 is not above 0; what is left of an exact product is


def partner(factor, wanted=99.5):
    """A number whose product with ``factor`` is rounded to ``wanted``, and is larger; None where there is none."""
    near = F(wanted / float(factor))
    for _ in range(8):
        near = np.nextafter(near, F(0))
    for _ in range(16):
        near = np.nextafter(near, F(np.inf))
        if F(factor) * near == F(wanted) and float(factor) * float(near) > wanted:
            return near
    return None


def check_half(fields, residual, int8, make_cpu):
    """All of it is −99.5 + 99, a half, which is rounded to 0; with anything more it would become −1."""
    plan = alone({"residual": Residual("r")} | fields, Quantum(1, 128))
    values = {"x": np.ones((1, 1, 1, COUNT), F), "r": np.full((1, COUNT, 1, COUNT), 128 + residual, F)}
    written, _ = make_cpu(plan, int8).run_step(3, values, uniform(1, [0.0] * len(plan.layers)))
    assert (written["y"] == 128).all()
    check_alone(plan, int8, make_cpu, r=values["r"].astype(np.uint8))


def test_products_with_gates_are_rounded_before_residuals_are_added(int8, make_cpu):
    factor = next(F(one) for one in np.linspace(1.1, 2) if partner(F(one)))
    zeros = np.zeros(COUNT, F)
    value, always = Affine(zeros, zeros - factor), Affine(zeros[:1], np.array([partner(factor)]))
    gate = Gate("it", 0, "x", np.zeros((1, 1, 1, 1), np.int8), always, np.zeros(1, np.int32))
    check_half({"gate": gate, "affine": value}, 99, int8, make_cpu)


def test_residuals_are_rounded_before_they_are_added(int8, make_cpu):
    residual = next(one for one in range(60, 127) if partner(F(one)))
    value = Affine(np.zeros(COUNT, F), np.full(COUNT, -100, F))
    scaled = Residual("r", 1, float(partner(F(residual))))
    check_half({"affine": value, "residual": scaled}, residual, int8, make_cpu)


def test_numbers_too_small_for_the_normal_range_count(int8, make_cpu):
    """A gate of 2⁻¹⁴⁰ is above 0."""
    tiny = Affine(np.zeros(1, F), np.array([2.0**-140], F))
    gate = Gate("it", 0, "x", np.zeros((1, 1, 1, 1), np.int8), tiny, np.zeros(1, np.int32))
    (mask,) = check_alone(alone({"gate": gate}), int8, make_cpu)
    assert mask.all()


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_sums_are_exact(sign, int8, make_cpu):
    most = 2**31 - 1 - 255 * 127
    weight = np.full((COUNT, 1, 1, 1), sign * 127, np.int8)
    offset = np.full(COUNT, sign * most, np.int32) - np.arange(COUNT, dtype=np.int32) * sign
    affine = Affine(np.full(COUNT, 2.0**-7, F), np.full(COUNT, -sign * 2.0**24, F))
    check_alone(alone({"weight": weight, "offset": offset, "affine": affine}, Quantum(1, 128)), int8, make_cpu)
