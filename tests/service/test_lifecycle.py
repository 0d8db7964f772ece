"""The process: serves from the command line, logs JSON, and drains when told to stop."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import httpx
import pytest

PNG = {"Content-Type": "image/png"}


@pytest.fixture
def process(models_folder):
    """A real ``lccl-serve`` in its own process, on a free port, which its log names."""
    started = subprocess.Popen(
        [sys.executable, "-m", "service", "--models", str(models_folder), "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"LCCL_COMPUTE_THREADS": "1"},
    )  # fmt: skip
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(started.stdout), daemon=True)
    reader.start()
    for _ in range(600):
        found = re.search(r"running on (http://127.0.0.1:\d+)", "".join(lines))
        if found:
            break
        time.sleep(0.1)
    base = found[1]
    assert httpx.get(f"{base}/health/ready").status_code == 200
    yield started, base, lines
    started.kill()
    started.wait(10)
    reader.join(5)
    started.stdout.close()


def test_sigterm_finishes_what_was_accepted_and_the_log_is_json(process, draw_image):
    started, base, lines = process
    httpx.post(f"{base}/v1/classify", content=draw_image(), headers=PNG | {"X-Request-ID": "find-me"})
    answers = []

    def send():
        answers.append(httpx.post(f"{base}/v1/classify", files=[("file", draw_image())] * 60, timeout=30, verify=False))

    def all_are_under_way():
        answers.clear()
        for sender in senders:
            sender.start()
        while any(sender.is_alive() for sender in senders):
            if "lccl_inflight_requests 4.0" in httpx.get(f"{base}/metrics", verify=False).text:
                return True
        return False

    for _ in range(20):  # a busy machine may answer some before others are sent
        senders = [threading.Thread(target=send) for _ in range(3)]
        if all_are_under_way():
            break
    started.send_signal(signal.SIGTERM)
    for sender in senders:
        sender.join(30)
    assert [answer.status_code for answer in answers] == [200] * 3
    assert all(len(answer.json()["predictions"]) == 60 for answer in answers)
    assert started.wait(30) in (0, -signal.SIGTERM)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{base}/health/live")
    found = [entry for entry in map(json.loads, lines) if entry.get("request_id") == "find-me"]
    assert found
    assert found[0]["status"] == 200
    assert found[0]["route"] == "/v1/classify"
    assert found[0]["model"] == "small"
