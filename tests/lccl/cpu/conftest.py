"""Fixtures of the CPU engine's tests: every arithmetic that this machine runs, and engines of them."""

from __future__ import annotations

import pytest

from lccl.engines.cpu.engine import CpuEngine, instruction_sets
from lccl.lowering import shape_of


@pytest.fixture(scope="session", params=instruction_sets(), ids="-".join)
def arithmetic(request):
    """An instruction set and a precision."""
    return request.param


@pytest.fixture(scope="session")
def make_cpu():
    """``make_cpu(plan, arithmetic, threads=1, cache_bytes=None)``: an engine; by default on one thread."""

    def make(plan, arithmetic, threads=1, cache_bytes=None):
        instruction_set, precision = arithmetic
        return CpuEngine(
            plan, shape_of(plan), precision, threads=threads, instruction_set=instruction_set, cache_bytes=cache_bytes
        )

    return make
