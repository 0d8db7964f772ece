"""The image's health check: asks the service of its container, whatever proxies the environment names."""

from __future__ import annotations

import http.server
import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from service.settings import Settings

DOCKERFILE = (Path(__file__).parents[2] / "Dockerfile").read_text()
COMMAND = json.loads(re.search(r"HEALTHCHECK [^\[]*CMD (\[.*?\])$", DOCKERFILE, re.MULTILINE | re.DOTALL)[1])
PROXY = dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"), "http://127.0.0.1:9")


def check(**environment):
    assert COMMAND[0] == "python"
    return subprocess.run(
        [sys.executable, *COMMAND[1:]], capture_output=True, text=True, timeout=60, check=False, env=PROXY | environment
    )


def test_a_ready_service_is_healthy_and_no_proxy_is_asked(client):
    done = check(LCCL_PORT=f"{client.base_url.port}\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert check(LCCL_PORT=str(client.base_url.port), LCCL_HOST="0.0.0.0").returncode == 0


def test_a_service_that_is_not_ready_is_not(serve):
    with serve() as client:
        client.app.state.batcher.close()
        done = check(LCCL_PORT=str(client.base_url.port))
    assert done.returncode == 1
    assert done.stderr.startswith("503 not ready: the server is shutting down")


def test_what_is_no_service_of_this_project_is_told_by_its_status():
    with http.server.HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.handle_request).start()
        done = check(LCCL_PORT=str(server.server_port))
    assert (done.returncode, done.stderr) == (1, "404 Not Found\n")


def test_nobody_there_is_a_sentence():
    done = check(LCCL_PORT="9")
    assert done.returncode == 1
    assert done.stderr.startswith("not reached: ConnectionRefusedError")


@pytest.mark.parametrize("port", ["tcp://10.0.0.1:8000", "", " "])
def test_a_port_that_is_none_is_the_settings_own(monkeypatch, port):
    from service import health_check

    asked = []
    monkeypatch.setattr(health_check.http.client, "HTTPConnection", lambda *to, **_: asked.append(to) or Unreachable())
    monkeypatch.setenv("LCCL_PORT", port)
    monkeypatch.setenv("LCCL_HOST", "::")
    with pytest.raises(SystemExit):
        health_check.main()
    assert asked == [("::1", Settings.model_fields["port"].default)]


class Other(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(404)
        self.end_headers()

    def log_message(self, *_):
        pass


class Unreachable:
    def request(self, *_):
        raise OSError("no")

    def close(self):
        pass
