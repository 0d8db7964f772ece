"""A served instance on a real socket, for the tests of the service."""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from service.__main__ import main
from service.app import create_app
from service.settings import Settings
from service.transport.server import Server, server_config

Serve = Callable[..., "Iterator[httpx.Client]"]


@contextmanager
def serve(**settings: object) -> Iterator[httpx.Client]:
    """Run a real uvicorn on a free port in a thread; ``client.app`` is the application behind it.

    ``client.stop()`` is what SIGTERM does, and ``client.thread`` ends with the server.
    """
    chosen = Settings(port=0, **({"allowed_hosts": "*"} | settings))  # requests on raw sockets have any Host
    app: FastAPI = create_app(chosen)
    server = Server(server_config(app, chosen), drain=app.state.drain)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("the server did not start")
        thread.join(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:  # without certificates, whose reading takes longer than most tests
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, verify=False) as client:
            client.app, client.thread = app, thread  # type: ignore[attr-defined]
            client.stop = lambda: setattr(server, "should_exit", True)  # type: ignore[attr-defined]
            yield client
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="session")
def small_folder(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``small`` alone: each further model takes a tenth of a second of every server's start."""
    folder = tmp_path_factory.mktemp("one")
    (folder / "small").symlink_to(models_folder / "small")
    return folder


@pytest.fixture(name="serve")
def _serve(small_folder: Path) -> Callable[..., object]:
    """Serve ``small`` with other settings: ``with serve(queue_limit=64) as client``."""
    return lambda **settings: serve(**({"models": small_folder} | settings))


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Start ``lccl-serve`` in this process, where that fails: ``start("--models", …)`` is what it says."""

    def started(*flags: str) -> str:
        monkeypatch.setattr("service.telemetry.logs.configure", lambda _: None)
        monkeypatch.setattr(sys, "argv", ["lccl-serve", "--port", "0", *flags])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 1
        return capsys.readouterr().err

    return started


@pytest.fixture(scope="session")
def early_client(early_folder: Path) -> Iterator[httpx.Client]:
    """The test model with early exits, on the reference engine; a busy machine changes none of its answers."""
    with serve(models=early_folder, engine="reference", max_images=16, brownout=False) as client:
        yield client


@pytest.fixture(scope="session")
def client(models_folder: Path) -> Iterator[httpx.Client]:
    """The test models served with small limits, shared by all tests; compilers that keep the interpreter from it for
    half a minute do not make it unhealthy."""
    limits = {"max_body_bytes": 1 << 20, "max_pixels": 1_000_000, "max_images": 8}
    with serve(models=models_folder, self_test_interval_s=600, **limits) as client:
        yield client


def digest(key):
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.fixture
def write(tmp_path):
    """Writes a key file that only its owner may write to."""

    def _write(text, mode=0o600):
        path = tmp_path / "keys.toml"
        path.write_text(text)
        path.chmod(mode)
        return path

    return _write


@pytest.fixture
def three(write):
    """A file with the keys ``one``, ``two`` and ``boss``, whose texts are their names."""
    return write(
        f'[keys.one]\nsha256 = "{digest("one")}"\n'
        f'[keys.two]\nsha256 = "{digest("two")}"\nrate = "2/minute"\n'
        f'[keys.boss]\nsha256 = "{digest("boss")}"\nadmin = true\n'
    )
