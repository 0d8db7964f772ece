"""Convolutions of all kinds, drawn by Hypothesis, and plans to try them in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from lccl.plan import steps
from lccl.plan.run import RunOptions, Setting

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
        thresholds=tuple(draw(st.lists(thresholds, min_size=images, max_size=images))),
        threads=draw(st.sampled_from((1, 2, 3))),
        cache_bytes=draw(st.sampled_from((0, LARGE))),
        seed=draw(st.integers(0, 999)),
    )


def affine(random, channels):
    scale = random.uniform(0.5, 1.5, channels) * random.choice([-1, 1], channels)
    return steps.Affine(scale.astype(np.float32), random.normal(0.2, 0.5, channels).astype(np.float32))


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
        gate = steps.Gate("it", 0, source, weights(random, maps, channels, kernel, kernel), affine(random, maps))
    raw = activated = None
    if case.outputs in ("raw", "both"):
        raw = buffer("raw", case.out, height, width)
    if case.outputs != "raw":
        norm = None if case.outputs == "activated" else affine(random, case.out)
        activated = steps.Activated(buffer("activated", case.out, height, width), norm)
    it = steps.Convolve(
        name="it",
        input="x",
        weight=weights(random, case.out, case.channels, case.kernel, case.kernel),
        stride=case.stride,
        affine=affine(random, case.out) if case.affine else None,
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
            steps.AveragePool(raw or "activated", "features"),
            steps.Classify("features", np.zeros((2, case.out), np.float32), np.zeros(2, np.float32)),
        ),
        layers=("it",) if gate is not None else (),
        classes=2,
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
    """The names of the buffers that a step reads, sorted."""
    return sorted({read.buffer for read in step.reads})


def controls_for(case):
    """A threshold per image where the convolution has a gate, and masks wanted."""
    return RunOptions.of([Setting((one,) if case.gate else ()) for one in case.thresholds], want_masks=True)
