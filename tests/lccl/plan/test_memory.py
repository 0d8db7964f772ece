"""Lifetimes, aliases, borders, in-place residuals and bands of a plan, decided for all engines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lccl.networks import Architecture, build
from lccl.networks.lowering import lower
from lccl.plan.memory import assign_memory
from lccl.plan.steps import (
    Activated,
    Affine,
    AveragePool,
    Buffer,
    Classify,
    Convolve,
    Exit,
    Gate,
    MaxPool,
    Normalise,
    Plan,
    Residual,
)
from lccl.preprocessing import Preprocessing

NORM = Affine(np.ones(8, np.float32), np.zeros(8, np.float32))


def zeros(*shape):
    return np.zeros(shape, np.float32)


def convolve(source, raw=None, kernel=3, channels=8, **changed):
    return Convolve(
        raw or "", source, zeros(8, channels, kernel, kernel), 1, None, **{"relu": False, "raw": raw} | changed
    )


def gate(source, kernel=3):
    return Gate("", 0, source, zeros(1, 8, kernel, kernel), Affine(zeros(1), zeros(1)))


def memory_of(*between, last, size=(6, 5)):
    """Of a plan whose steps are a normalisation of 8 channels, these, a pool of ``last`` and a classifier."""
    names = {name for step in between for name in step.writes}
    buffers = [Buffer(name, 8, *size) for name in ("image", *sorted(names))]
    steps = (
        Normalise(zeros(8), zeros(8), "image"),
        *between,
        AveragePool(last, "features"),
        Classify("features", zeros(2, 8), zeros(2)),
    )
    return assign_memory(Plan((*buffers, Buffer("features", 8, 1, 1)), steps, (), 2))


# lifetimes


def test_a_buffer_lives_from_its_writer_to_its_last_reader():
    memory = memory_of(
        convolve("image", "a"), convolve("a", "b"), convolve("b", "c", residual=Residual("a", stride=2)), last="c"
    )
    lifetimes = {name: (buffer.first, buffer.last) for name, buffer in memory.buffers.items()}
    assert lifetimes == {"image": (0, 1), "a": (1, 3), "b": (2, 3), "c": (3, 4), "features": (4, 5)}
    assert [number for number, _ in memory.buffers["a"].readers] == [2, 3]


def test_a_buffer_that_nothing_reads_lives_for_its_step():
    unread = memory_of(convolve("image", "a", activated=Activated("b")), last="a").buffers["b"]
    assert (unread.first, unread.last, unread.readers) == (1, 1, ())


def test_exits_and_classifiers_read_pooled_features():
    plan = Plan(
        (Buffer("image", 8, 6, 5), Buffer("parts", 8, 2, 2), Buffer("features", 8, 1, 1)),
        (
            Normalise(zeros(8), zeros(8), "image"),
            AveragePool("image", "parts", 2),
            Exit(0, "parts", zeros(3, 8, 2, 2), zeros(3), zeros(2, 3), zeros(2)),
            AveragePool("image", "features"),
            Classify("features", zeros(2, 8), zeros(2)),
        ),
        (),
        2,
        exits=1,
    )
    memory = assign_memory(plan)
    assert {name for name, buffer in memory.buffers.items() if buffer.pooled} == {"parts", "features"}
    assert (memory.buffers["parts"].last, memory.buffers["image"].last) == (2, 3)


def test_a_read_before_its_write_is_refused():
    with pytest.raises(ValueError, match="step 1 reads 'b', which no step before it writes"):
        memory_of(convolve("b", "a"), convolve("a", "b"), last="b")
    with pytest.raises(ValueError, match="step 2 reads 'b', which no step before it writes"):
        memory_of(convolve("image", "a"), last="b")


def test_a_write_to_no_buffer_is_refused():
    steps = Normalise(zeros(8), zeros(8), "image"), convolve("image", "a")
    with pytest.raises(ValueError, match="step 1 writes 'a', which is no buffer of the plan"):
        assign_memory(Plan((Buffer("image", 8, 6, 5),), steps, (), 2))


# borders


def test_a_border_is_as_wide_as_the_widest_window_needs():
    memory = memory_of(
        convolve("image", "a", kernel=7),
        convolve("a", "b", kernel=1, gate=gate("image", 3)),
        convolve("b", "c", kernel=1, gate=gate("a", 5)),
        MaxPool("c", 3, 1, "d"),
        last="d",
    )
    borders = {name: buffer.border for name, buffer in memory.buffers.items()}
    assert borders == {"image": 3, "a": 2, "b": 0, "c": 0, "d": 0, "features": 0}


def test_buffers_of_one_storage_have_the_widest_border_and_the_longest_lifetime():
    memory = memory_of(
        convolve("image", "a"), convolve("a", "b", kernel=5), convolve("b", "c", residual=Residual("a")),
        convolve("c", "d", kernel=7), last="d",
    )  # fmt: skip
    assert memory.buffers["c"].storage == "a"
    for name in ("a", "c"):
        buffer = memory.buffers[name]
        assert (buffer.border, buffer.first, buffer.last) == (3, 1, 4)
    assert (memory.buffers["b"].border, memory.buffers["b"].last) == (1, 3)


# in-place residuals


def block(**changed):
    """A block with an identity shortcut: ``a``, a convolution of it, and one more that ``a`` is added to."""
    return (
        convolve("image", "a"),
        convolve("a", "b"),
        convolve("b", **{"raw": "c", "residual": Residual("a")} | changed),
    )


def test_an_output_takes_its_residuals_storage():
    memory = memory_of(*block(), last="c")
    assert memory.in_place == {3}
    assert {name: buffer.storage for name, buffer in memory.buffers.items()} == {
        "image": "image", "a": "a", "b": "b", "c": "a", "features": "features",
    }  # fmt: skip


def test_a_chain_of_blocks_keeps_one_storage():
    more = convolve("c", "d"), convolve("d", "e", residual=Residual("c"))
    memory = memory_of(*block(), *more, last="e")
    assert memory.in_place == {3, 5}
    assert {memory.buffers[name].storage for name in "ace"} == {"a"}
    assert (memory.buffers["a"].first, memory.buffers["a"].last) == (1, 6)


def test_raw_takes_the_storage_where_there_are_two_outputs():
    memory = memory_of(*block(activated=Activated("d", NORM)), last="d")
    assert memory.in_place == {3}
    assert (memory.buffers["c"].storage, memory.buffers["d"].storage) == ("a", "d")


@pytest.mark.parametrize(
    ("steps", "last"),
    [
        (block(residual=None), "c"),
        (block(residual=Residual("b")), "c"),
        (block(gate=gate("a")), "c"),
        (block(gate=gate("a", 1)), "c"),
        ((*block(), convolve("a", "d")), "c"),
        ((*block(), MaxPool("a", 3, 1, "d")), "c"),
        ((*block(), convolve("c", "d", residual=Residual("a"))), "d"),
    ],
    ids=["no residual", "its input", "its gate's input", "its 1x1 gate's input", "read", "pooled", "added later"],
)  # fmt: skip
def test_what_is_still_read_is_not_taken(steps, last):
    memory = memory_of(*steps, last=last)
    assert 3 not in memory.in_place
    assert memory.buffers["c"].storage == "c"


def test_what_is_added_twice_is_taken_the_second_time():
    memory = memory_of(*block(), convolve("c", "d", residual=Residual("a")), last="d")
    assert memory.in_place == {4}
    assert memory.buffers["d"].storage == "a"


def test_a_gate_that_reads_raw_leaves_it_until_it_is_done():
    """Pre-activation with gates of the raw stream: the first convolution's gate reads ``a``, the second one adds it."""
    first = convolve("image", "a", activated=Activated("x", NORM))
    second = convolve("x", activated=Activated("b", NORM), gate=gate("a"))
    memory = memory_of(first, second, convolve("b", "c", residual=Residual("a"), gate=gate("b")), last="c")
    assert memory.in_place == {3}
    assert memory.buffers["a"].border == 1


@pytest.mark.parametrize("changed", [{"height": 7}, {"width": 4}, {"channels": 4}])
def test_a_residual_of_another_shape_is_not_taken(changed):
    buffers = {name: Buffer(name, 8, 6, 5) for name in ("image", "a", "b", "c")}
    buffers["a"] = replace(buffers["a"], **changed)
    plan = Plan(tuple(buffers.values()), (Normalise(zeros(8), zeros(8), "image"), *block()), (), 2)
    assert assign_memory(plan).in_place == set()


def test_a_residual_with_a_stride_is_not_taken():
    assert memory_of(*block(residual=Residual("a", 2)), last="c").in_place == set()


@pytest.mark.parametrize(
    ("first", "activated", "fits"),
    [
        ({"raw": None, "activated": Activated("a")}, Activated("c"), True),
        ({"raw": None, "activated": Activated("a", NORM)}, Activated("c"), True),
        ({"raw": "a", "relu": True}, Activated("c"), True),
        ({"raw": "a"}, Activated("c"), False),
        ({"raw": None, "activated": Activated("a")}, Activated("c", NORM), False),
    ],
    ids=["after a ReLU", "after a normalised ReLU", "of a ReLU", "may be negative", "normalised"],
)
def test_an_activated_output_takes_what_its_skipped_cells_hold(first, activated, fits):
    """ReLU(residual) is the residual where that is never negative; through a normalisation it is something else."""
    steps = (
        replace(convolve("image"), **first),
        convolve("a", "b"),
        convolve("b", activated=activated, residual=Residual("a")),
    )
    memory = memory_of(*steps, last="c")
    assert memory.in_place == ({3} if fits else set())


# values below zero


@pytest.mark.parametrize(
    ("steps", "non_negative"),
    [
        ([], {"image": False}),
        ([convolve("image", "a")], {"a": False}),
        ([convolve("image", "a", relu=True)], {"a": True}),
        ([convolve("image", "a", activated=Activated("b", NORM))], {"a": False, "b": True}),
        ([convolve("image", "a", relu=True, residual=Residual("image"))], {"a": False}),
        ([convolve("image", "a", relu=True), convolve("a", "b", relu=True, residual=Residual("a"))], {"b": True}),
        ([convolve("image", "a", relu=True), convolve("a", "b", residual=Residual("a"))], {"b": False}),
        ([convolve("image", "a"), MaxPool("a", 3, 1, "b")], {"b": False}),
        ([convolve("image", "a", relu=True), MaxPool("a", 3, 1, "b")], {"b": True}),
    ],
)
def test_values_that_cannot_be_negative(steps, non_negative):
    memory = memory_of(*steps, last=steps[-1].writes[0] if steps else "image")
    assert {name: memory.buffers[name].non_negative for name in non_negative} == non_negative


# bands


def test_a_convolution_that_only_feeds_a_pool_is_pooled_alone():
    memory = memory_of(convolve("image", "a"), MaxPool("a", 3, 1, "b"), last="b")
    assert memory.pooled_alone == {1}


def test_its_input_is_read_until_the_pool_is_done():
    """Both run in bands: the pool writes while the convolution still reads."""
    memory = memory_of(convolve("image", "a"), MaxPool("a", 3, 1, "b"), last="b")
    assert memory.buffers["image"].last == 2
    assert memory_of(convolve("image", "a"), convolve("a", "b"), last="b").buffers["image"].last == 1


@pytest.mark.parametrize(
    "steps",
    [
        (convolve("image", "a"), convolve("image", "c"), MaxPool("a", 3, 1, "b")),
        (convolve("image", "a"), MaxPool("a", 3, 1, "b"), convolve("a", "c")),
        (convolve("image", "a", gate=gate("image")), MaxPool("a", 3, 1, "b")),
        (convolve("image", "a", residual=Residual("image")), MaxPool("a", 3, 1, "b")),
        (convolve("image", "a", activated=Activated("c")), MaxPool("a", 3, 1, "b")),
        (convolve("image", activated=Activated("a")), MaxPool("a", 3, 1, "b")),
        (convolve("image", "c"), convolve("c", "a"), MaxPool("c", 3, 1, "b")),
    ],
    ids=["not next", "read later", "gated", "with a residual", "with two outputs", "activated", "another buffer"],
)
def test_other_convolutions_are_not_pooled_alone(steps):
    assert memory_of(*steps, last="b").pooled_alone == set()


# networks


@pytest.mark.parametrize(
    ("architecture", "in_place"),
    [
        (Architecture("resnet20"), 7),
        (Architecture("resnet20", "pre"), 6),  # the last block's output is only normalised
        (Architecture("resnet20").plain_twin, 7),
        (Architecture("wrn-16-4"), 3),
        (Architecture("resnet18"), 5),
        (Architecture("resnet50"), 12),
    ],
    ids=str,
)
def test_every_identity_shortcut_of_a_network_costs_no_memory(architecture, in_place):
    plan = lower(build(architecture), Preprocessing(64, 64, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)))
    memory = assign_memory(plan)
    assert len(memory.in_place) == in_place
    for number in memory.in_place:
        step = plan.steps[number]
        assert memory.buffers[step.writes[0]].storage == memory.buffers[step.residual.buffer].storage
    assert len(memory.pooled_alone) == (architecture.name in ("resnet18", "resnet50"))
    assert set(memory.buffers) == {buffer.name for buffer in plan.buffers}
