"""The native program refuses arrays and layouts that do not fit, with an exception, before it touches memory."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from lccl.engines.cpu import _native

NONE = -1
REFUSED = (TypeError, ValueError)


def floats(*shape):
    return np.ones(shape, np.float32)


def misaligned(*shape, dtype=np.float32):
    """An array whose elements begin at an odd address."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(bytearray(size + 1), np.uint8, size, 1).view(dtype).reshape(shape)


def read_only(array):
    array.flags.writeable = False
    return array


def program(**options):
    settings = {
        "instruction_set": "portable",
        "bf16": False,
        "threads": 2,
        "sets": 1,
        "layers": 1,
        "cache_bytes": 1 << 20,
    }
    return _native.Program(**settings | options)


class Layout:
    """An image of 5 × 4 positions and 3 channels, one gated convolution to 8 channels, and 4 classes."""

    def __init__(self, **options):
        self.program = program(**options)
        self.image = self.program.add_buffer(3, 5, 4)
        self.out = self.program.add_buffer(8, 5, 4)
        self.features = self.program.add_buffer(8, 1, 1)

    def normalise(self, **changed):
        self.program.add_normalise(**{"mean": floats(3), "std": floats(3), "raw": self.image} | changed)
        return self

    def gate(self, layer=0, source=None, weight=None, scale=None, shift=None):
        parts = weight, scale, shift
        defaults = floats(2, 3, 3, 3), floats(1, 2), floats(1, 2)
        chosen = (default if part is None else part for part, default in zip(parts, defaults, strict=True))
        return (layer, self.image if source is None else source, *chosen)

    def convolve(self, **changed):
        arguments = {
            "input": self.image, "weight": floats(8, 3, 3, 3), "stride": 1, "scale": floats(1, 8),
            "shift": floats(1, 8), "relu": True, "gate": self.gate(), "residual": NONE, "residual_stride": 1,
            "raw": self.out, "activated": NONE, "activated_scale": None, "activated_shift": None,
        }  # fmt: skip
        self.program.add_convolution(**arguments | changed)
        return self

    def pool(self):
        self.program.add_average_pool(self.out, self.features)
        return self

    def classify(self, **changed):
        self.program.add_classifier(**{"input": self.features, "weight": floats(4, 8), "bias": floats(4)} | changed)
        return self

    def finish(self):
        self.program.finish()
        return self.program


def finished(**options):
    return Layout(**options).normalise().convolve().pool().classify().finish()


def batch(count=2, **changed):
    """What ``run`` takes."""
    return {
        "images": np.zeros((count, 5, 4, 3), np.uint8), "thresholds": np.zeros((count, 1), np.float32),
        "norm_set": np.zeros(count, np.int64), "logits": np.zeros((count, 4), np.float32),
        "kept": np.zeros((count, 1), np.int64), "executed": np.zeros(count, np.int64), "forced": None,
        "masks": [np.zeros((count, 2, 20), np.uint8)], "seconds": np.zeros(4),
    } | changed  # fmt: skip


def step(number=1, **changed):
    """What ``run_step`` takes."""
    whole = batch()
    del whole["images"], whole["logits"], whole["seconds"]
    return {"step": number, "inputs": [(0, np.zeros((2, 3, 5, 4), np.float32))]} | whole | changed


def test_what_fits_runs():
    arrays = batch()
    finished().run(**arrays)
    assert arrays["logits"].any()
    assert arrays["executed"].all()
    assert arrays["seconds"].sum() > 0
    assert np.array_equal(arrays["kept"][:, 0], 4 * arrays["masks"][0].sum((1, 2), dtype=np.int64))
    finished().run(**batch(images=np.zeros((2, 5, 4, 3), np.float32), masks=None, seconds=None))
    assert [(buffer, value.shape) for buffer, _, value in finished().run_step(**step())] == [(1, (2, 8, 5, 4))]


# arrays of a batch


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("images", np.zeros((2, 5, 4, 3), np.float64)),
        ("images", np.zeros((2, 5, 4, 3), np.int8)),
        ("images", np.zeros((2, 5, 4, 3), bool)),
        ("images", np.zeros((2, 5, 4, 3), np.int32)),
        ("images", np.zeros((2, 5, 4, 3), np.float16)),
        ("images", np.zeros((2, 5, 4, 3), np.dtype(">f4"))),
        ("images", np.zeros((2, 4, 5, 3), np.uint8)),
        ("images", np.zeros((3, 5, 4, 3), np.uint8)),
        ("images", np.zeros((0, 5, 4, 3), np.uint8)),
        ("images", np.zeros((2, 60), np.uint8)),
        ("images", np.zeros((2, 5, 4, 6), np.uint8)[..., ::2]),
        ("images", np.zeros((2, 3, 5, 4), np.uint8).transpose(0, 2, 3, 1)),
        ("images", misaligned(2, 5, 4, 3)),
        ("images", None),
        ("images", [[0]]),
        ("thresholds", np.zeros((2, 1))),
        ("thresholds", np.zeros((2, 2), np.float32)),
        ("thresholds", np.zeros((1, 1), np.float32)),
        ("thresholds", np.zeros(2, np.float32)),
        ("thresholds", np.zeros((4, 1), np.float32)[::2]),
        ("thresholds", misaligned(2, 1)),
        ("norm_set", np.zeros(2, np.int32)),
        ("norm_set", np.zeros(3, np.int64)),
        ("norm_set", np.zeros(4, np.int64)[::2]),
        ("norm_set", np.array([0, 1])),
        ("norm_set", np.array([0, -1])),
        ("norm_set", np.array([0, 2**62])),
        ("norm_set", misaligned(2, dtype=np.int64)),
        ("logits", np.zeros((2, 4))),
        ("logits", np.zeros((2, 3), np.float32)),
        ("logits", np.zeros((1, 4), np.float32)),
        ("logits", np.zeros((2, 8), np.float32)[:, ::2]),
        ("logits", misaligned(2, 4)),
        ("logits", read_only(np.zeros((2, 4), np.float32))),
        ("logits", None),
        ("kept", np.zeros((2, 1), np.int32)),
        ("kept", np.zeros((2, 2), np.int64)),
        ("kept", np.zeros((1, 1), np.int64)),
        ("kept", misaligned(2, 1, dtype=np.int64)),
        ("kept", read_only(np.zeros((2, 1), np.int64))),
        ("executed", np.zeros(2, np.int32)),
        ("executed", np.zeros(1, np.int64)),
        ("executed", np.zeros(4, np.int64)[::2]),
        ("executed", misaligned(2, dtype=np.int64)),
        ("executed", read_only(np.zeros(2, np.int64))),
        ("forced", []),
        ("forced", [np.zeros((2, 2, 20), np.uint8)] * 2),
        ("forced", [np.zeros((2, 1, 20), np.uint8)]),
        ("forced", [np.zeros((1, 2, 20), np.uint8)]),
        ("forced", [np.zeros((2, 2, 5, 4), np.uint8)]),
        ("forced", [np.zeros((2, 2, 20), np.int64)]),
        ("forced", [np.zeros((2, 2, 40), np.uint8)[..., ::2]]),
        ("forced", [None]),
        ("masks", []),
        ("masks", [None]),
        ("masks", [np.zeros((2, 2, 20), np.uint8)] * 2),
        ("masks", [np.zeros((2, 2, 19), np.uint8)]),
        ("masks", [np.zeros((2, 2, 20), np.int8)]),
        ("masks", [np.zeros((4, 2, 20), np.uint8)[::2]]),
        ("masks", [read_only(np.zeros((2, 2, 20), np.uint8))]),
        ("seconds", np.zeros(3)),
        ("seconds", np.zeros(4, np.float32)),
        ("seconds", np.zeros(8)[::2]),
        ("seconds", misaligned(4, dtype=np.float64)),
        ("seconds", read_only(np.zeros(4))),
    ],
    ids=lambda value: getattr(value, "shape", None) and f"{value.dtype}-{value.shape}",
)
def test_arrays_that_do_not_fit_are_refused(name, array):
    whole = batch()
    with pytest.raises(REFUSED):
        finished().run(**whole | {name: array})
    assert not whole["logits"].any()
    if name in ("thresholds", "norm_set", "kept", "executed", "forced", "masks"):
        with pytest.raises(REFUSED):
            finished().run_step(**step(**{name: array}))


@pytest.mark.parametrize("number", [-1, 4, 99, 1 << 31, 1 << 40])
def test_a_step_that_is_not_there_is_refused(number):
    with pytest.raises(REFUSED):
        finished().run_step(**step(number))


@pytest.mark.parametrize("number", [0, 3])
def test_a_step_that_needs_images_or_gives_logits_does_not_run_alone(number):
    with pytest.raises(REFUSED):
        finished().run_step(**step(number, inputs=[]))


@pytest.mark.parametrize("buffer", [-1, 3, 99, 1 << 30, -(1 << 31), 1 << 40])
def test_a_steps_input_names_a_buffer_that_is_there(buffer):
    with pytest.raises(REFUSED):
        finished().run_step(**step(inputs=[(buffer, np.zeros((2, 3, 5, 4), np.float32))]))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 3, 4, 5), np.float32),
        np.zeros((1, 3, 5, 4), np.float32),
        np.zeros((2, 3, 20), np.float32),
        np.zeros((2, 3, 5, 4)),
        np.zeros((2, 3, 5, 8), np.float32)[..., ::2],
        misaligned(2, 3, 5, 4),
        None,
    ],
    ids=lambda array: f"{array.dtype}-{array.shape}" if array is not None else "None",
)
def test_a_steps_input_fits_its_buffer(array):
    with pytest.raises(REFUSED):
        finished().run_step(**step(inputs=[(0, array)]))


# programs


@pytest.mark.parametrize(
    "options",
    [
        {"threads": 0}, {"threads": -1}, {"threads": 1025}, {"threads": 1 << 40}, {"threads": 1.5},
        {"instruction_set": "sse2"}, {"instruction_set": ""}, {"instruction_set": "x" * 10_000},
        {"instruction_set": None}, {"instruction_set": "avx2", "bf16": True}, {"bf16": "yes"}, {"sets": 0},
        {"sets": -1}, {"sets": 1 << 40}, {"layers": -1}, {"layers": 1 << 20}, {"cache_bytes": -1},
        {"cache_bytes": 1 << 70},
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


@pytest.mark.parametrize("arguments", [(-1, 2), (99, 2), (0, 2), (1, -1), (1, 99), (1, 0), (2, 2)])
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


def test_features_are_for_the_classifier_only():
    """They are float32 whatever the precision, which no other step reads."""
    one = Layout(bf16=True, layers=0).normalise().convolve(gate=None).pool()
    out = one.program.add_buffer(8, 1, 1)
    with pytest.raises(REFUSED):
        one.program.add_max_pool(one.features, 1, 1, out)


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
    ],
    ids=[
        "convolution first", "average pool first", "max pool first", "nothing", "two normalisations",
        "classifier of a map", "no classifier", "two classifiers",
    ],
)  # fmt: skip
def test_steps_come_in_order(build):
    with pytest.raises(REFUSED):
        build(Layout())
