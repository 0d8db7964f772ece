"""The native engine refuses what a plan's memory gets wrong, with an exception, before it touches memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lccl.engines.cpu import _native
from lccl.plan.memory import PlanMemory
from lccl.plan.steps import Activated, AveragePool, Buffer, Convolve, MaxPool, Residual
from tests.lccl.cpu.native_programs import (
    FEATURES,
    OUT,
    REFUSED,
    batch,
    classifier,
    convolution,
    executor,
    floats,
    gate,
    memory_of,
    ones,
    plan_of,
    small,
)


def chain(**changed):
    """Three convolutions; the third adds what the first gave to what the second did."""
    buffers = *(Buffer(name, 8, 5, 4) for name in ("a", "b", "c")), FEATURES
    steps = (
        Convolve("a", "image", floats(8, 3, 3, 3), 1, None, False, raw="a"),
        Convolve("b", "a", floats(8, 8, 3, 3), 1, None, False, raw="b"),
        Convolve(**{"name": "c", "input": "b", "weight": floats(8, 8, 3, 3), "stride": 1, "affine": None,
                    "relu": False, "residual": Residual("a"), "raw": "c"} | changed),
        AveragePool("c", "features"),
        classifier(),
    )  # fmt: skip
    return plan_of(*steps, buffers=buffers, layers=())


IN_A = {"c": {"storage": "a"}}


def refused(match, plan, **memory):
    with pytest.raises(ValueError, match=match):
        executor(plan, memory_of(plan, **memory))


@pytest.mark.parametrize("border", [0, 32, 1 << 20])
def test_a_border_is_as_wide_as_windows_need_and_bounded(border):
    wide = small(convolution(weight=floats(8, 3, 5, 5)))
    executor(wide, memory_of(wide, image={"border": 2}))
    refused("border", wide, image={"border": 1})
    refused("border", small(convolution(gate=gate(weight=floats(2, 3, 7, 7)))), image={"border": 2})
    refused("border", small(), image={"border": border})
    refused("border", small(), features={"border": 1})


@pytest.mark.parametrize("value", [None, -1, 1 << 70, "1", 1.5])
@pytest.mark.parametrize("field", ["border", "first", "last"])
def test_memory_of_a_wrong_type_is_refused(field, value):
    plan = small()
    with pytest.raises(REFUSED):
        executor(plan, memory_of(plan, image={field: value}))


@pytest.mark.parametrize("memory", [None, PlanMemory({}, frozenset(), frozenset()), PlanMemory(None, (), ())])
def test_no_memory_is_refused(memory):
    with pytest.raises((*REFUSED, AttributeError)):
        _native.Executor(small(), memory, "portable", "fp32", 1, 1, 0)


def test_a_storage_is_there_and_is_its_own():
    refused("not there", chain(), c={"storage": "nothing"})
    refused("another storage", chain(), in_place=(3,), c={"storage": "b"}, b={"storage": "a"})


def test_buffers_of_one_storage_are_alike():
    plan = chain()
    refused("same shape", plan, c={"storage": "image"})
    refused("same shape", stem(), pooled={"storage": "image"})
    refused("same shape", plan, in_place=(3,), c={"storage": "a", "border": 2})
    refused("same lifetime", plan, in_place=(3,), c={"storage": "a", "first": 1})
    refused("same lifetime", plan, in_place=(3,), c={"storage": "a", "last": 4})
    refused("pooled features", plan, c={"pooled": True})
    refused("pooled features", plan, features={"pooled": False})


@pytest.mark.parametrize(
    ("buffer", "changed"), [("a", {"first": 2}), ("a", {"last": 2}), ("b", {"last": 2}), ("c", {"first": 4})]
)
def test_a_lifetime_holds_all_uses(buffer, changed):
    plan = chain()
    executor(plan, memory_of(plan, a={"first": 1, "last": 3}, b={"first": 2, "last": 3}, c={"first": 3, "last": 4}))
    refused("outside its lifetime", plan, **{buffer: changed})


def test_a_buffer_that_no_step_writes_has_no_memory():
    plan = chain()
    memory = memory_of(plan)
    unused = replace(plan, buffers=(*plan.buffers, Buffer("unused", 1, 1, 1)))
    executor(unused, memory)
    with pytest.raises(ValueError, match="written by no step"):
        executor(
            unused,
            replace(memory, buffers={**memory.buffers, "unused": replace(memory.buffers["a"], storage="unused")}),
        )


def test_one_storage_holds_one_thing_at_a_time():
    plan = chain()
    executor(plan, memory_of(plan, in_place=(3,), **IN_A))
    refused("still read", plan, **IN_A)  # not in place
    refused("still read", plan, b={"storage": "a"})  # read by windows as it is written
    again = replace(plan, steps=(*plan.steps[:4], MaxPool("a", 1, 1, "d"), *plan.steps[4:]),
                    buffers=(*plan.buffers, Buffer("d", 8, 5, 4)))  # fmt: skip
    refused("still read", again, in_place=(3,), **IN_A)  # and later
    both = chain(activated=Activated("d"))
    both = replace(both, buffers=(*both.buffers, Buffer("d", 8, 5, 4)))
    executor(both, memory_of(both, in_place=(3,), **IN_A))
    refused("still read", both, in_place=(3,), **IN_A, d={"storage": "a"})  # two outputs of one step
    refused("still read", both, in_place=(3,), d={"storage": "a"})  # the second output


def test_storages_taken_one_after_the_other_are_no_residuals():
    plan = chain(residual=None)
    executor(plan, memory_of(plan, **IN_A))
    refused("in the storage of its residual", plan, in_place=(3,), **IN_A)


def test_an_in_place_step_adds_to_what_lies_there():
    refused("in the storage of its residual", chain(), in_place=(3,))
    refused("in the storage of its residual", small(), in_place=(1,))
    refused("by windows", chain(residual=Residual("b")), in_place=(3,), c={"storage": "b"})
    gated = replace(chain(gate=gate(input="a", weight=floats(2, 8, 3, 3))), layers=("it",))
    refused("by windows", gated, in_place=(3,), **IN_A)


def test_an_in_place_steps_skipped_cells_hold_its_residual():
    executor(alone := chain(raw=None, activated=Activated("c")), memory_of(alone, in_place=(3,), **IN_A))
    refused("hold its residual", chain(raw=None, activated=Activated("c", ones(8))), in_place=(3,), **IN_A)


def stem(*after, **changed):
    """A convolution and its max-pool."""
    first = convolution(gate=None, **changed)
    pooled = MaxPool("out", 3, 2, "pooled")
    buffers = OUT, Buffer("pooled", 8, 3, 2), FEATURES, *(Buffer(f"more{number}", 8, 5, 4) for number in range(3))
    return plan_of(first, pooled, *after, AveragePool("pooled", "features"), classifier(), buffers=buffers, layers=())


def test_what_is_pooled_alone_only_feeds_the_pool():
    plan = stem()
    executor(plan, memory_of(plan, pooled_alone=(1,)))
    refused("pooled alone", stem(MaxPool("out", 1, 1, "more0")), pooled_alone=(1,))
    refused("pooled alone", stem(activated=Activated("more0")), pooled_alone=(1,))
    refused("pooled alone", small(), pooled_alone=(1,))
    residual = replace(chain(), steps=(*chain().steps[:4], MaxPool("c", 1, 1, "d"), AveragePool("d", "features"),
                                       classifier()), buffers=(*chain().buffers, Buffer("d", 8, 5, 4)))  # fmt: skip
    refused("pooled alone", residual, pooled_alone=(3,))


def test_what_is_pooled_alone_is_read_until_it_is_pooled():
    """Both run together, in bands: the pool's output must not lie where the convolution's input does."""
    plan = stem()
    executor(plan, memory_of(plan, pooled_alone=(1,), image={"last": 2}))
    executor(plan, memory_of(plan, image={"last": 1}))
    refused("outside its lifetime", plan, pooled_alone=(1,), image={"last": 1})


def test_numbers_of_steps_that_are_not_there_are_not_looked_at():
    plan = chain()
    arrays = batch(thresholds=np.zeros((2, 0), np.float32), kept=np.zeros((2, 0), np.int64), masks=None, seconds=None)
    executor(plan, memory_of(plan, in_place=(99,), pooled_alone=(99,))).run(**arrays)
    assert arrays["logits"].any()
