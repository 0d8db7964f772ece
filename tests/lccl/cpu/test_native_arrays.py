"""The native program refuses arrays that do not fit, with an exception, before it touches memory."""

from __future__ import annotations

import numpy as np
import pytest

from tests.lccl.cpu.native_programs import REFUSED, batch, executor, misaligned, read_only, step, with_exit


def test_what_fits_runs():
    arrays = batch()
    executor().run(**arrays)
    assert arrays["logits"].any()
    assert arrays["executed"].all()
    assert arrays["seconds"].sum() > 0
    assert np.array_equal(arrays["kept"][:, 0], 4 * arrays["masks"][0].sum((1, 2, 3), dtype=np.int64))
    executor().run(**batch(images=np.zeros((2, 5, 4, 3), np.float32), masks=None, seconds=None))
    written = executor().run_step(**step())
    assert {name: value.shape for name, value in written.items()} == {"out": (2, 5 + 6, 4 + 6, 8)}


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
        ("exit_confidence", np.zeros((2, 1), np.float32)),
        ("exit_confidence", np.zeros((1, 0), np.float32)),
        ("exit_confidence", np.zeros((2, 0))),
        ("exit_confidence", None),
        ("exit_index", np.zeros(2, np.int32)),
        ("exit_index", np.zeros(3, np.int64)),
        ("exit_index", np.zeros((2, 1), np.int64)),
        ("exit_index", np.zeros(4, np.int64)[::2]),
        ("exit_index", misaligned(2, dtype=np.int64)),
        ("exit_index", read_only(np.zeros(2, np.int64))),
        ("exit_index", None),
        ("forced", []),
        ("forced", [np.zeros((2, 2, 5, 4), np.uint8)] * 2),
        ("forced", [np.zeros((2, 1, 5, 4), np.uint8)]),
        ("forced", [np.zeros((1, 2, 5, 4), np.uint8)]),
        ("forced", [np.zeros((2, 2, 20), np.uint8)]),
        ("forced", [np.zeros((2, 2, 5, 4), np.int64)]),
        ("forced", [np.zeros((2, 2, 5, 8), np.uint8)[..., ::2]]),
        ("forced", [None]),
        ("masks", []),
        ("masks", [None]),
        ("masks", [np.zeros((2, 2, 5, 4), np.uint8)] * 2),
        ("masks", [np.zeros((2, 2, 4, 5), np.uint8)]),
        ("masks", [np.zeros((2, 2, 5, 4), np.int8)]),
        ("masks", [np.zeros((4, 2, 5, 4), np.uint8)[::2]]),
        ("masks", [read_only(np.zeros((2, 2, 5, 4), np.uint8))]),
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
        executor().run(**whole | {name: array})
    assert not whole["logits"].any()
    if name in ("thresholds", "kept", "executed", "forced", "masks"):
        with pytest.raises(REFUSED):
            executor().run_step(**step(**{name: array}))


@pytest.mark.parametrize(
    "confidence",
    [
        np.zeros((2, 0), np.float32), np.zeros((2, 2), np.float32), np.zeros((3, 1), np.float32), np.zeros((2, 1)),
        np.zeros((4, 1), np.float32)[::2], misaligned(2, 1), np.zeros(2, np.float32), None,
    ],
    ids=lambda value: getattr(value, "shape", None) and f"{value.dtype}-{value.shape}",
)  # fmt: skip
def test_exit_confidences_that_do_not_fit_are_refused(confidence):
    whole = batch(seconds=np.zeros(6))
    with pytest.raises(REFUSED):
        executor(with_exit()).run(**whole | {"exit_confidence": confidence})
    assert not whole["logits"].any()
    whole["exit_confidence"] = np.float32([[0.0], [1.0]])
    executor(with_exit()).run(**whole)
    assert whole["exit_index"].tolist() == [0, 1]


@pytest.mark.parametrize("number", [-1, 4, 99, 1 << 31, 1 << 40])
def test_a_step_that_is_not_there_is_refused(number):
    with pytest.raises(REFUSED):
        executor().run_step(**step(number))


@pytest.mark.parametrize("number", [0, 3])
def test_a_step_that_needs_images_or_gives_logits_does_not_run_alone(number):
    with pytest.raises(REFUSED):
        executor().run_step(**step(number, inputs={}))
    with pytest.raises(REFUSED):
        executor(with_exit()).run_step(**step(3, inputs={}))


@pytest.mark.parametrize("buffer", ["", "out", "features", "x" * 10_000, 0, None])
def test_a_steps_input_names_a_buffer_that_it_reads(buffer):
    with pytest.raises(REFUSED):
        executor().run_step(**step(inputs={buffer: np.zeros((2, 11, 10, 3), np.float32)}))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 10, 11, 3), np.float32),
        np.zeros((2, 5, 4, 3), np.float32),
        np.zeros((1, 11, 10, 3), np.float32),
        np.zeros((2, 110, 3), np.float32),
        np.zeros((2, 11, 10, 3)),
        np.zeros((2, 11, 20, 3), np.float32)[:, :, ::2],
        misaligned(2, 11, 10, 3),
        None,
    ],
    ids=lambda array: f"{array.dtype}-{array.shape}" if array is not None else "None",
)
def test_a_steps_input_fits_its_buffer(array):
    with pytest.raises(REFUSED):
        executor().run_step(**step(inputs={"image": array}))
