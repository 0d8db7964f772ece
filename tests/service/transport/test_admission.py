"""Admission and the acceptor: under overload work is refused at once, all else passes, nobody waits in the kernel."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.transport.admission import requests_in_time
from tests.service.engines import Gated, wait_for

PNG = {"Content-Type": "image/png"}


@pytest.fixture
def full(serve, draw_image):
    """A slow server with as many requests under way as it lets in; it stands still."""
    with serve(queue_limit=64) as client, ThreadPoolExecutor(32) as pool:
        state = client.app.state
        model = state.registry.find("small")
        model.engine = Gated(model.engine)
        state.batcher.drained(model.key, 1, 1.0)
        under_way = [pool.submit(client.post, "/v1/classify", content=draw_image(), headers=PNG) for _ in range(32)]
        wait_for(lambda: state.metrics.registry.get_sample_value("lccl_inflight_requests") == 32)
        yield client, model.engine, under_way
        model.engine.go.set()


def test_work_beyond_the_limit_is_refused_at_once_and_the_rest_passes(full, draw_image):
    client, engine, under_way = full
    started = time.monotonic()
    for path in ("/v1/classify", "/v1/models/small/classify", "/v2/models/small/infer"):
        answer = client.post(path, content=draw_image(), headers=PNG)
        assert answer.status_code == 429
        assert answer.json()["code"] == "overloaded"
        assert int(answer.headers["Retry-After"]) >= 1
        form = "json" if path.startswith("/v2") else "problem+json"
        assert answer.headers["content-type"] == f"application/{form}"
        assert ("error" in answer.json()) == (form == "json")
    for path in ("/health/live", "/health/ready", "/metrics", "/v1/models", "/v2/models/small"):
        assert client.get(path).status_code == 200
    assert time.monotonic() - started < 10
    assert 'lccl_rejected_total{model="",reason="overloaded"} 3.0' in client.get("/metrics").text
    engine.go.set()
    assert [answer.result().status_code for answer in under_way] == [200] * 32
    assert client.post("/v1/classify", content=draw_image(), headers=PNG).status_code == 200


def test_uploads_that_are_not_whole_shut_nobody_out(serve, draw_image):
    with serve(queue_limit=64) as client:
        client.app.state.batcher.drained("any", 1, 1.0)
        host, port = client.base_url.host, client.base_url.port
        slow = [socket.create_connection((host, port)) for _ in range(40)]
        for connection in slow:
            connection.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\nabc")
        registry = client.app.state.metrics.registry
        wait_for(lambda: registry.get_sample_value("lccl_inflight_requests") == 40)
        assert client.post("/v1/classify", content=draw_image(), headers=PNG).status_code == 200
        for connection in slow:
            connection.close()


def test_those_who_leave_make_room(full, draw_image):
    client, engine, _ = full
    for _ in range(20):
        with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
            connection.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
    engine.go.set()
    wait_for(lambda: client.post("/v1/classify", content=draw_image(), headers=PNG).status_code == 200)


@pytest.mark.parametrize(
    ("limit", "seconds", "rate", "most"),
    [(256, 10, 0, 512), (256, 10, 1000, 512), (256, 0.25, 1000, 84), (256, 0.1, 20, 32)],
)
def test_no_more_are_let_in_than_leave_in_time(limit, seconds, rate, most):
    assert requests_in_time(limit, seconds, rate) == most


def test_many_connections_at_once_are_all_answered(serve):
    with serve() as client:
        ready = threading.Barrier(200)

        def ask(_):
            ready.wait(20)
            with socket.create_connection((client.base_url.host, client.base_url.port), timeout=30) as connection:
                connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
                return connection.recv(12)

        with ThreadPoolExecutor(200) as pool:
            assert set(pool.map(ask, range(200))) == {b"HTTP/1.1 200"}
