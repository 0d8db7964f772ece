"""Fuzzing finds what is planted, and nothing else in a moment."""

from __future__ import annotations

import numpy as np
import pytest

from lccl.decoding import pixels
from lccl.engines.cpu.engine import CpuEngine
from lccl.networks import Architecture
from service.api.v1 import bodies
from tests.fuzz import decoders, int8
from tests.fuzz.__main__ import TARGETS, fuzz
from tests.fuzz.damage import apply


@pytest.mark.parametrize("part", TARGETS)
def test_nothing_is_found_in_a_moment(part):
    assert fuzz(part, 0.5, first_seed=1) > 0


def test_an_unforeseen_error_of_the_service_is_found(monkeypatch):
    def fails(*_):
        raise KeyError("planted")

    monkeypatch.setattr(bodies, "read_form", fails)
    with pytest.raises(AssertionError, match="500"):
        fuzz("multipart", 1, first_seed=1)


def test_an_answer_that_slices_change_is_found(monkeypatch):
    monkeypatch.setattr("service.api.v2.requests.read_long_array", lambda signature, shape, *_: _zeros(shape))
    with pytest.raises(AssertionError):
        fuzz("open-inference", 20, first_seed=1)


async def _zeros(shape):
    return np.zeros(shape, np.uint8)


def test_a_bit_that_an_instruction_set_changes_is_found(monkeypatch):
    run = CpuEngine.run

    def wrong(engine, images, options):
        output = run(engine, images, options)
        output.logits[-1, -1] = np.nextafter(output.logits[-1, -1], np.float32(np.inf))
        return output

    case = int8.Case(Architecture("resnet20"), (1, 1, 1), 8, 2, 1.0, (), 1, None, 0)
    int8.check(case)
    monkeypatch.setattr(CpuEngine, "run", wrong)
    with pytest.raises(AssertionError):
        int8.check(case)


@pytest.mark.parametrize("fault", ["error", "pixels"])
def test_faults_of_decoders_are_found(monkeypatch, fault):
    decode = pixels._fast_jpeg

    def faulty(*given):
        found = decode(*given)
        if found is None:
            return None
        if fault == "error":
            raise IndexError("planted")
        return found ^ 0x40

    monkeypatch.setattr(decoders.pixels, "_fast_jpeg", faulty)
    with pytest.raises(AssertionError if fault == "pixels" else IndexError):
        fuzz("decoders", 20, first_seed=1)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("cut", b"ab"), ("remove", b"abe"), ("insert", b"ab--cde"), ("replace", b"ab--e"), ("repeat", b"abcdcdcdcde"),
        ("move", b"abecd"), ("flip", b"abgde"),
    ],
)  # fmt: skip
def test_damage(kind, expected):
    assert apply(b"abcde", kind, 8, 2, b"--") == expected
