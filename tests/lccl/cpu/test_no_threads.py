"""A system that gives no more threads: the engine is refused, and the process goes on."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource
from lccl.engines.cpu.engine import CpuEngine
from lccl.errors import EngineError
from lccl.networks import Architecture, build
from lccl.networks.lowering import lower
from lccl.preprocessing import Preprocessing

plan = lower(build(Architecture("resnet20")).eval(), Preprocessing(8, 8, (0.5,) * 3, (0.5,) * 3))
with open("/proc/self/statm") as known:
    used = int(known.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20), resource.RLIM_INFINITY))
try:
    CpuEngine(plan, threads=64)  # each has a stack of some megabytes
except EngineError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_an_engine_without_its_threads_is_refused():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=True,
        env={"OMP_NUM_THREADS": "1", "PATH": ""},
    )  # fmt: skip
    assert "gives the cpu engine no threads or no memory" in done.stdout
