"""Fixtures of the CPU engine's tests: every arithmetic that this machine runs, and engines of them."""

from __future__ import annotations

import pytest

from lccl.engines.cpu.engine import CpuEngine
from tests.lccl.cpu.networks import FLOATING, INT8, SIZES, SMALL, mixed
from tests.lccl.networks import called, layers_of

pytest.register_assert_rewrite("tests.lccl.comparison")


@pytest.fixture(scope="session", params=FLOATING, ids="-".join)
def arithmetic(request):
    """An instruction set and a precision that runs plans of floating numbers."""
    return request.param


@pytest.fixture(scope="session", params=INT8, ids="-".join)
def int8(request):
    """An instruction set and int8."""
    return request.param


@pytest.fixture(scope="session")
def make_cpu():
    """``make_cpu(plan, arithmetic, threads=1, cache_bytes=None)``: an engine; by default on one thread."""

    def make(plan, arithmetic, threads=1, cache_bytes=None, streams=1):
        instruction_set, precision = arithmetic
        return CpuEngine(
            plan,
            precision,
            threads=threads,
            streams=streams,
            instruction_set=instruction_set,
            cache_bytes=cache_bytes,
        )

    return make


@pytest.fixture(scope="session")
def small(gated_network, make_reference, draw_images):
    """``small(Architecture(...), size)``: its reference engine in float64, made once, 5 images and thresholds."""
    made = {}

    def make(architecture, size=None):
        size = size or SIZES.get(architecture.name, SMALL)
        key = called(architecture), size
        if key not in made:
            pixels, thresholds = draw_images(5, size), mixed(5, layers_of(architecture))
            network = gated_network(architecture, pixels, thresholds)
            made[key] = make_reference(network, size=size), pixels, thresholds
        return made[key]

    return make
