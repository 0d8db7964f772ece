"""A real ``lccl-serve`` in a process of its own, for benchmarks that go over HTTP."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx


@contextmanager
def served(*flags: str) -> Iterator[str]:
    """Serve the shipped models on a free port; yields the base URL once ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    base = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "service", "--port", str(port), "--log-level", "warning", *flags]
    with subprocess.Popen(command) as process:
        try:
            _wait(base, process)
            yield base
        finally:
            process.terminate()
            process.wait(60)


def _wait(base: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise RuntimeError("the server did not start")
        try:
            if httpx.get(f"{base}/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise RuntimeError("the server did not become ready within a minute")
