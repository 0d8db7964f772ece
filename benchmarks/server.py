"""A real ``lccl-serve`` that can be killed, stopped, restarted on its port, and looked into from outside."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import httpx

HOME = Path(__file__).parents[1]
BUILD = HOME / "build" / "faults"
MODELS, SMALL = HOME / "models", "resnet20-cifar10"
SERVICE = ("-m", "service")
START_S, STOP_S = 120.0, 60.0
SOON_S = 15.0


def small_alone() -> Path:
    """A folder with the small shipped model and no other."""
    folder = BUILD / "models"
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        (folder / SMALL).symlink_to(MODELS / SMALL)
    return folder


class Server:
    """A server on a port of its own, running inside ``with``; in :data:`processes`, unless the environment says so.

    Without ``--models`` it serves the small shipped model alone: beside it the service takes most of the time.

    Args:
        name: of its log, ``build/faults/<name>.log``.
        flags: of ``lccl-serve``.
        program: what Python runs.
        environment: added to this process's.
        stdout: where the log goes instead.

    """

    processes = 1  # that serve; of all servers

    def __init__(
        self,
        name: str,
        *flags: str,
        program: tuple[str, ...] = SERVICE,
        environment: Mapping[str, str] | None = None,
        stdout: IO[bytes] | int | None = None,
    ) -> None:
        BUILD.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.base, self.log = f"http://127.0.0.1:{self.port}", BUILD / f"{name}.log"
        self.log.write_bytes(b"")
        self._command = [sys.executable, *program, "--port", str(self.port), *flags]
        if "--models" not in flags:
            self._command += ["--models", str(small_alone())]
        if "--log-level" not in flags:
            self._command += ["--log-level", "warning"]
        self._environment = os.environ | {"LCCL_PROCESSES": str(self.processes)} | dict(environment or {})
        self._stdout = stdout

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()

    def start(self) -> None:
        """Start the process; see :meth:`wait_ready`."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, env=self._environment, cwd=HOME, stderr=log, stdin=subprocess.DEVNULL,
                stdout=log if self._stdout is None else self._stdout,
            )  # fmt: skip

    def wait_ready(self) -> None:
        """Return once the server is ready.

        Raises:
            RuntimeError: the process ended, or took too long.

        """
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}: see {self.log}")
            if self.status("/health/ready") == 200:
                return
            time.sleep(0.05)
        raise RuntimeError("the server did not become ready")

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def status(self, path: str) -> int:
        """The status of a GET; 0 without an answer."""
        try:
            return httpx.get(self.base + path, timeout=SOON_S, verify=False).status_code
        except httpx.TransportError:
            return 0

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        text = httpx.get(f"{self.base}/metrics", timeout=SOON_S, verify=False).text
        values = re.findall(rf"^{re.escape(name)}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, values))

    def workers(self) -> list[int]:
        """The processes that answer requests."""
        own = self.process.pid
        children = Path(f"/proc/{own}/task/{own}/children").read_text(encoding="ascii").split()
        return [*map(int, children)] if self.processes > 1 else [own]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all processes."""
        for process in {self.process.pid, *self.workers()}:
            os.kill(process, number)

    def memory_bytes(self) -> int:
        """Resident memory of the processes that answer."""
        return sum(memory_bytes(process) for process in self.workers())

    def open_files(self) -> int:
        """Open files, connections included."""
        return sum(len(os.listdir(f"/proc/{process}/fd")) for process in {self.process.pid, *self.workers()})

    def settled(self, files: int) -> list[str]:
        """What is still held after all requests have ended; waits for it to be let go.

        Args:
            files: that were open before.

        """
        deadline = time.monotonic() + SOON_S
        while True:
            left = []
            if (requests := self.metric("lccl_inflight_requests")) > 1:
                left.append(f"{requests - 1:.0f} requests are still counted as under way")
            if waiting := self.metric("lccl_queue_depth"):
                left.append(f"{waiting:.0f} images still wait")
            if (still := self.open_files()) > files + 2:
                left.append(f"{still} files are open, {files} were before")
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.1)

    def unready(self) -> list[str]:
        """A sentence if the server is not ready."""
        return [] if self.status("/health/ready") == 200 else ["the server is not ready afterwards"]

    def errors(self) -> list[str]:
        """What the log says of errors, with the last line of traces; the first few."""
        found = []
        for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                found.append(f"logged: not JSON: {line[:200]}")
                continue
            if entry.get("level") in {"ERROR", "CRITICAL"}:
                trace = entry.get("exc_info", "").strip().splitlines()
                found.append(f"logged: {entry.get('message', '')[:200]} {trace[-1][:200] if trace else ''}".strip())
        return found[:5]


def memory_bytes(process: int, kind: str = "VmRSS") -> int:
    """Resident memory of a process, or what else /proc calls by that name."""
    text = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    found = re.search(rf"^{kind}:\s+(\d+) kB$", text, re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


@contextmanager
def served(*flags: str) -> Iterator[str]:
    """Run ``lccl-serve`` with these flags; yields its base URL."""
    with Server(f"served-{os.getpid()}", *flags) as server:
        yield server.base
