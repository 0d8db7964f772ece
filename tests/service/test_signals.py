"""Signals to a real process, also as process 1 of a container: it ends while it loads, and reloads at SIGHUP."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from tests.service.engines import wait_for

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")
IN_CONTAINER = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]


def contained():
    """What starts a command as process 1 of its own namespace; nothing where none may be made."""
    for command in (IN_CONTAINER, ["unshare", *IN_CONTAINER[3:]]) if shutil.which("unshare") else ():
        if not subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
            return command
    return []


class Service:
    """A service in a process of its own; ``pid`` is the one that gets its signals."""

    def __init__(self, prefix, *flags):
        self.lines = []
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "service", "--port", "0", *map(str, flags)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"LCCL_COMPUTE_THREADS": "1"},
        )  # fmt: skip
        self._reader = threading.Thread(target=lambda: self.lines.extend(self.process.stdout), daemon=True)
        self._reader.start()
        self._contained = bool(prefix)

    @property
    def pid(self):
        if not self._contained:
            return self.process.pid
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0])

    def text(self):
        return "".join(self.lines)

    def address(self):
        wait_patiently(lambda: "running on http" in self.text())
        return re.search(r"running on (http://127.0.0.1:\d+)", self.text())[1]

    def close(self):
        with contextlib.suppress(OSError, IndexError):
            os.kill(self.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait(10)
        self._reader.join(5)
        self.process.stdout.close()


def wait_patiently(condition):
    for _ in range(12):
        with contextlib.suppress(AssertionError):
            return wait_for(condition)
    raise AssertionError("it did not happen")


@pytest.fixture
def run():
    started = []
    yield lambda *given: started.append(Service(*given)) or started[-1]
    for service in started:
        service.close()


@pytest.fixture
def endless(models_folder, tmp_path):
    """A folder of one model that is read for ever: its weights are a pipe into which nobody writes."""
    shutil.copytree(models_folder / "small", tmp_path / "small")
    weights = tmp_path / "small" / "model.safetensors"
    weights.unlink()
    os.mkfifo(weights)
    held = os.open(weights, os.O_RDWR)
    yield tmp_path
    os.close(held)


def loads(service):
    """Whether a service has a model's file open."""
    with contextlib.suppress(OSError, IndexError):
        return any("model.safetensors" in os.readlink(file) for file in Path(f"/proc/{service.pid}/fd").iterdir())
    return False


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="cannot see what a process has open")
@pytest.mark.parametrize("where", ["process 1", "process"])
def test_a_service_that_still_loads_ends_at_once(run, endless, where):
    prefix = contained() if where == "process 1" else []
    if where == "process 1" and not prefix:
        pytest.skip("namespaces of processes may not be made here, or unshare is missing")
    service = run(prefix, "--models", endless)
    wait_patiently(lambda: loads(service))
    os.kill(service.pid, signal.SIGHUP)
    os.kill(service.pid, signal.SIGTERM)
    assert service.process.wait(10) == 0
    wait_for(lambda: "ended by SIGTERM while it started" in service.text())
    assert "Traceback" not in service.text()


def test_sighup_reads_keys_and_models_again_and_sigterm_ends(run, models_folder, tmp_path, draw_image):
    """As process 1 where that can be: there a signal without a handler does nothing, and neither reloads nor ends."""
    folder, keys = tmp_path / "models", tmp_path / "keys.toml"
    shutil.copytree(models_folder / "small", folder / "small")

    def allow(key):
        keys.write_text(f'[keys.{key}]\nsha256 = "{hashlib.sha256(key.encode()).hexdigest()}"\n')
        keys.chmod(0o600)

    allow("old")
    service = run(contained(), "--models", folder, "--api-keys", keys)
    with httpx.Client(base_url=service.address(), verify=False, timeout=30) as client:

        def models(key):
            answer = client.get("/v1/models", headers={"X-API-Key": key})
            return [model["name"] for model in answer.json()["models"]] if answer.status_code == 200 else None

        assert models("old") == ["small"]
        allow("new")
        shutil.copytree(models_folder / "twin", folder / "twin")
        os.kill(service.pid, signal.SIGHUP)
        wait_patiently(lambda: models("new") == ["small", "twin"])
        assert models("old") is None
        headers = {"Content-Type": "image/png", "X-API-Key": "new"}
        assert client.post("/v1/models/twin/classify", content=draw_image(), headers=headers).status_code == 200
    os.kill(service.pid, signal.SIGTERM)
    assert service.process.wait(30) in {0, -signal.SIGTERM}
    assert "reloading: SIGHUP" in {json.loads(line)["message"] for line in service.lines if line.startswith("{")}
