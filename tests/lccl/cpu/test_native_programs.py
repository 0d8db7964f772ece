"""The native program refuses plans that do not fit, with an exception, before it touches memory."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from tests.lccl.cpu.native_programs import NONE, REFUSED, Layout, batch, finished, floats, misaligned, program, step


@pytest.mark.parametrize(
    "options",
    [
        {"threads": 0}, {"threads": -1}, {"threads": 1025}, {"threads": 1 << 40}, {"threads": 1.5},
        {"instruction_set": "sse2"}, {"instruction_set": ""}, {"instruction_set": "x" * 10_000},
        {"instruction_set": None}, {"instruction_set": "avx2", "bf16": True}, {"bf16": "yes"}, {"sets": 0},
        {"sets": -1}, {"sets": 1 << 40}, {"layers": -1}, {"layers": 1 << 20}, {"exits": -1}, {"exits": 1 << 20},
        {"cache_bytes": -1}, {"cache_bytes": 1 << 70},
    ],
    ids=str,
)  # fmt: skip
def test_programs_that_cannot_be_are_refused(options):
    with pytest.raises(REFUSED):
        program(**options)


@pytest.mark.parametrize(
    "size",
    [*product((0, -1, 1 << 21, 1 << 40), (4,), (4,)), (3, 0, 4), (3, 4, 0), (3, 1 << 13, 1 << 13),
     (1 << 20, 4095, 4095), (1, 1 << 31, 1 << 31), (1, (1 << 32) - 1, (1 << 32) - 1), (4, 2.5, 4)],
    ids=str,
)  # fmt: skip
def test_absurd_buffers_are_refused(size):
    with pytest.raises(REFUSED):
        program().add_buffer(*size)


@pytest.mark.parametrize(
    "changed",
    [
        {"mean": floats(2)}, {"std": floats(4)}, {"mean": np.ones(3)}, {"mean": floats(6)[::2]}, {"std": misaligned(3)},
        {"mean": floats(1, 3)}, {"raw": -1}, {"raw": 3}, {"raw": 99}, {"raw": 1 << 40},
    ],
    ids=str,
)  # fmt: skip
def test_normalisations_that_do_not_fit_are_refused(changed):
    with pytest.raises(REFUSED):
        Layout().normalise(**changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"input": -1}, {"input": 99}, {"input": 1}, {"residual": -2}, {"residual": 99}, {"residual": 2}, {"raw": -2},
        {"raw": 99}, {"raw": 2}, {"raw": NONE}, {"activated": -2}, {"activated": 99}, {"activated": 0}, {"stride": 0},
        {"stride": 65}, {"stride": 2}, {"stride": -1}, {"residual": 1, "residual_stride": 0},
        {"residual": 0, "residual_stride": 2}, {"residual": 0, "residual_stride": 1 << 31},
        {"weight": floats(8, 3, 2, 2)}, {"weight": floats(8, 3, 65, 65)}, {"weight": floats(8, 3, 3, 1)},
        {"weight": floats(8, 4, 3, 3)}, {"weight": floats(7, 3, 3, 3)}, {"weight": floats(0, 3, 3, 3)},
        {"weight": floats(8, 3, 0, 0)}, {"weight": floats(8, 27)}, {"weight": np.ones((8, 3, 3, 3))},
        {"weight": floats(8, 3, 3, 3).transpose(0, 1, 3, 2)}, {"weight": misaligned(8, 3, 3, 3)}, {"weight": None},
        {"scale": None}, {"shift": None}, {"scale": floats(1, 7), "shift": floats(1, 7)},
        {"scale": floats(2, 8), "shift": floats(2, 8)}, {"scale": floats(8, 1), "shift": floats(8, 1)},
        {"scale": floats(8), "shift": floats(8)}, {"scale": misaligned(1, 8)}, {"scale": np.ones((1, 8))},
        {"activated_scale": floats(1, 8)}, {"activated_scale": floats(1, 9), "activated_shift": floats(1, 9)},
        {"activated": 1}, {"gate": (0, 0)}, {"gate": ()}, {"gate": (0, 0, None, None, None)},
    ],
    ids=lambda changed: ",".join(f"{name}={getattr(value, 'shape', value)}" for name, value in changed.items()),
)  # fmt: skip
def test_convolutions_that_do_not_fit_are_refused(changed):
    with pytest.raises(REFUSED):
        Layout().normalise().convolve(**changed)


def test_a_convolution_does_not_write_what_it_reads():
    one = Layout().normalise()
    with pytest.raises(REFUSED):
        one.convolve(weight=floats(3, 3, 3, 3), scale=None, shift=None, gate=None, raw=one.image)


@pytest.mark.parametrize(
    "changed",
    [
        {"layer": -1}, {"layer": 1}, {"layer": 1 << 40}, {"source": -1}, {"source": 99}, {"source": 1}, {"source": 2},
        {"weight": floats(2, 3, 2, 2)}, {"weight": floats(2, 3, 65, 65)}, {"weight": floats(2, 3, 3, 1)},
        {"weight": floats(3, 3, 3, 3)}, {"weight": floats(16, 3, 3, 3)}, {"weight": floats(2, 4, 3, 3)},
        {"weight": floats(0, 3, 3, 3)}, {"weight": misaligned(2, 3, 3, 3)}, {"scale": floats(1, 3)},
        {"scale": floats(2, 1), "shift": floats(2, 1)}, {"scale": floats(1, 0), "shift": floats(1, 0)},
        {"scale": floats(2)}, {"shift": floats(2, 2)}, {"shift": misaligned(1, 2)},
    ],
    ids=lambda changed: ",".join(f"{name}={getattr(value, 'shape', value)}" for name, value in changed.items()),
)  # fmt: skip
def test_gates_that_do_not_fit_are_refused(changed):
    one = Layout().normalise()
    with pytest.raises(REFUSED):
        one.convolve(gate=one.gate(**changed))


def test_a_refused_convolution_leaves_nothing_behind():
    one = Layout().normalise()
    with pytest.raises(REFUSED):
        one.convolve(gate=one.gate(scale=floats(1, 7), shift=floats(1, 7)))
    arrays = batch()
    one.convolve().pool().classify().finish().run(**arrays)
    assert arrays["logits"].any()


def test_a_gate_layer_is_used_once():
    one = Layout().normalise().convolve()
    with pytest.raises(ValueError, match="same layer"):
        one.convolve(raw=one.program.add_buffer(8, 5, 4))


def test_a_buffer_is_written_once():
    with pytest.raises(ValueError, match="writes a buffer"):
        Layout().normalise().convolve().convolve(gate=None)


def test_every_layer_has_a_gate():
    with pytest.raises(ValueError, match="no gate"):
        finished(layers=2)
    with pytest.raises(ValueError, match="no gate"):
        Layout().normalise().convolve(gate=None).pool().classify().finish()


@pytest.mark.parametrize(
    "arguments",
    [(-1, 3, 1, 0), (99, 3, 1, 0), (0, 2, 1, 0), (0, 0, 1, 0), (0, 65, 1, 0), (0, 3, 0, 0), (0, 3, 65, 0), (0, 3, 2, 0),
     (0, 3, 1, -1), (0, 3, 1, 99), (0, 3, 1, 1), (0, 3, 1, 1 << 40), (0, 3, 1, 0)],
)  # fmt: skip
def test_max_pools_that_do_not_fit_are_refused(arguments):
    with pytest.raises(REFUSED):
        Layout().normalise().program.add_max_pool(*arguments)


@pytest.mark.parametrize(
    "arguments",
    [(-1, 1, 2), (99, 1, 2), (0, 1, 2), (1, 1, -1), (1, 1, 99), (1, 1, 0), (2, 1, 2), (0, 0, 2), (0, 2, 2), (0, -1, 2),
     (0, 1 << 40, 2)],
)  # fmt: skip
def test_average_pools_that_do_not_fit_are_refused(arguments):
    with pytest.raises(REFUSED):
        Layout().normalise().program.add_average_pool(*arguments)


@pytest.mark.parametrize(
    "changed",
    [
        {"input": -1}, {"input": 99}, {"input": 1}, {"weight": floats(4, 7)}, {"weight": floats(0, 8)},
        {"weight": floats(4, 8, 1)}, {"weight": np.ones((4, 8))}, {"weight": misaligned(4, 8)}, {"bias": floats(3)},
        {"bias": floats(1, 4)}, {"bias": misaligned(4)}, {"bias": floats(8)[::2]},
    ],
    ids=lambda changed: ",".join(f"{name}={getattr(value, 'shape', value)}" for name, value in changed.items()),
)  # fmt: skip
def test_classifiers_that_do_not_fit_are_refused(changed):
    with pytest.raises(REFUSED):
        Layout().normalise().convolve().pool().classify(**changed)


@pytest.mark.parametrize(("grid", "size"), [(0, 1), (2, 1), (1, 2), (3, 2), (65, 65), (1 << 31, 1), (1 << 32, 1)])
def test_an_average_pools_parts_are_its_outputs_positions(grid, size):
    one = Layout().normalise().convolve()
    with pytest.raises(REFUSED):
        one.program.add_average_pool(one.out, grid, one.program.add_buffer(8, size, size))
    with pytest.raises(REFUSED):
        one.program.add_average_pool(one.out, size, one.program.add_buffer(8, size, size + 1))


@pytest.mark.parametrize(
    "changed",
    [
        {"exit": -1}, {"exit": 1}, {"exit": 1 << 32}, {"exit": 1 << 40}, {"input": -1}, {"input": 99}, {"input": 0},
        {"input": 1}, {"input": 2}, {"hidden_weight": floats(6, 8, 1, 1)}, {"hidden_weight": floats(6, 8, 3, 3)},
        {"hidden_weight": floats(6, 8, 2, 1)}, {"hidden_weight": floats(6, 7, 2, 2)}, {"hidden_weight": floats(6, 32)},
        {"hidden_weight": floats(5, 8, 2, 2)}, {"hidden_weight": floats(0, 8, 2, 2)}, {"hidden_weight": None},
        {"hidden_weight": misaligned(6, 8, 2, 2)}, {"hidden_weight": np.ones((6, 8, 2, 2))},
        {"hidden_weight": floats(6, 2, 2, 8).transpose(0, 3, 1, 2)}, {"hidden_bias": floats(5)},
        {"hidden_bias": floats(1, 6)}, {"hidden_bias": misaligned(6)}, {"weight": floats(4, 5)},
        {"weight": floats(0, 6)}, {"weight": floats(4, 6, 1)}, {"weight": floats(3, 6)}, {"weight": misaligned(4, 6)},
        {"bias": floats(3)}, {"bias": floats(8)[::2]}, {"bias": np.ones(4)}, {"bias": misaligned(4)},
    ],
    ids=lambda changed: ",".join(f"{name}={getattr(value, 'shape', value)}" for name, value in changed.items()),
)  # fmt: skip
def test_exits_that_do_not_fit_are_refused_and_leave_nothing_behind(changed):
    one = Layout(exits=1).normalise().convolve().pool_parts()
    with pytest.raises(REFUSED):
        one.exit(**changed)
    arrays = batch(exit_confidence=floats(2, 1), seconds=None)
    one.exit().pool().classify().finish().run(**arrays)
    assert arrays["exit"].tolist() == [1, 1]
    assert arrays["logits"].any()


def test_exits_and_classifier_have_the_same_classes():
    one = Layout(exits=2).normalise().convolve().pool_parts().exit()
    for add in (
        lambda: one.exit(exit=1, weight=floats(5, 6), bias=floats(5)),
        lambda: one.pool().classify(weight=floats(5, 8), bias=floats(5)),
    ):
        with pytest.raises(ValueError, match="same classes"):
            add()


def test_every_exit_has_one_step():
    with pytest.raises(ValueError, match="same number"):
        Layout(exits=2).normalise().convolve().pool_parts().exit().exit()
    with pytest.raises(ValueError, match="an exit of the plan has no step"):
        Layout(exits=2).normalise().convolve().pool_parts().exit().pool().classify().finish()
    with pytest.raises(ValueError, match="out of range"):
        Layout().normalise().convolve().pool_parts().exit()


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
@pytest.mark.parametrize(
    ("confidences", "expected"), [((0.2, 0.2), 1), ((0.2, 1.0), 0), ((1.0, 0.2), 1), ((1.0, 1.0), 2)]
)
def test_exits_stand_side_by_side_and_in_any_order(confidences, expected, cache_bytes):
    one = Layout(exits=2, threads=3, cache_bytes=cache_bytes).normalise().convolve().pool_parts().pool()
    one.exit(exit=1, bias=np.float32([1, 2, 3, 4])).exit(exit=0).classify()
    arrays = batch(40, exit_confidence=np.float32(confidences)[None].repeat(40, 0), seconds=None)
    one.finish().run(**arrays)
    assert arrays["exit"].tolist() == [expected] * 40


def test_features_are_for_classifiers_only():
    """They are float32 whatever the precision, which no other step reads."""
    one = Layout(bf16=True, layers=0).normalise().convolve(gate=None).pool()
    out = one.program.add_buffer(8, 1, 1)
    with pytest.raises(REFUSED):
        one.program.add_max_pool(one.features, 1, 1, out)
    with pytest.raises(REFUSED):
        one.program.add_average_pool(one.features, 1, out)


# the order of things


@pytest.mark.parametrize(
    "unfinished",
    [
        program,
        lambda: Layout().program,
        lambda: Layout().normalise().convolve().pool().program,
        lambda: Layout().normalise().convolve().pool().classify().program,
    ],
    ids=["empty", "buffers", "no classifier", "whole"],
)
def test_an_unfinished_program_does_not_run(unfinished):
    with pytest.raises(REFUSED):
        unfinished().run(**batch())
    with pytest.raises(REFUSED):
        unfinished().run_step(**step())


def test_a_finished_program_is_not_added_to():
    done = Layout()
    done.normalise().convolve().pool().classify().finish()
    for add in (
        done.normalise,
        done.convolve,
        done.pool,
        done.classify,
        done.finish,
        lambda: done.program.add_buffer(3, 5, 4),
        lambda: done.program.add_max_pool(0, 3, 1, 0),
        lambda: done.convolve(gate=None),
    ):
        with pytest.raises(REFUSED):
            add()
    done.program.run(**batch())


@pytest.mark.parametrize(
    "build",
    [
        lambda one: one.convolve(),
        lambda one: one.pool(),
        lambda one: one.program.add_max_pool(one.image, 3, 1, one.program.add_buffer(3, 5, 4)),
        lambda one: one.finish(),
        lambda one: one.normalise().normalise(),
        lambda one: one.normalise().convolve().classify(),
        lambda one: one.normalise().convolve().pool().finish(),
        lambda one: one.normalise().convolve().pool().classify().classify(),
        lambda one: one.normalise().convolve().pool_parts().classify(input=one.parts),
    ],
    ids=[
        "convolution first", "average pool first", "max pool first", "nothing", "two normalisations",
        "classifier of a map", "no classifier", "two classifiers",
        "classifier of parts",
    ],
)  # fmt: skip
def test_steps_come_in_order(build):
    with pytest.raises(REFUSED):
        build(Layout())


@pytest.mark.parametrize(
    "build",
    [
        lambda one: one.exit(input=one.features, hidden_weight=floats(6, 8, 1, 1)),
        lambda one: one.normalise().convolve().exit(input=one.out, hidden_weight=floats(6, 8, 1, 1)),
        lambda one: one.normalise().convolve().pool_parts().pool().classify().exit(),
        lambda one: one.normalise().convolve().pool_parts().exit().finish(),
        lambda one: one.normalise().convolve().pool_parts().exit().pool().classify().finish() and one.exit(),
    ],
    ids=["first", "of a map", "after the classifier", "without a classifier", "of a finished plan"],
)
def test_exits_come_in_order(build):
    with pytest.raises(REFUSED):
        build(Layout(exits=1))
