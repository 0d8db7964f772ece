"""Runs a plan: in this process, or in one of its own that can have processors of its own."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Collection
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from importlib.util import find_spec

from lccl_client.load.plan import Plan
from lccl_client.load.report import Report, summarise
from lccl_client.load.sender import Progress, send

FILES = 1 << 16


def run(plan: Plan, progress: Callable[[Progress], None] | None = None) -> Report:
    """Run a plan and report; with uvloop where that is installed. It blocks, and must not run inside an event loop.

    Args:
        plan: what is sent, and how.
        progress: called twice a second.

    """
    factory = import_module("uvloop").new_event_loop if find_spec("uvloop") else None
    gc.collect()
    gc.freeze()  # a full collection over all that the caller has imported would stop the sending for up to 0.1 s
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            started, cpu = time.monotonic(), time.process_time()
            records = runner.run(send(plan, progress))
            cpu_s, wall_s = time.process_time() - cpu, time.monotonic() - started
    finally:
        gc.unfreeze()
    return summarise(plan, records, cpu_s, wall_s, "uvloop" if factory else "asyncio")


def run_apart(plan: Plan, processors: Collection[int] | None = None) -> Report:
    """Run a plan in a new process, on some of the processors (Linux only) if any are named.

    The plan's reader has to be a function that the new process can import.
    """
    start = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=start, initializer=_prepare, initargs=(processors,)) as pool:
        return pool.submit(run, plan).result()


def allow_connections() -> None:
    """Let this process open as many connections as it may, up to :data:`FILES`; the usual default is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _prepare(processors: Collection[int] | None) -> None:
    allow_connections()
    if processors is not None:
        os.sched_setaffinity(0, processors)
