"""A real ``lccl-serve`` for tests that speak to one over HTTP."""

import os
from contextlib import contextmanager

from benchmarks.server import MODELS, Server


@contextmanager
def served(*flags):
    """Run ``lccl-serve`` with these flags, by default on the shipped models, and yield its address."""
    models = () if "--models" in flags else ("--models", str(MODELS))
    with Server(f"tests-{os.getpid()}", *models, *flags) as server:
        yield server.base
