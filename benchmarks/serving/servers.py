"""Servers in processes of their own: started once, and frozen while others are measured."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from benchmarks.results import HOME
from benchmarks.serving import processes, twins
from benchmarks.serving.workload import BUILD, Served, emptied

PEERS = Path(__file__).parent / "peers"
PORTS = range(30_100, 32_700)  # below those that systems give to outgoing connections
START_S, STOP_S = 120.0, 10.0
SETTLED_ASKS, PAUSE_S = 8, 0.15
PROGRAMS = {"FastAPI": "fastapi_app.py", "LitServe": "litserve_app.py", "Ray Serve": "ray_app.py"}
BENTOML = "BentoML"
RAY, HAPROXY = "Ray Serve", "HAProxy"
SELDOM_S = "86400"  # what was frozen for a while is not ill


@dataclass(frozen=True, slots=True)
class Setup:
    """How a peer is configured; what the fields mean: ``peers.model.Settings``."""

    backend: str
    precision: str = "fp32"
    workers: int = 1
    threads: int = 1
    batch: int = 32
    window_ms: float = 1.0
    decoders: int = 0
    front: str = ""
    whole: bool = False

    def __str__(self) -> str:
        parts = [f"{self.workers} × {self.threads} threads", f"batch {self.batch}", f"window {self.window_ms:g} ms"]
        parts += [f"{self.decoders} decoders"] if self.decoders else []
        parts += [self.front] if self.front else []
        return ", ".join([self.precision, *parts] + (["JPEGs decoded whole"] if self.whole else []))


@dataclass(frozen=True, slots=True)
class Ask:
    """How a server is asked about an image: one body for each of the images."""

    path: str
    content_type: str
    bodies: tuple[bytes, ...]


class Server:
    """One server, running or frozen; ``loaded`` says whether all its workers have loaded their models."""

    def __init__(
        self, name: str, command: list[str], environment: dict[str, str], port: int, loaded: Callable[[], bool]
    ) -> None:
        self.name, self.base, self._loaded = name, f"http://127.0.0.1:{port}", loaded
        self._log = BUILD / f"{name.replace(' ', '-').replace(',', '')}.log"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        apart = [sys.executable, str(Path(processes.__file__)), *command]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                apart, env=os.environ | environment, stdout=log, stderr=log, start_new_session=True, cwd=PEERS
            )

    def wait(self, ask: Ask) -> None:
        """Return once all workers have loaded and the server answers for a while.

        A first answer says little: other workers may still load, and a balancer is told of them later.

        Raises:
            RuntimeError: the server ended, or took too long.

        """
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._loaded() and all(self._answers(ask) for _ in range(SETTLED_ASKS)):
                return
            time.sleep(0.1)
        raise RuntimeError(f"{self.name} does not answer; its last words: {self._log.read_text()[-2000:]}")

    def _answers(self, ask: Ask) -> bool:
        time.sleep(PAUSE_S)
        with suppress(httpx.TransportError):
            return self.post(ask, 0).status_code == 200
        return False

    def post(self, ask: Ask, index: int) -> httpx.Response:
        """Ask about one image."""
        headers = {"Content-Type": ask.content_type}
        return httpx.post(self.base + ask.path, content=ask.bodies[index], headers=headers, timeout=START_S)

    def freeze(self) -> None:
        """Stop all processes where they are: an idle server takes time too."""
        processes.signal_all(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on."""
        processes.signal_all(self._process.pid, signal.SIGCONT)

    def cpu_seconds(self) -> float:
        """Processor time that the server has taken so far."""
        return processes.cpu_seconds(self._process.pid)

    def close(self) -> None:
        """End the server, with all that it started."""
        self.thaw()
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            processes.signal_all(self._process.pid, signal.SIGKILL)
            self._process.kill()
            self._process.wait()


def start_peer(peer: str, setup: Setup, served: Served) -> Server:
    """Start a peer on the plain twin; wait for it before it is asked."""
    port, python = free_port(), peers_python()
    ready = emptied(BUILD / "ready" / str(port))
    paths = {"folder": str(served.twin), "ready": str(ready), "site": sysconfig.get_path("platlib")}
    settings = {**asdict(setup), **paths, "port": port}
    environment = {"PEER": json.dumps(settings), "PYTHONPATH": f"{PEERS}:{HOME}", "BENTOML_DO_NOT_TRACK": "True"}
    if peer == RAY:
        environment |= _ray_environment(setup.front == HAPROXY)
    if peer == BENTOML:
        program = str(python.with_name("bentoml"))
        command = [program, "serve", "bentoml_app:Classifier", "--host", "127.0.0.1", "--port", str(port)]
    else:
        command = [str(python), PROGRAMS[peer]]
    name = f"{peer} {setup.backend} {setup.precision} {served.name}" + (" whole" if setup.whole else "")
    return Server(name, command, environment, port, lambda: len(list(ready.iterdir())) >= setup.workers)


def _ray_environment(haproxy: bool) -> dict[str, str]:
    """Ray Serve for throughput, with ports of its own, as two may run at once."""
    ports = {
        f"RAY_SERVE_{name}_PORT": str(free_port())
        for name in ("FALLBACK_PROXY_HTTP", "FALLBACK_PROXY_GRPC", "HAPROXY_METRICS", "HAPROXY_STATS")
    }
    first = 20_000 + free_port() % 100 * 100
    for number, kind in enumerate(("HTTP", "GRPC")):
        ports[f"RAY_SERVE_DIRECT_INGRESS_MIN_{kind}_PORT"] = str(first + 50 * number)
        ports[f"RAY_SERVE_DIRECT_INGRESS_MAX_{kind}_PORT"] = str(first + 50 * number + 49)
    return ports | {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": str(int(haproxy)),
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": SELDOM_S,
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": SELDOM_S,
        "RAY_health_check_failure_threshold": "1000000",
    }


def start_service(served: Served, *flags: str) -> Server:
    """Start this project's service, with its own defaults but for some flags; wait for it before it is asked."""
    port = free_port()
    command = [sys.executable, "-m", "service", "--port", str(port), "--models", str(served.models)]
    command += ["--log-level", "warning", *flags]
    return Server(f"LCCL {served.name}", command, {"PYTHONPATH": str(HOME)}, port, lambda: True)


def ask_peer(peer: str, served: Served) -> Ask:
    """The request that a peer expects."""
    if peer != BENTOML:
        return Ask("/classify", "image/jpeg", served.images)
    bound = "----image"
    head = (
        f'--{bound}\r\nContent-Disposition: form-data; name="images"; filename="image.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    ).encode()
    bodies = tuple(head + image + f"\r\n--{bound}--\r\n".encode() for image in served.images)
    return Ask("/classify", f"multipart/form-data; boundary={bound}", bodies)


def ask_service(quality: str, served: Served) -> Ask:
    """The request to this service with a target as its query, such as ``sparsity=0.5``."""
    return Ask(f"/v1/classify?{quality}" if quality else "/v1/classify", "image/jpeg", served.images)


def peers_python() -> Path:
    """The interpreter of the virtual environment that the peers are installed in."""
    return Path(os.environ.get("PEERS_VENV", HOME / "build" / "peers-venv")) / "bin" / "python"


def free_port() -> int:
    """A port that nobody has, and that no outgoing connection will be given before a server takes it."""
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError(f"no port is free in {PORTS}")


IMAGES = 4
WITHIN = {"fp32": 0.002, "int8": 0.05}  # of the highest probability; a value may round the other way in a batch


def key_of(setup: Setup) -> str:
    """What the answers of a peer with this setup are called in :class:`Served`."""
    name = twins.key(setup.backend, setup.precision)
    return twins.whole(name) if setup.whole else name


def check_peer(server: Server, ask: Ask, served: Served, setup: Setup) -> None:
    """Hold a peer's classes and probabilities against those of its variant of the twin.

    Raises:
        RuntimeError: they differ.

    """
    expected = served.answers[key_of(setup)].probabilities
    for index in range(IMAGES):
        answer = server.post(ask, index).json()
        found = (answer[0] if isinstance(answer, list) else answer)["classes"]
        complaint = differs(found, expected[index], WITHIN[setup.precision])
        if complaint:
            raise RuntimeError(f"{server.name}, image {index}: {complaint}")


def differs(found: list[dict[str, Any]], expected: NDArray[np.floating], within: float) -> str:
    """In words where the classes found differ from the expected probabilities [classes]; empty if they do not."""
    tolerance = within * float(expected.max())
    for entry in found:
        if abs(entry["probability"] - expected[entry["index"]]) > tolerance:
            return f"{entry['label']} has {entry['probability']} where {expected[entry['index']]:.6f} is right"
    least, shown = np.sort(expected)[-len(found)], [entry["index"] for entry in found]
    if len(set(shown)) != len(found) or (expected[shown] < least - tolerance).any():
        return f"classes {shown} are not the best"
    return ""
