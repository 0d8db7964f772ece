"""A real ``lccl-serve`` for tests that speak to one over HTTP."""

import os
from contextlib import contextmanager

from benchmarks.server import Server


@contextmanager
def served(*flags):
    """Run ``lccl-serve`` with these flags, by default on the shipped models, and yield its address."""
    with Server(f"tests-{os.getpid()}", *flags) as server:
        yield server.base
