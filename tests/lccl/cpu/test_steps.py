"""Each step alone agrees with the reference in float64, whatever its shape, and reads nothing that it skips."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lccl import plan as steps
from lccl.controls import Controls
from lccl.engines.reference import ReferenceEngine
from lccl.lowering import shape_of
from lccl.networks import Architecture

# What an output may be off by: `sums` of its magnitude (the same step on absolute values, which no intermediate
# value exceeds), for float32 sums of up to 3,136 terms in any order, and `stored` of itself, for being rounded.
# bfloat16 has 8 significant bits: rounding to nearest errs by 2⁻⁸ at most. Products of two of them are exact.
TOLERANCES = {"fp32": {"sums": 3e-6, "stored": 2**-23}, "bf16": {"sums": 3e-6, "stored": 2**-8}}

# kernel and maps of the gate (0 stands for one map per channel), and the channels it may rule
GATES = {
    "none": (None, (1, 3, 5, 8, 16, 17, 24, 48, 64)),
    "shared": ((3, 1), (1, 3, 5, 8, 16, 17, 24, 48, 64)),
    "shared 1x1": ((1, 1), (1, 5, 16, 17, 48)),
    "shared 5x5": ((5, 1), (8, 16, 17)),
    "pointwise": ((1, 0), (2, 3, 5, 8, 16, 17, 24, 48, 64)),
    "grouped in 2": ((3, 2), (2, 8, 16, 24, 32, 40, 48, 64)),
    "grouped in 3": ((3, 3), (3, 24, 48, 51)),
    "grouped in 4, 1x1": ((1, 4), (8, 16, 24, 48, 64)),
}
RESIDUALS = ("none", "identity", "fewer", "input", "strided")
OUTPUTS = ("raw", "activated", "normalised", "both")
LARGE = 1 << 40


@dataclass(frozen=True)
class Case:
    """A convolution, the batch it runs on, and what lies around it in its plan."""

    height: int
    width: int
    channels: int
    out: int
    kernel: int
    stride: int
    gate: tuple[int, int] | None  # kernel and maps
    gate_apart: bool  # it reads another buffer than the convolution
    affine: bool
    relu: bool
    outputs: str
    residual: str
    positive: bool  # the residual is never negative
    reused: bool  # a later step reads the residual too
    border: int  # that a later step wants around the outputs
    sets: int
    thresholds: tuple[float, ...]  # of each image
    threads: int
    cache_bytes: int
    seed: int

    @property
    def out_size(self):
        return -(-self.height // self.stride), -(-self.width // self.stride)


@st.composite
def cases(draw, gate=None, residual=None, outputs=None):
    gate = GATES[draw(st.sampled_from(sorted(GATES))) if gate is None else gate]
    residual = draw(st.sampled_from(RESIDUALS)) if residual is None else residual
    out = draw(st.sampled_from(gate[1]))
    kernel = draw(st.sampled_from((1, 3, 3, 5, 7)))
    channels = draw(st.sampled_from([c for c in (1, 3, 5, 8, 16, 17, 24, 48, 64) if c <= out or residual != "input"]))
    thresholds = st.sampled_from((-np.inf, 0.0, 0.4, 0.8, np.inf))
    images = draw(st.sampled_from((1, 2, 3, 9)))
    affordable = [side for side in (2, 3, 5, 7, 13) if side**2 * images * channels * out * kernel**2 < 3e6]
    side = st.sampled_from((1, *affordable))
    return Case(
        height=draw(side),
        width=draw(side),
        channels=channels,
        out=out,
        kernel=kernel,
        stride=2 if residual == "strided" else draw(st.sampled_from((1, 1, 2))),
        gate=gate[0] and (gate[0][0], gate[0][1] or out),
        gate_apart=draw(st.booleans()),
        affine=draw(st.booleans()),
        relu=draw(st.booleans()),
        outputs=draw(st.sampled_from(OUTPUTS)) if outputs is None else outputs,
        residual=residual,
        positive=draw(st.booleans()),
        reused=draw(st.booleans()),
        border=draw(st.sampled_from((0, 1, 2))),
        sets=draw(st.sampled_from((1, 2))),
        thresholds=tuple(draw(st.lists(thresholds, min_size=images, max_size=images))),
        threads=draw(st.sampled_from((1, 2, 3))),
        cache_bytes=draw(st.sampled_from((0, LARGE))),
        seed=draw(st.integers(0, 999)),
    )


# plans of one convolution


def affine(random, sets, channels):
    scale = random.uniform(0.5, 1.5, (sets, channels)) * random.choice([-1, 1], (sets, channels))
    return steps.Affine(scale.astype(np.float32), random.normal(0.2, 0.5, (sets, channels)).astype(np.float32))


def weights(random, *shape):
    return random.normal(0, np.prod(shape[1:]) ** -0.5, shape).astype(np.float32)


def plan_of(case):
    """The case's convolution as a step called ``it`` of a plan, and the buffers it reads."""
    random = np.random.default_rng(case.seed)
    height, width = case.out_size
    buffers = [steps.Buffer("image", 3, case.height, case.width), steps.Buffer("features", case.out, 1, 1)]

    def buffer(name, channels, *size):
        buffers.append(steps.Buffer(name, channels, *size))
        return name

    def from_image(name, channels, stride=1, relu=False):
        size = (height, width) if stride > 1 else (case.height, case.width)
        weight = np.zeros((channels, 3, 1, 1), np.float32)
        return steps.Convolve(name, "image", weight, stride, None, relu, raw=buffer(name, channels, *size))

    before = [from_image("x", case.channels), from_image("apart", case.channels + 1)]
    residual = None
    if case.residual == "input":
        residual = steps.Residual("x", case.stride)
    elif case.residual != "none":
        channels = case.out if case.residual == "identity" else max(1, case.out // 2)
        stride = case.stride if case.residual == "strided" else 1
        before.append(from_image("r", channels, case.stride // stride, relu=case.positive))
        residual = steps.Residual("r", stride)
    gate = None
    if case.gate is not None:
        kernel, maps = case.gate
        source, channels = ("apart", case.channels + 1) if case.gate_apart else ("x", case.channels)
        gate = steps.Gate(
            "it", 0, source, weights(random, maps, channels, kernel, kernel), affine(random, case.sets, maps)
        )
    raw = activated = None
    if case.outputs in ("raw", "both"):
        raw = buffer("raw", case.out, height, width)
    if case.outputs != "raw":
        norm = None if case.outputs == "activated" else affine(random, case.sets, case.out)
        activated = steps.Activated(buffer("activated", case.out, height, width), norm)
    it = steps.Convolve(
        name="it",
        input="x",
        weight=weights(random, case.out, case.channels, case.kernel, case.kernel),
        stride=case.stride,
        affine=affine(random, case.sets, case.out) if case.affine else None,
        relu=case.relu,
        gate=gate,
        residual=residual,
        raw=raw,
        activated=activated,
    )
    after = []
    if residual is not None and case.reused:
        one = next(one for one in buffers if one.name == residual.buffer)
        after.append(steps.MaxPool(one.name, 1, 1, buffer("again", one.channels, one.height, one.width)))
    for name in filter(None, (raw, activated and activated.buffer)):
        wide = np.zeros((1, case.out, 2 * case.border + 1, 2 * case.border + 1), np.float32)
        after.append(steps.Convolve("", name, wide, 1, None, False, raw=buffer(f"after {name}", 1, height, width)))
    plan = steps.Plan(
        buffers=tuple(buffers),
        steps=(
            steps.Normalise(np.zeros(3, np.float32), np.ones(3, np.float32), "image"),
            *before,
            it,
            *after,
            steps.GlobalAveragePool(raw or "activated", "features"),
            steps.Classify("features", np.zeros((2, case.out), np.float32), np.zeros(2, np.float32)),
        ),
        layers=("it",) if gate is not None else (),
        classes=2,
        norm_sets=case.sets,
    )
    return plan, it


def values_for(plan, step, count, seed, positive=False):
    """Normally distributed values [N, C, H, W] of every buffer that a convolution reads."""
    random = np.random.default_rng(seed)
    values = {}
    for name in reads(step):
        one = plan.buffer(name)
        values[name] = random.normal(0, 1, (count, one.channels, one.height, one.width)).astype(np.float32)
    if positive:
        values["r"] = np.maximum(values["r"], 0)
    return values


def reads(step):
    return sorted(
        {step.input}
        | ({step.gate.input} if step.gate else set())
        | ({step.residual.buffer} if step.residual else set())
    )


def controls_for(case, seed=1):
    sets = np.random.default_rng(seed).integers(0, case.sets, len(case.thresholds))
    column = np.array(case.thresholds, np.float32)[:, None]
    return Controls(column if case.gate else column[:, :0], sets, np.zeros((len(sets), 0), np.float32), want_masks=True)


def each_array(part, change):
    """Plan data with every array changed."""
    if isinstance(part, np.ndarray):
        return change(part)
    if isinstance(part, tuple):
        return tuple(each_array(one, change) for one in part)
    if is_dataclass(part):
        return replace(part, **{one.name: each_array(getattr(part, one.name), change) for one in fields(part)})
    return part


def rounded(array):
    """To the nearest bfloat16."""
    return torch.from_numpy(array).bfloat16().float().numpy()


def seen_by(precision, plan, values):
    """The plan and values with what an engine of that precision makes of weights and maps."""
    if precision == "fp32":
        return plan, values
    return (
        replace(plan, steps=tuple(_rounded_weights(step) for step in plan.steps)),
        {name: rounded(value) for name, value in values.items()},
    )


def _rounded_weights(step):
    if not isinstance(step, steps.Convolve):
        return step
    gate = step.gate and replace(step.gate, weight=rounded(step.gate.weight))
    return replace(step, weight=rounded(step.weight), gate=gate)


# the comparison


def interpret(plan, step, values, controls):
    """What the reference makes of one step, in float64."""
    reference = ReferenceEngine(plan, shape_of(plan), torch.device("cpu"), "fp64")
    state = reference.begin(
        np.zeros((len(controls), plan.image.height, plan.image.width, plan.image.channels), np.uint8), controls
    )
    state.values |= {name: torch.from_numpy(value).double() for name, value in values.items()}
    reference.step(step, state)
    return state


def magnitudes(plan, step, values, controls):
    """The step on absolute values, all cells kept: no intermediate value of the step exceeds it."""
    everything = replace(controls, thresholds=np.full_like(controls.thresholds, -np.inf), forced_masks=None)
    return interpret(plan, each_array(step, np.abs), each_array_of(values, np.abs), everything)


def each_array_of(values, change):
    return {name: change(value) for name, value in values.items()}


def check(engine, number, values, controls):
    """Run a convolution alone, and compare masks, counts, outputs, skipped cells and borders; returns the outputs."""
    plan, step, tolerance = engine.plan, engine.plan.steps[number], TOLERANCES[engine.precision]
    written, out = engine.run_step(number, values, controls)
    assert set(written) == {name for name in (step.raw, step.activated and step.activated.buffer) if name}
    forced = controls if step.gate is None else replace(controls, forced_masks=out.masks)
    expected, size = interpret(plan, step, values, forced), magnitudes(plan, step, values, controls)
    if step.gate is not None:
        check_gate(step.gate, out, controls, expected, size, tolerance)
    check_counts(engine, step, out)
    for name, value in written.items():
        inside = without_border(value, plan.buffer(name))
        wanted, most = expected.values[name].numpy(), size.values[name].numpy() * tolerance["sums"]
        error = np.abs(inside - wanted)
        assert (error <= most + tolerance["stored"] * (np.abs(wanted) + most)).all(), name  # NaN is not
    if step.gate is not None:
        check_skipped(engine, step, values, controls, written, out)
    return {name: without_border(value, plan.buffer(name)) for name, value in written.items()}, out


def check_gate(gate, out, controls, expected, size, tolerance):
    masks, gates = out.masks[gate.layer], expected.gates[gate.layer].numpy()
    assert masks.max(initial=0) <= 1
    if controls.forced_masks is not None:
        assert np.array_equal(masks, controls.forced_masks[gate.layer] != 0)
        return
    distance = gates - controls.thresholds[:, gate.layer, None, None, None]
    wrong = masks.astype(bool) != (distance > 0)
    assert (np.abs(distance[wrong]) <= tolerance["sums"] * size.gates[gate.layer].numpy()[wrong]).all()


def check_counts(engine, step, out):
    """Kept cells are those of the masks; what was executed is at least what had to be."""
    if step.gate is None:
        convolution = step.weight.size * np.prod(without_padding(engine.plan, step))
        assert (out.executed_macs >= convolution).all()
        return
    mask, shape = out.masks[step.gate.layer], engine.shape.layers[step.gate.layer]
    kept = mask.sum((1, 2, 3), dtype=np.int64) * (len(step.weight) // mask.shape[1])
    assert np.array_equal(out.kept[:, step.gate.layer], kept)
    assert (out.executed_macs >= shape.gate_macs + kept * shape.convolution.cell_macs).all()


def without_padding(plan, step):
    one = plan.buffer(step.raw or step.activated.buffer)
    return one.height, one.width


def without_border(value, buffer):
    """The inside of what a step wrote; the border around it is exactly 0."""
    pad = (value.shape[2] - buffer.height) // 2
    assert value.shape[1:] == (buffer.channels, buffer.height + 2 * pad, buffer.width + 2 * pad)
    inside = np.s_[:, :, pad : pad + buffer.height, pad : pad + buffer.width]
    border = value.copy()
    border[inside] = 0
    assert not border.any()
    return value[inside]


def check_skipped(engine, step, values, controls, written, out):
    """Skipped cells hold exactly the residual, or what nothing becomes."""
    stored = rounded if engine.precision == "bf16" else np.asarray
    mask = out.masks[step.gate.layer]
    skipped = mask.repeat(len(step.weight) // mask.shape[1], 1) == 0
    residual = np.zeros(skipped.shape, np.float32)
    if step.residual is not None:
        source = values[step.residual.buffer][:, :, :: step.residual.stride, :: step.residual.stride]
        residual[:, : source.shape[1]] = source
    if step.raw is not None:
        raw = without_border(written[step.raw], engine.plan.buffer(step.raw))
        assert np.array_equal(raw[skipped], residual[skipped])
    if step.activated is None:
        return
    fill = step.fill("activated")
    if fill is not None:
        rows = fill[controls.norm_set if len(fill) > 1 else np.zeros_like(controls.norm_set)]
        wanted = np.broadcast_to(stored(rows)[:, :, None, None], skipped.shape)
    elif step.activated.affine is None:
        wanted = np.maximum(residual, 0)
    else:
        return  # the residual through an affine, which instruction sets round differently
    activated = without_border(written[step.activated.buffer], engine.plan.buffer(step.activated.buffer))
    assert np.array_equal(activated[skipped], wanted[skipped])


# convolutions


def run(case, arithmetic, make_cpu):
    plan, it = plan_of(case)
    values = values_for(plan, it, len(case.thresholds), case.seed, case.positive and "r" in reads(it))
    number = plan.steps.index(it)
    plan, values = seen_by(arithmetic[1], plan, values)
    engine = make_cpu(plan, arithmetic, case.threads, case.cache_bytes)
    controls = controls_for(case)
    first, out = check(engine, number, values, controls)
    if case.gate is None:
        return
    again, same = check(engine, number, values, replace(controls, forced_masks=out.masks))
    assert all(np.array_equal(value, again[name]) for name, value in first.items())
    assert np.array_equal(same.kept, out.kept)
    random = np.random.default_rng(case.seed)
    check(
        engine, number, values, replace(controls, forced_masks=(random.integers(0, 2, out.masks[0].shape, np.uint8),))
    )


@pytest.mark.parametrize("gate", GATES)
def test_convolutions_with_each_gate(gate, arithmetic, make_cpu):
    @settings(max_examples=14)
    @given(case=cases(gate=gate))
    def every(case):
        run(case, arithmetic, make_cpu)

    every()


@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("residual", RESIDUALS)
def test_convolutions_with_each_residual_and_output(residual, outputs, arithmetic, make_cpu):
    @settings(max_examples=6)
    @given(case=cases(residual=residual, outputs=outputs))
    def every(case):
        run(case, arithmetic, make_cpu)

    every()


@pytest.mark.parametrize(
    "architecture", [Architecture("resnet20"), Architecture("resnet20", "pre", "grouped:4:1x1")], ids=str
)
def test_every_convolution_of_a_network(
    architecture, arithmetic, make_cpu, gated_network, make_reference, pictures, rows
):
    """Each on what the reference's steps before it wrote."""
    pixels, thresholds = pictures(3, 12), np.repeat(np.float32([[-np.inf], [0.0], [0.2]]), 18, 1)
    reference = make_reference(gated_network(architecture, pixels, thresholds).float(), size=12)
    controls = rows(thresholds, want_masks=True)
    before = {name: value.float().numpy() for name, value in reference.trace(pixels, controls)[1].values.items()}
    plan, before = seen_by(arithmetic[1], reference.plan, before)
    engine = make_cpu(plan, arithmetic, threads=2)
    for number, step in enumerate(plan.steps):
        if isinstance(step, steps.Convolve):
            check(engine, number, {name: before[name] for name in reads(step)}, controls)


# what gates decide


def constant_gate(case, value, arithmetic, make_cpu):
    """The case with a gate that is ``value`` everywhere; returns what runs it and how many cells it rules."""
    plan, it = plan_of(case)
    number = plan.steps.index(it)
    maps = len(it.gate.weight)
    same = replace(it, gate=replace(it.gate, affine=steps.Affine(np.zeros((1, maps)), np.full((1, maps), value))))
    plan = replace(plan, steps=(*plan.steps[:number], same, *plan.steps[number + 1 :]))
    engine, values = make_cpu(plan, arithmetic, case.threads), values_for(plan, it, 1, 0)

    def kept(threshold):
        controls = Controls.uniform(1, [threshold])
        return int(engine.run_step(number, values, controls)[1].kept[0, 0])

    return kept, int(engine.shape.cells[0])


PLAIN = Case(
    height=7, width=6, channels=5, out=48, kernel=3, stride=1, gate=None, gate_apart=True, affine=True, relu=False,
    outputs="both", residual="none", positive=False, reused=False, border=1, sets=1, thresholds=(0.0, 0.0), threads=1,
    cache_bytes=LARGE, seed=0,
)  # fmt: skip
KINDS = {
    "shared": (3, 1),
    "pointwise": (1, 48),
    "of 3 channels": (1, 16),
    "of 24 channels": (3, 2),
    "of 16 channels": (3, 3),
}


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
    controls = replace(Controls.uniform(2, [0.0]), forced_masks=(mask,))
    unread = ~receptive_field(mask.any(1), case)
    assert unread.any((1, 2)).all()
    poisoned = np.where(unread[:, None], np.nan, values["x"]).astype(np.float32)
    clean, expected = engine.run_step(number, values, controls)
    written, out = engine.run_step(number, values | {"x": poisoned}, controls)
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
def test_an_image_of_nothing_but_nan_harms_no_other(cache_bytes, gate, arithmetic, make_cpu):
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


# the other steps


def small_plan(channels, height, width, *between, buffers=(), classes=2, weight=None, bias=None, last="image"):
    """Normalise, ``between``, an average pool of ``last`` and a classifier."""
    wide = next((one.channels for one in buffers if one.name == last), channels)
    return steps.Plan(
        buffers=(steps.Buffer("image", channels, height, width), *buffers, steps.Buffer("features", wide, 1, 1)),
        steps=(
            steps.Normalise(np.linspace(0.4, 0.6, channels), np.linspace(0.2, 0.3, channels), "image"),
            *between,
            steps.GlobalAveragePool(last, "features"),
            steps.Classify(
                "features",
                np.zeros((classes, wide), np.float32) if weight is None else weight,
                np.zeros(classes, np.float32) if bias is None else bias,
            ),
        ),
        layers=(),
        classes=classes,
    )


def test_pixels_are_normalised(arithmetic, make_cpu):
    plan = small_plan(3, 1, 1, classes=3, weight=np.eye(3, dtype=np.float32))
    pixels = np.stack([np.random.default_rng(seed).permutation(256) for seed in range(3)], 1).astype(np.uint8)
    images = pixels[:, None, None, :]
    out = make_cpu(plan, arithmetic, threads=2).run(images, Controls.uniform(256, []))
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
    out = make_cpu(plan, arithmetic, threads).run(values[:, None, None, :], Controls.uniform(images, []))
    size = np.abs(values) @ np.abs(weight.T) + np.abs(bias)
    expected = values.astype(np.float64) @ weight.T.astype(np.float64) + bias
    assert (np.abs(out.logits - expected) <= TOLERANCES[arithmetic[1]]["sums"] * size).all()
    assert (out.executed_macs >= weight.size).all()


SIDES = st.sampled_from((1, 2, 3, 5, 7, 13))
CHANNELS = st.sampled_from((1, 3, 5, 8, 16, 17, 48))


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
    controls = Controls.uniform(images, [])
    written, _ = make_cpu(plan, arithmetic, threads, cache_bytes).run_step(1, {"image": values}, controls)
    expected = interpret(plan, between[0], {"image": values}, controls).values["pooled"].numpy()
    assert np.array_equal(without_border(written["pooled"], buffers[0]), expected)


@settings(max_examples=20)
@given(
    height=SIDES, width=SIDES, channels=CHANNELS, images=st.sampled_from((1, 2, 9)), threads=st.sampled_from((1, 2, 3))
)  # fmt: skip
def test_average_pools(height, width, channels, images, threads, arithmetic, make_cpu):
    plan = small_plan(channels, height, width)
    values = {
        "image": rounded(np.random.default_rng(0).normal(0, 1, (images, channels, height, width)).astype(np.float32))
    }
    controls = Controls.uniform(images, [])
    written, _ = make_cpu(plan, arithmetic, threads).run_step(1, values, controls)
    expected = interpret(plan, plan.steps[1], values, controls).values["features"].numpy()
    size = interpret(plan, plan.steps[1], each_array_of(values, np.abs), controls).values["features"].numpy()
    assert (np.abs(written["features"] - expected) <= TOLERANCES[arithmetic[1]]["sums"] * size).all()
