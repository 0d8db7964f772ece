"""Several processes on one port are one service: its metrics, models, rates and end; what becomes of one that dies."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import pytest

from service.api.grpc.messages import ServerLiveRequest, ServerLiveResponse
from tests.service.conftest import digest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
PNG = {"Content-Type": "image/png"}
BOSS = {"X-API-Key": "boss"}
PATIENCE_S = 60.0


class Running:
    """``lccl-serve`` in two processes."""

    def __init__(self, models, *flags):
        self.log = []
        command = [sys.executable, "-m", "service", "--port", "0", "--models", str(models), *map(str, flags)]
        environment = os.environ | {"LCCL_PROCESSES": "2", "LCCL_ENGINE": "cpu"}
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._reader = threading.Thread(target=lambda: self.log.extend(self.process.stdout), daemon=True)
        self._reader.start()

    def text(self):
        return "".join(self.log)

    def start(self):
        self.wait(lambda: "running on http" in self.text() or self.process.poll() is not None)
        self.base = re.search(r"running on (http://\S+)", self.text())[1]
        return self

    def wait(self, condition):
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, self.text()
            time.sleep(0.02)

    def workers(self):
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return sorted(map(int, children))

    def ask(self, method="POST", path="/v1/classify", **given):
        """Ask on a connection of its own, which goes to the worker that has the fewest."""
        return httpx.request(method, self.base + path, timeout=30, **given)

    def metric(self, name):
        found = re.findall(rf"^{re.escape(name)}(?:\{{.*\}})? (\S+)$", self.ask("GET", "/metrics").text, re.MULTILINE)
        return sum(map(float, found))

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(20)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def shared(small_folder, tmp_path_factory):
    """One service for the tests that leave it as it was, with a folder of its own and keys."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(small_folder / "small", folder / "small")
    shutil.copytree(small_folder / "small", folder / "second")
    keys = tmp_path_factory.mktemp("keys") / "keys.toml"
    keys.write_text(
        f'[keys.one]\nsha256 = "{digest("one")}"\n[keys.two]\nsha256 = "{digest("two")}"\nrate = "4/hour"\n'
        f'[keys.boss]\nsha256 = "{digest("boss")}"\nadmin = true\n'
    )
    keys.chmod(0o600)
    running = Running(folder, "--api-keys", keys, "--grpc-port", 0)
    yield running.start()
    running.close()


@pytest.fixture(scope="module")
def mended(small_folder):
    """One service for the tests whose harm it mends by itself."""
    running = Running(small_folder)
    yield running.start()
    running.close()


@pytest.fixture
def own(small_folder):
    """Starts a service that a test may break."""
    started = []

    def start(*flags, models=small_folder, fails=False):
        started.append(Running(models, *flags))
        return started[-1] if fails else started[-1].start()

    yield start
    for running in started:
        running.close()


def test_connections_are_dealt_evenly_and_metrics_add_up(shared, draw_image):
    before = shared.metric("lccl_images_total")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(httpx.Client(base_url=shared.base, headers=BOSS | PNG)) for _ in range(6)]
        for client in clients * 2:
            assert client.post("/v1/classify", content=draw_image()).status_code == 200
    assert shared.metric("lccl_images_total") == before + 12
    assert shared.metric("lccl_processes") == 2
    shared.wait(lambda: shared.text().count("POST /v1/classify 200") >= 12)
    lines = [json.loads(line) for line in shared.text().splitlines() if "POST /v1/classify 200" in line]
    assert [line["process"] for line in lines].count(1) == len(lines) / 2


def test_models_are_unloaded_and_loaded_everywhere(shared, draw_image):
    def statuses():
        return {
            shared.ask(path="/v1/models/second/classify", content=draw_image(), headers=BOSS | PNG).status_code
            for _ in range(4)
        }

    assert statuses() == {200}
    assert shared.ask(path="/v2/repository/models/second/unload", headers=BOSS).status_code == 200
    assert statuses() == {404}
    assert shared.ask(path="/v2/repository/models/second/unload", headers=BOSS).status_code == 404
    worker = shared.workers()[0]
    os.kill(worker, signal.SIGKILL)
    shared.wait(lambda: worker not in shared.workers() and shared.metric("lccl_processes") == 2)
    assert statuses() == {404}  # whoever starts later serves what the others do
    assert shared.ask(path="/v2/repository/models/second/load", headers=BOSS).status_code == 200
    assert statuses() == {200}
    unknown = shared.ask(path="/v2/repository/models/nobody/load", headers=BOSS)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_model")


def test_rates_hold_for_all_processes(shared, draw_image):
    given = {"content": draw_image(), "headers": PNG | {"X-API-Key": "two"}}
    statuses = [shared.ask(**given).status_code for _ in range(6)]
    assert statuses == [200] * 4 + [429] * 2


def test_grpc_is_answered_on_one_port(shared):
    port = int(re.search(r"gRPC running on 127.0.0.1:(\d+)", shared.text())[1])
    for number in range(8):
        options = [("grpc.use_local_subchannel_pool", 1), ("lccl.number", number)]
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            live = channel.unary_unary(
                "/inference.GRPCInferenceService/ServerLive",
                ServerLiveRequest.SerializeToString,
                ServerLiveResponse.FromString,
            )
            assert live(ServerLiveRequest(), timeout=20).live


def test_a_process_that_dies_costs_its_own_requests_and_no_count(mended, draw_image):
    running, died = mended, mended.metric("lccl_processes_died_total")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(httpx.Client(base_url=running.base)) for _ in range(6)]
        for client in clients:
            assert client.post("/v1/classify", content=draw_image(), headers=PNG).status_code == 200
        counted = running.metric("lccl_images_total")
        before = running.workers()
        os.kill(before[0], signal.SIGKILL)
        outcomes = []
        for client in clients:
            try:
                outcomes.append(client.post("/v1/classify", content=draw_image(), headers=PNG).status_code)
            except httpx.TransportError:
                outcomes.append(None)
        assert set(outcomes) <= {200, None}  # those of the process that died have to connect anew, which httpx may do
        again = [client.post("/v1/classify", content=draw_image(), headers=PNG).status_code for client in clients]
        assert again == [200] * 6
    assert running.metric("lccl_images_total") >= counted + 6 + outcomes.count(200)
    running.wait(lambda: running.metric("lccl_processes") == 2)
    assert running.metric("lccl_processes_died_total") == died + 1
    assert len(set(running.workers()) - set(before)) == 1
    assert running.ask("GET", "/health/ready").status_code == 200


def test_a_process_that_hangs_is_noticed(mended):
    running = mended
    running.wait(lambda: running.metric("lccl_processes") == 2)
    stopped = running.workers()[0]
    os.kill(stopped, signal.SIGSTOP)
    answers = []
    while not answers:  # one of two connections is with the process that hangs
        with contextlib.suppress(httpx.TimeoutException):
            answers.append(httpx.get(f"{running.base}/health/live", timeout=10).status_code)
    os.kill(stopped, signal.SIGCONT)
    assert answers == [503]
    running.wait(lambda: running.ask("GET", "/health/live").status_code == 200)


def test_sigterm_lets_all_finish_and_ends(own, draw_image):
    running = own("--drain-timeout-s", 20)
    form = [("file", draw_image(seed=seed)) for seed in range(32)]
    with ThreadPoolExecutor(8) as pool, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(httpx.Client(base_url=running.base, timeout=60)) for _ in range(8)]
        assert {client.get("/health/live").status_code for client in clients} == {200}
        asked = [pool.submit(client.post, "/v1/classify", files=form) for client in clients]
        running.wait(lambda: sum(one.done() for one in asked) + running.metric("lccl_inflight_requests") > len(asked))
        running.process.send_signal(signal.SIGTERM)
        assert {one.result().status_code for one in asked} <= {200, 429}
    assert running.process.wait(30) == 0
    assert "Traceback" not in running.text()


def test_a_process_that_is_told_to_end_loses_nothing(mended, draw_image):
    running = mended
    before, counted = running.workers(), running.metric("lccl_images_total")
    with ThreadPoolExecutor(4) as pool:
        ending = pool.submit(lambda: time.sleep(0.3) or os.kill(before[0], signal.SIGTERM))
        asked = [pool.submit(running.ask, content=draw_image(), headers=PNG) for _ in range(150)]
        assert [one.result().status_code for one in asked] == [200] * 150
        ending.result()
    running.wait(lambda: before[0] not in running.workers() and running.metric("lccl_processes") == 2)
    assert running.metric("lccl_images_total") >= counted + 150


def test_without_its_supervisor_no_process_stays(own):
    running = own()
    workers = running.workers()
    running.process.kill()
    running.process.wait()
    running.wait(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))


def test_what_keeps_a_process_from_starting_is_said_once(own, small_folder, tmp_path):
    shutil.copytree(small_folder / "small", tmp_path / "small")
    weights = tmp_path / "small" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    running = own(models=tmp_path, fails=True)
    assert running.process.wait(PATIENCE_S) == 1
    running.wait(lambda: "lccl-serve: " in running.text())
    assert running.text().count("lccl-serve: ") == 1
    assert "model.safetensors" in running.text()
    assert "Traceback" not in running.text()
