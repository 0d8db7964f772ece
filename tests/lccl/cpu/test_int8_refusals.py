"""What is no plan in int8, or could exceed its arithmetic, is refused with a sentence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lccl.engines.cpu.engine import CpuEngine
from lccl.errors import EngineError
from lccl.plan.steps import Activated, Affine, AveragePool, Buffer, Convolve, MaxPool, Quantum, Residual
from tests.lccl.cpu.native_programs import (
    FEATURES,
    NORMALISE,
    OUT,
    REFUSED,
    classifier,
    convolution,
    executor,
    memory_of,
    ones,
    plan_of,
    small,
)
from tests.lccl.quantised import quantised

MOST = 2**31 - 1


def with_on(plan):
    return replace(plan, buffers=(*plan.buffers, Buffer("on", 8, 5, 4)))


PLAN = quantised(with_on(small(convolution(activated=Activated("on", ones(8))))), 2.0)
IT = PLAN.steps[1]


def changed(number, **fields):
    """The plan with one step changed."""
    steps = list(PLAN.steps)
    steps[number] = replace(steps[number], **fields)
    return replace(PLAN, steps=tuple(steps))


def with_buffer(name, **fields):
    buffers = (replace(one, **fields) if one.name == name else one for one in PLAN.buffers)
    return replace(PLAN, buffers=tuple(buffers))


def build(plan, memory=None):
    return executor(plan, memory, precision="int8")


def refused(match, plan, memory=None):
    with pytest.raises(REFUSED, match=match):
        build(plan, memory)


def scaled(affine, factor=1.0, shift=0.0):
    return Affine(affine.scale * np.float32(factor), affine.shift + np.float32(shift))


def test_each_precision_runs_its_kind_of_plan():
    build(PLAN)
    for precision in ("fp32", "bf16"):
        with pytest.raises(EngineError, match=f"in {precision}: a quantised plan runs in int8"):
            CpuEngine(PLAN, precision)
        with pytest.raises(REFUSED, match="quantised plan runs in int8"):
            executor(PLAN, precision=precision)
    with pytest.raises(EngineError, match="in int8: int8 needs a quantised plan"):
        CpuEngine(small(), "int8")
    refused("pixels of 0", small())


@pytest.mark.parametrize("zero", [None, np.zeros(2, np.uint8), np.zeros(3), np.zeros((3, 1), np.uint8)], ids=repr)
def test_the_image_s_zeros_are_a_pixel_per_channel(zero):
    refused("zero|pixels of 0", changed(0, zero=zero))


@pytest.mark.parametrize(
    "fields",
    [
        {"weight": IT.weight.astype(np.float32)}, {"weight": IT.weight.astype(np.int16)}, {"weight": None},
        {"offset": None}, {"offset": IT.offset[:-1]}, {"offset": IT.offset.astype(np.int64)},
        {"offset": IT.offset.astype(np.float32)}, {"affine": None},
        {"gate": replace(IT.gate, offset=None)}, {"gate": replace(IT.gate, offset=IT.gate.offset[:1])},
        {"gate": replace(IT.gate, weight=IT.gate.weight.astype(np.float32))}, {"gate": replace(IT.gate, affine=None)},
    ],
    ids=",".join,
)  # fmt: skip
def test_steps_have_integers_offsets_and_scales(fields):
    refused("weight|offset|scale", changed(1, **fields))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_values_that_could_exceed_float32_are_refused(value):
    with np.errstate(over="ignore"):
        refused("exceed float32", changed(1, affine=scaled(IT.affine, value)))
        refused("exceed float32", changed(1, affine=scaled(IT.affine, 1, value * 2)))
        refused("exceed float32", changed(1, gate=replace(IT.gate, affine=scaled(IT.gate.affine, value))))
        activated = replace(IT.activated, affine=scaled(IT.activated.affine, value))
        refused("exceed float32", changed(1, activated=activated))


def test_values_that_gates_could_make_exceed_float32_are_refused():
    large = scaled(IT.affine, 1e15)
    build(changed(1, affine=large))
    refused("exceed float32", changed(1, affine=large, gate=replace(IT.gate, affine=scaled(IT.gate.affine, 1e20))))


def test_sums_of_32_bits_are_enough_or_refused():
    weight, gate = IT.weight.copy(), IT.gate
    weight[:] = 127
    room = MOST - 255 * 127 * 27
    for sign in (-1, 1):
        build(changed(1, weight=weight, offset=np.full(8, sign * room, np.int32)))
        refused("exceed 32 bits", changed(1, weight=weight, offset=np.full(8, sign * (room + 1), np.int32)))
    refused("exceed 32 bits", changed(1, gate=replace(gate, offset=np.array([0, -(2**31)], np.int32))))


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf, -np.inf, 1e38, 1e308, None, "1"])
def test_scales_of_buffers_are_finite_and_positive(scale):
    refused("scale", with_buffer("out", quantum=Quantum(scale, 0)))


@pytest.mark.parametrize("zero", [1, 127, 255, -1, 256, None, 0.5])
def test_zeros_of_buffers_are_0_or_128(zero):
    refused("zero", with_buffer("out", quantum=Quantum(1.0, zero)))


def test_quanta_are_where_they_belong():
    build(with_buffer("image", quantum=Quantum(1.0, 0)))
    refused("a quantum for every map", with_buffer("out", quantum=None))
    refused("a quantum for every map", with_buffer("features", quantum=Quantum(1.0, 0)))
    refused("activated buffer's zero", with_buffer("on", quantum=Quantum(1.0, 128)))


def test_only_windows_read_the_image():
    read = Buffer("read", 3, 5, 4, Quantum(1.0, 0))
    with_image = replace(PLAN, buffers=(*PLAN.buffers, read))
    refused("read the image", replace(with_image, steps=(*PLAN.steps[:2], MaxPool("image", 1, 1, "read"))))
    refused("read the image", changed(1, residual=Residual("image")))
    parts = replace(PLAN, buffers=(*PLAN.buffers, Buffer("parts", 3, 2, 2)))
    refused("read the image", replace(parts, steps=(*PLAN.steps[:2], AveragePool("image", "parts", 2))))


@pytest.mark.parametrize("quantum", [Quantum(0.5, 0), Quantum(2 / 255, 128)])
def test_pools_and_storages_keep_their_quantum(quantum):
    steps = (
        convolution(gate=None), MaxPool("out", 3, 1, "pooled"), AveragePool("pooled", "features"), classifier(),
    )  # fmt: skip
    plan = quantised(plan_of(*steps, buffers=(OUT, Buffer("pooled", 8, 5, 4), FEATURES), layers=()), 2.0)
    build(plan)
    buffers = tuple(replace(one, quantum=quantum) if one.name == "pooled" else one for one in plan.buffers)
    refused("max-pool keeps", replace(plan, buffers=buffers))


def chain(ratio=1.0, quantum=None):
    steps = (
        Convolve("a", "image", np.ones((8, 3, 3, 3), np.float32), 1, raw="a"),
        Convolve("b", "a", np.ones((8, 8, 3, 3), np.float32), 1, raw="b"),
        Convolve("c", "b", np.ones((8, 8, 3, 3), np.float32), 1, residual=Residual("a"), raw="c"),
        AveragePool("c", "features"),
        classifier(),
    )
    plan = quantised(plan_of(*steps, buffers=(*(Buffer(one, 8, 5, 4) for one in "abc"), FEATURES), layers=()), 2.0)
    last = replace(plan.steps[3], residual=Residual("a", 1, ratio))
    buffers = tuple(replace(one, quantum=quantum or one.quantum) if one.name == "c" else one for one in plan.buffers)
    return replace(plan, steps=(*plan.steps[:3], last, *plan.steps[4:]), buffers=buffers)


def test_what_is_added_in_place_has_the_unit_of_its_sum():
    for plan, match in ((chain(), None), (chain(0.5), "units"), (chain(1.0, Quantum(0.5, 128)), "same quantum")):
        memory = memory_of(plan, (3,), c={"storage": "a"})
        refused(match, plan, memory) if match else build(plan, memory)
    build(chain(0.5))
    CpuEngine(chain(0.5, Quantum(0.5, 128)), "int8")  # not in place then
    for ratio in (np.nan, np.inf):
        refused("exceed float32", chain(ratio))


def test_sums_of_average_pools_are_bounded():
    plan = small(convolution(gate=None, weight=np.ones((8, 3, 1, 1), np.float32)))
    large = quantised(replace(plan, layers=(), buffers=tuple(one if one is FEATURES else replace(one, height=3000, width=3000) for one in plan.buffers)), 2.0)  # fmt: skip  # noqa: E501
    refused("average pool", large)


def test_normalise_needs_no_table():
    assert PLAN.steps[0].zero.tolist() == [255] * 3
    assert NORMALISE.zero is None
