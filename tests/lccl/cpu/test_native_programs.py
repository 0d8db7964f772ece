"""The native program refuses plans that do not fit, with an exception, before it touches memory."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest

from lccl.plan.steps import Activated, AveragePool, Buffer, MaxPool, Residual
from tests.lccl.cpu.native_programs import (
    FEATURES,
    NORMALISE,
    OUT,
    PARTS,
    POOL,
    POOL_PARTS,
    REFUSED,
    batch,
    classifier,
    convolution,
    early_exit,
    executor,
    floats,
    gate,
    memory_of,
    misaligned,
    ones,
    plan_of,
    small,
    with_exit,
)

HUGE = (-1, 1 << 31, 1 << 40)


def described(changed):
    return ",".join(f"{name}={getattr(value, 'shape', value)}"[:60] for name, value in changed.items())


@pytest.mark.parametrize(
    "options",
    [
        {"threads": 0}, {"threads": -1}, {"threads": 1025}, {"threads": 1 << 40}, {"threads": 1.5}, {"streams": 0},
        {"streams": 3}, {"instruction_set": "sse2"}, {"instruction_set": ""}, {"instruction_set": "x" * 10_000},
        {"instruction_set": None}, {"instruction_set": "avx2", "precision": "bf16"},
        {"precision": "yes"}, {"precision": None}, {"cache_bytes": -1},
        {"cache_bytes": 1 << 70},
    ],
    ids=str,
)  # fmt: skip
def test_programs_that_cannot_be_are_refused(options):
    with pytest.raises(REFUSED):
        executor(**options)


@pytest.mark.parametrize(
    "changed",
    [{"layers": ("it",) * (1 << 20)}, {"layers": None}, {"exits": -1}, {"exits": 1 << 20}, {"exits": 1 << 70},
     {"buffers": None}, {"steps": None}, {"steps": ()}, {"steps": (SimpleNamespace(),)}, {"steps": (None, "step")}],
    ids=lambda changed: described(changed)[:40],
)  # fmt: skip
def test_plans_that_cannot_be_are_refused(changed):
    with pytest.raises(REFUSED):
        executor(replace(small(), **changed), memory_of(small()))


@pytest.mark.parametrize(
    "size",
    [*product((0, -1, 1 << 21, 1 << 40), (4,), (4,)), (3, 0, 4), (3, 4, 0), (3, 1 << 13, 1 << 13),
     (1 << 20, 4095, 4095), (1, 1 << 31, 1 << 31), (1, (1 << 32) - 1, (1 << 32) - 1), (4, 2.5, 4), (None, 4, 4)],
    ids=str,
)  # fmt: skip
def test_absurd_buffers_are_refused(size):
    plan = small()
    with pytest.raises(REFUSED):
        executor(replace(plan, buffers=(Buffer("image", *size), *plan.buffers[1:])))


@pytest.mark.parametrize("name", ["out", None, 3])
def test_buffers_have_names_of_their_own(name):
    plan = small()
    with pytest.raises(REFUSED):
        executor(replace(plan, buffers=(*plan.buffers, Buffer(name, 8, 5, 4))), memory_of(plan))


@pytest.mark.parametrize(
    "changed",
    [{"mean": floats(2)}, {"std": floats(4)}, {"std": misaligned(3)}, {"mean": floats(1, 3)}, {"mean": floats(0)},
     {"mean": None}, {"mean": 0.5}, {"raw": ""}, {"raw": None}, {"raw": "features"}, {"raw": "nothing"}],
    ids=described,
)  # fmt: skip
def test_normalisations_that_do_not_fit_are_refused(changed):
    plan = small()
    with pytest.raises(REFUSED):
        executor(replace(plan, steps=(replace(NORMALISE, **changed), *plan.steps[1:])), memory_of(plan))


def residual(buffer, stride=1):
    return {"residual": Residual(buffer, stride)}


@pytest.mark.parametrize(
    "changed",
    [
        {"input": ""}, {"input": "nothing"}, {"input": "out"}, {"input": None}, {"input": 0}, residual("nothing"),
        residual("features"), residual("out", 0), residual("image", 0), residual("image", 2),
        *(residual("image", stride) for stride in HUGE), {"raw": "nothing"}, {"raw": "features"}, {"raw": None},
        {"raw": "image"}, {"activated": Activated("nothing")}, {"activated": Activated("image")},
        {"activated": Activated("out")}, {"activated": Activated(None)}, {"stride": 0}, {"stride": 65}, {"stride": 2},
        {"stride": -1}, {"stride": 1.5}, {"stride": None}, {"relu": None}, {"relu": 1},
        {"weight": floats(8, 3, 2, 2)}, {"weight": floats(8, 3, 65, 65)}, {"weight": floats(8, 3, 3, 1)},
        {"weight": floats(8, 4, 3, 3)}, {"weight": floats(7, 3, 3, 3)}, {"weight": floats(0, 3, 3, 3)},
        {"weight": floats(8, 3, 0, 0)}, {"weight": floats(8, 27)}, {"weight": misaligned(8, 3, 3, 3)},
        {"weight": None}, {"affine": ones(7)}, {"affine": ones(0)}, {"affine": replace(ones(8), shift=floats(7))},
        {"affine": replace(ones(8), scale=None)}, {"affine": replace(ones(8), scale=floats(1, 8))},
        {"affine": replace(ones(8), scale=misaligned(8))}, {"gate": ()}, {"split": ()},
    ],
    ids=described,
)  # fmt: skip
def test_convolutions_that_do_not_fit_are_refused(changed):
    with pytest.raises(REFUSED):
        executor(small(convolution(**changed)), memory_of(small()))


def test_a_second_output_fits_too():
    for norm in (ones(9), replace(ones(8), shift=floats(9))):
        plan = plan_of(
            convolution(activated=Activated("next", norm)), POOL, classifier(),
            buffers=(OUT, replace(OUT, name="next"), FEATURES),
        )  # fmt: skip
        with pytest.raises(REFUSED):
            executor(plan)


@pytest.mark.parametrize(
    "changed",
    [
        {"layer": -1}, {"layer": 1}, {"layer": 1 << 40}, {"layer": None}, {"input": ""}, {"input": "nothing"},
        {"input": "out"}, {"input": "features"}, {"weight": floats(2, 3, 2, 2)}, {"weight": floats(2, 3, 65, 65)},
        {"weight": floats(2, 3, 3, 1)}, {"weight": floats(3, 3, 3, 3)}, {"weight": floats(16, 3, 3, 3)},
        {"weight": floats(2, 4, 3, 3)}, {"weight": floats(0, 3, 3, 3)}, {"weight": misaligned(2, 3, 3, 3)},
        {"affine": ones(3)}, {"affine": ones(0)}, {"affine": None}, {"affine": replace(ones(2), shift=floats(1))},
        {"affine": replace(ones(2), shift=misaligned(2))},
    ],
    ids=described,
)  # fmt: skip
def test_gates_that_do_not_fit_are_refused(changed):
    with pytest.raises(REFUSED):
        executor(small(convolution(gate=gate(**changed))))


def test_arrays_of_other_numbers_are_converted():
    plan = small(convolution(weight=np.ones((8, 3, 3, 3)), gate=gate(weight=floats(2, 3, 3, 3).transpose(0, 1, 3, 2))))
    arrays, expected = batch(), batch()
    executor(plan).run(**arrays)
    executor().run(**expected)
    assert arrays["logits"].any()
    assert np.array_equal(arrays["logits"], expected["logits"])


def test_a_gate_layer_is_used_once():
    steps = convolution(), convolution(raw="again"), POOL, classifier()
    with pytest.raises(ValueError, match="same layer"):
        executor(plan_of(*steps, buffers=(OUT, replace(OUT, name="again"), FEATURES)))


def test_a_buffer_is_written_once():
    with pytest.raises(ValueError, match="writes a buffer"):
        executor(plan_of(convolution(), convolution(gate=None), POOL, classifier(), buffers=(OUT, FEATURES)))


def test_every_layer_has_a_gate():
    for plan in (replace(small(), layers=("it", "other")), small(convolution(gate=None))):
        with pytest.raises(ValueError, match="no gate"):
            executor(plan)


@pytest.mark.parametrize(
    "arguments",
    [("", 3, 1, "out"), ("nothing", 3, 1, "out"), ("image", 2, 1, "out"), ("image", 0, 1, "out"),
     ("image", 65, 1, "out"), ("image", 3, 0, "out"), ("image", 3, 65, "out"), ("image", 3, 2, "out"),
     ("image", 3, 1, "nothing"), ("image", 3, 1, "image"), ("image", 3, 1, "features"), ("image", 3, 1 << 40, "out"),
     ("out", 3, 1, "out"), ("image", 3, 1, None)],
)  # fmt: skip
def test_max_pools_that_do_not_fit_are_refused(arguments):
    plan = plan_of(MaxPool("image", 3, 1, "out"), AveragePool("out", "features"), classifier(weight=floats(4, 3)),
                   buffers=(replace(OUT, channels=3), replace(FEATURES, channels=3)), layers=())  # fmt: skip
    executor(plan)
    with pytest.raises(REFUSED):
        executor(replace(plan, steps=(NORMALISE, MaxPool(*arguments), *plan.steps[2:])), memory_of(plan))


@pytest.mark.parametrize(
    "arguments",
    [("", "features", 1), ("nothing", "features", 1), ("features", "features", 1), ("out", "nothing", 1),
     ("out", "image", 1), ("image", "features", 1), ("out", "features", 0), ("out", "features", 2),
     ("out", "features", -1), ("out", "features", 1 << 40), ("out", "features", 1 << 32)],
)  # fmt: skip
def test_average_pools_that_do_not_fit_are_refused(arguments):
    plan = small()
    with pytest.raises(REFUSED):
        executor(replace(plan, steps=(*plan.steps[:2], AveragePool(*arguments), plan.steps[3])), memory_of(plan))


@pytest.mark.parametrize(("grid", "height", "width"), [(1, 2, 2), (2, 2, 3), (3, 2, 2), (65, 65, 65), (1 << 31, 1, 1)])
def test_an_average_pools_parts_are_its_outputs_positions(grid, height, width):
    plan = with_exit()
    buffers = tuple(replace(one, height=height, width=width) if one is PARTS else one for one in plan.buffers)
    steps = tuple(replace(one, grid=grid) if one is POOL_PARTS else one for one in plan.steps)
    with pytest.raises(REFUSED):
        executor(replace(plan, buffers=buffers, steps=steps))


@pytest.mark.parametrize(
    "changed",
    [
        {"input": ""}, {"input": "nothing"}, {"input": "out"}, {"weight": floats(4, 7)}, {"weight": floats(0, 8)},
        {"weight": floats(4, 8, 1)}, {"weight": misaligned(4, 8)}, {"weight": None}, {"bias": floats(3)},
        {"bias": floats(1, 4)}, {"bias": floats(0)}, {"bias": misaligned(4)}, {"bias": None},
    ],
    ids=described,
)  # fmt: skip
def test_classifiers_that_do_not_fit_are_refused(changed):
    with pytest.raises(REFUSED):
        executor(plan_of(convolution(), POOL, classifier(**changed), buffers=(OUT, FEATURES)))


@pytest.mark.parametrize(
    "changed",
    [
        *({"exit": number} for number in (1, 1 << 32, *HUGE)), {"input": ""}, {"input": "nothing"}, {"input": "image"},
        {"input": "out"}, {"input": "features"}, {"hidden_weight": floats(6, 8, 1, 1)},
        {"hidden_weight": floats(6, 8, 3, 3)}, {"hidden_weight": floats(6, 8, 2, 1)},
        {"hidden_weight": floats(6, 7, 2, 2)}, {"hidden_weight": floats(6, 32)}, {"hidden_weight": floats(5, 8, 2, 2)},
        {"hidden_weight": floats(0, 8, 2, 2)}, {"hidden_weight": None}, {"hidden_weight": misaligned(6, 8, 2, 2)},
        {"hidden_bias": floats(5)}, {"hidden_bias": floats(1, 6)}, {"hidden_bias": misaligned(6)},
        {"weight": floats(4, 5)}, {"weight": floats(0, 6)}, {"weight": floats(4, 6, 1)}, {"weight": floats(3, 6)},
        {"weight": misaligned(4, 6)}, {"bias": floats(3)}, {"bias": misaligned(4)}, {"bias": None},
    ],
    ids=described,
)  # fmt: skip
def test_exits_that_do_not_fit_are_refused(changed):
    with pytest.raises(REFUSED):
        executor(with_exit(early=early_exit(**changed)))


def test_exits_and_classifier_have_the_same_classes():
    early, other = early_exit(), early_exit(exit=1, weight=floats(5, 6), bias=floats(5))
    for steps, exits in (
        ((POOL_PARTS, early, other, POOL, classifier()), 2),
        ((POOL_PARTS, early, POOL, classifier(weight=floats(5, 8), bias=floats(5))), 1),
    ):
        with pytest.raises(ValueError, match="same classes"):
            executor(plan_of(convolution(), *steps, buffers=(OUT, PARTS, FEATURES), exits=exits))


def test_every_exit_has_one_step():
    steps = convolution(), POOL_PARTS, early_exit(), early_exit(), POOL, classifier()
    with pytest.raises(ValueError, match="same number"):
        executor(plan_of(*steps, buffers=(OUT, PARTS, FEATURES), exits=2))
    with pytest.raises(ValueError, match="an exit of the plan has no step"):
        executor(with_exit(exits=2))
    with pytest.raises(ValueError, match="out of range"):
        executor(with_exit(exits=0))


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
@pytest.mark.parametrize(
    ("confidences", "expected"), [((0.2, 0.2), 1), ((0.2, 1.0), 0), ((1.0, 0.2), 1), ((1.0, 1.0), 2)]
)
def test_exits_stand_side_by_side_and_in_any_order(confidences, expected, cache_bytes):
    exits = early_exit(exit=1, bias=np.float32([1, 2, 3, 4])), early_exit(exit=0)
    steps = convolution(), POOL_PARTS, POOL, *exits, classifier()
    plan = plan_of(*steps, buffers=(OUT, PARTS, FEATURES), exits=2)
    arrays = batch(40, exit_confidence=np.float32(confidences)[None].repeat(40, 0), seconds=None)
    executor(plan, threads=3, cache_bytes=cache_bytes).run(**arrays)
    assert arrays["exit_index"].tolist() == [expected] * 40


@pytest.mark.parametrize("reader", [MaxPool("features", 1, 1, "more"), AveragePool("features", "more")], ids=str)
def test_features_are_for_classifiers_only(reader):
    """They are float32 whatever the precision, which no other step reads."""
    plan = plan_of(convolution(), POOL, reader, classifier(), buffers=(OUT, FEATURES, replace(FEATURES, name="more")))
    with pytest.raises(ValueError, match="pooled features"):
        executor(plan, precision="bf16")


@pytest.mark.parametrize(
    "steps",
    [
        (convolution(), POOL, classifier()),
        (AveragePool("image", "features"), classifier()),
        (NORMALISE, NORMALISE, convolution(), POOL, classifier()),
        (NORMALISE, convolution(), NORMALISE, POOL, classifier()),
        (NORMALISE, convolution(), classifier()),
        (NORMALISE, convolution(), classifier(input="out")),
        (NORMALISE, convolution(), POOL),
        (NORMALISE, convolution(), POOL, classifier(), classifier()),
        (NORMALISE, convolution(), POOL, classifier(), POOL_PARTS),
        (NORMALISE, convolution(), POOL_PARTS, classifier(input="parts")),
        (early_exit(input="features", hidden_weight=floats(6, 8, 1, 1)), NORMALISE, convolution(), POOL, classifier()),
        (NORMALISE, convolution(), early_exit(input="out", hidden_weight=floats(6, 8, 1, 1)), POOL, classifier()),
        (NORMALISE, convolution(), POOL_PARTS, POOL, classifier(), early_exit()),
        (NORMALISE, convolution(), POOL_PARTS, early_exit()),
    ],
    ids=[
        "convolution first", "average pool first", "two normalisations", "a normalisation later",
        "features of nothing", "classifier of a map", "no classifier", "two classifiers", "a pool after the classifier",
        "classifier of parts", "exit first", "exit of a map", "exit after the classifier", "exit without a classifier",
    ],
)  # fmt: skip
def test_steps_come_in_order(steps):
    exits = sum(hasattr(step, "hidden_weight") for step in steps)
    plan = replace(plan_of(buffers=(OUT, PARTS, FEATURES), exits=exits), steps=steps)
    with pytest.raises(REFUSED):
        executor(plan)
