"""One step of an engine beside the reference in float64: values, masks, counts, skipped cells and borders."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from functools import partial

import numpy as np
import torch

from lccl.engines.reference import ReferenceEngine
from lccl.plan import steps

# What an output may be off by: `sums` of its magnitude (the same step on absolute values, which no intermediate
# value exceeds), for float32 sums of up to 3,136 terms in any order, and `stored` of itself, for being rounded.
# bfloat16 has 8 significant bits: rounding to nearest errs by 2⁻⁸ at most, and binary16, which has 11, by 2⁻¹¹.
# Products of two of them are exact. Below 2⁻¹⁴ the values of binary16 lie 2⁻²⁴ apart: rounding errs by `tiny`.
TOLERANCES = {
    "fp32": {"sums": 3e-6, "stored": 2**-23},
    "bf16": {"sums": 3e-6, "stored": 2**-8},
    "fp16": {"sums": 3e-6, "stored": 2**-11, "tiny": 2**-25},
}
STORED = {"bf16": torch.bfloat16, "fp16": torch.float16}


def each_array(part, change):
    """Plan data with every array changed."""
    if isinstance(part, np.ndarray):
        return change(part)
    if isinstance(part, tuple):
        return tuple(each_array(one, change) for one in part)
    if is_dataclass(part):
        return replace(part, **{one.name: each_array(getattr(part, one.name), change) for one in fields(part)})
    return part


def rounded(array, precision="bf16"):
    """To the nearest value of a precision."""
    return torch.from_numpy(array).to(STORED[precision]).float().numpy()


def seen_by(precision, plan, values):
    """The plan and values with weights and maps as an engine of that precision stores them."""
    if precision == "fp32":
        return plan, values
    return (
        replace(plan, steps=tuple(_rounded_weights(step, precision) for step in plan.steps)),
        {name: rounded(value, precision) for name, value in values.items()},
    )


def _rounded_weights(step, precision):
    if not isinstance(step, steps.Convolve):
        return step
    gate = step.gate and replace(step.gate, weight=rounded(step.gate.weight, precision))
    return replace(step, weight=rounded(step.weight, precision), gate=gate)


def interpret(plan, step, values, options):
    """What the reference makes of one step, in float64."""
    reference = ReferenceEngine(plan, torch.device("cpu"), "fp64")
    state = reference.begin(
        np.zeros((len(options), plan.image.height, plan.image.width, plan.image.channels), np.uint8), options
    )
    state.values |= {name: torch.from_numpy(value).double() for name, value in values.items()}
    reference.step(step, state)
    return state


def magnitudes(plan, step, values, options):
    """The step on absolute values, all cells kept: no intermediate value of the step exceeds it."""
    everything = replace(options, thresholds=np.full_like(options.thresholds, -np.inf), forced_masks=None)
    return interpret(plan, each_array(step, np.abs), each_array_of(values, np.abs), everything)


def each_array_of(values, change):
    return {name: change(value) for name, value in values.items()}


def check(engine, number, values, options):
    """Run a convolution alone, and compare masks, counts, outputs, skipped cells and borders; returns the outputs."""
    plan, step, tolerance = engine.plan, engine.plan.steps[number], TOLERANCES[engine.precision]
    written, out = engine.run_step(number, values, options)
    assert set(written) == {name for name in (step.raw, step.activated and step.activated.buffer) if name}
    forced = options if step.gate is None else replace(options, forced_masks=out.masks)
    expected, size = interpret(plan, step, values, forced), magnitudes(plan, step, values, options)
    if step.gate is not None:
        check_gate(step.gate, out, options, expected, size, tolerance)
    check_counts(engine, step, out)
    for name, value in written.items():
        inside = without_border(value, plan.buffer(name))
        wanted, most = expected.values[name].numpy(), size.values[name].numpy() * tolerance["sums"]
        error = np.abs(inside - wanted)
        rounding = np.maximum(tolerance["stored"] * (np.abs(wanted) + most), tolerance.get("tiny", 0))
        assert (error <= most + rounding).all(), name  # NaN is not
    if step.gate is not None:
        check_skipped(engine, step, values, written, out)
    return {name: without_border(value, plan.buffer(name)) for name, value in written.items()}, out


def check_gate(gate, out, options, expected, size, tolerance):
    masks, gates = out.masks[gate.layer], expected.gates[gate.layer].numpy()
    assert masks.max(initial=0) <= 1
    if options.forced_masks is not None:
        assert np.array_equal(masks, options.forced_masks[gate.layer] != 0)
        return
    distance = gates - options.thresholds[:, gate.layer, None, None, None]
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


def check_skipped(engine, step, values, written, out):
    """Skipped cells hold exactly the residual, or the step's fill."""
    stored = partial(rounded, precision=engine.precision) if engine.precision in STORED else np.asarray
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
        wanted = np.broadcast_to(stored(fill)[:, None, None], skipped.shape)
    elif step.activated.affine is None:
        wanted = np.maximum(residual, 0)
    else:
        return  # the residual through an affine, which instruction sets round differently
    activated = without_border(written[step.activated.buffer], engine.plan.buffer(step.activated.buffer))
    assert np.array_equal(activated[skipped], wanted[skipped])
