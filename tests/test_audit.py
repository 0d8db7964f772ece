"""The audit of dependencies: skipped aloud without advisories, failing with what pip-audit finds."""

from __future__ import annotations

import http.server
import importlib.util
import subprocess
import sys
import threading
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "deploy" / "audit.py"


@pytest.fixture
def audit():
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def advisories():
    """Serves an answer to every question: ``advisories(b"{}")`` gives the address."""
    servers = []

    def start(answer):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("answer", [None, b"{}", b"no json", b'{"vulns": []}'])
def test_without_advisories_it_says_so_and_passes(advisories, answer):
    url = "http://127.0.0.1:1" if answer is None else advisories(answer)
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False, env={"OSV_URL": url})
    assert done.returncode == 0
    assert done.stdout.startswith(f"audit: SKIPPED, dependencies were not looked up: {url}: ")


@pytest.mark.parametrize("status", [0, 1])
def test_with_advisories_pip_audit_decides(audit, advisories, monkeypatch, tmp_path, status):
    tool, seen = tmp_path / "pip-audit", tmp_path / "seen"
    tool.write_text(f'#!/bin/sh\necho "$@" > {seen}\nexit {status}\n')
    tool.chmod(0o755)
    url = advisories(b'{"vulns": [{"id": "X"}]}')
    monkeypatch.setattr(audit, "OSV_URL", url)
    monkeypatch.setattr(audit, "tool", lambda: str(tool))
    monkeypatch.setattr(sys, "argv", ["audit.py", "--ignore-vuln", "Y"])
    assert audit.main() == status
    assert f"--osv-url {url} --path" in seen.read_text()
    assert seen.read_text().endswith("--ignore-vuln Y\n")
