"""Admission and the acceptor: under overload work is refused at once, all else passes, nobody waits in the kernel."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import json
import logging
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from service.auth.rate_limits import parse_rate
from service.transport.acceptor import MOST_AT_ONCE, Acceptor
from service.transport.admission import AdmissionControl, requests_in_time
from tests.service.engines import Gated, Slow, wait_for

PNG = {"Content-Type": "image/png"}
PAGE = "https://app.example.com"


@contextmanager
def filled(client, request):
    """A slow server with as many requests under way as it lets in; it stands still."""
    with ThreadPoolExecutor(32) as pool:
        state = client.app.state
        model = state.registry.find("small")
        model.engine = Gated(model.engine)
        state.batcher.drained(model.key, 1, 1.0)
        under_way = [pool.submit(client.post, "/v1/classify", **request) for _ in range(32)]
        wait_for(lambda: state.metrics.registry.get_sample_value("lccl_inflight_requests") == 32)
        yield client, model.engine, under_way
        model.engine.go.set()


@pytest.fixture
def full(serve, models_folder, draw_image):
    with (
        serve(models=models_folder, queue_limit=64, cors_origins=PAGE) as client,
        filled(client, {"content": draw_image(), "headers": PNG}) as all_of_it,
    ):
        yield all_of_it


@pytest.fixture
def full_behind_proxy(serve, draw_image):
    headers = PNG | {"X-Forwarded-For": "192.0.2.1"}
    with (
        serve(queue_limit=64, trusted_proxies="127.0.0.1") as client,
        filled(client, {"content": draw_image(), "headers": headers}) as (client, _, _),
    ):
        yield client


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
    assert 'lccl_rejected_total{model="small",reason="overloaded"} 3.0' in client.get("/metrics").text
    engine.go.set()
    assert [answer.result().status_code for answer in under_way] == [200] * 32
    assert client.post("/v1/classify", content=draw_image(), headers=PNG).status_code == 200


def test_its_refusal_is_like_every_other(full, draw_image, caplog):
    client, _, _ = full
    send = {"content": draw_image(), "headers": PNG | {"X-Request-ID": "find-me", "Origin": PAGE}}
    with caplog.at_level(logging.INFO):
        early = client.post("/v1/models/small/classify", **send)
    state = client.app.state
    state.access._rates.default = parse_rate("1/day")
    late = [client.get("/v1/models", headers={"Origin": PAGE}) for _ in range(2)][1]
    assert (early.status_code, late.status_code) == (429, 429)
    assert set(early.json()) == set(late.json())
    assert set(early.headers) == set(late.headers)
    assert early.headers["Access-Control-Allow-Origin"] == PAGE
    assert early.json()["request_id"] == early.headers["X-Request-ID"] == "find-me"
    (line,) = [record for record in caplog.records if getattr(record, "request_id", "") == "find-me"]
    assert (line.status, line.route, line.model) == (429, "/v1/models/{model}/classify", "small")
    count = {"model": "small", "route": "/v1/models/{model}/classify", "code": "429"}
    assert state.metrics.registry.get_sample_value("lccl_request_duration_seconds_count", count) == 1


@pytest.mark.parametrize("more", [{}, {"Connection": "close"}], ids=["keep-alive", "close"])
def test_its_refusal_reaches_a_client_that_sends_much(full, more):
    client, _, _ = full
    connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port, timeout=30)
    connection.request("POST", "/v1/classify", bytes(12 << 20), PNG | more)
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("Connection")) == (429, "close")
    assert json.load(answer)["code"] == "overloaded"
    connection.close()


def test_another_model_is_not_refused_with_the_one_that_is_full(full, draw_image):
    client, _, _ = full
    assert client.post("/v1/models/small/classify", content=draw_image(), headers=PNG).status_code == 429
    with pytest.raises(httpx.ReadTimeout):  # let in, and waiting for the device
        client.post("/v1/models/twin/classify", content=draw_image(), headers=PNG, timeout=0.5)
    assert client.post("/v1/models/nobody/classify", content=draw_image(), headers=PNG).status_code == 404


KEYS = "".join(
    f'[keys.{name}]\nsha256 = "{hashlib.sha256(name.encode()).hexdigest()}"\n' for name in ("much", "little")
)


async def ask_without_end(host, port, head, image, statuses):
    """Ask again and again on one connection; every answer has a length."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        while True:
            writer.write(head + image)
            told = await reader.readuntil(b"\r\n\r\n")
            statuses[told[9:12]] += 1
            await reader.readexactly(int(told.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
    finally:
        writer.close()


def test_a_client_that_asks_little_is_answered_beside_two_hundred_connections_of_another(serve, draw_image, tmp_path):
    (tmp_path / "keys.toml").write_text(KEYS)
    (tmp_path / "keys.toml").chmod(0o600)
    image, statuses = draw_image(size=(32, 32)), Counter()
    head = b"POST /v1/classify HTTP/1.1\r\nX-API-Key: much\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"
    with serve(api_keys=tmp_path / "keys.toml", queue_limit=64) as client:
        model = client.app.state.registry.find("small")
        model.engine = Slow(model.engine, 0.005)

        async def ask_much():
            address = client.base_url.host, client.base_url.port
            asking = [ask_without_end(*address, head % len(image), image, statuses) for _ in range(200)]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(60):
                    await asyncio.gather(*asking, until_done())

        async def until_done():
            while not done.is_set():
                await asyncio.sleep(0.05)
            raise TimeoutError

        done = threading.Event()
        much = threading.Thread(target=asyncio.run, args=(ask_much(),))
        much.start()
        try:
            wait_for(lambda: statuses[b"429"] and statuses[b"200"])
            send = {"content": image, "headers": PNG | {"X-API-Key": "little"}}
            assert [client.post("/v1/classify", **send).status_code for _ in range(15)] == [200] * 15
        finally:
            done.set()
            much.join(30)
    assert set(statuses) == {b"200", b"429"}


class Counted:
    """A request for a model, of a client."""

    def __init__(self, client, model="a"):
        self.scope = {"method": "POST", "path": "/v1/classify", "model": model, "client": client}


@pytest.fixture
def control():
    return AdmissionControl(lambda scope: scope["model"], lambda scope: scope["client"], lambda _: 10, least=10)


def enter(control, *requests):
    for request in requests:
        control.enter(request)


def test_a_client_with_its_share_is_refused_and_one_with_less_is_not(control):
    held = [Counted("much") for _ in range(10)]
    enter(control, *held)
    assert control.refuses(Counted("much").scope)
    assert not control.refuses(Counted("little").scope)
    assert control.refuses(Counted(None).scope)
    assert not control.refuses(Counted("much", "b").scope)
    enter(control, *(Counted("little") for _ in range(4)))
    assert not control.refuses(Counted("little").scope)  # the share of two is five
    enter(control, Counted("little"))
    assert control.refuses(Counted("little").scope)
    for request in held:
        control.leave(request)
    assert not control.refuses(Counted("much").scope)


def test_what_is_gone_is_forgotten(control):
    requests = [Counted(str(number), "ab"[number % 2]) for number in range(40)]
    enter(control, *requests)
    control.refuses(Counted("x").scope)
    for request in requests:
        control.leave(request)
        control.leave(request)
    control.leave(None)
    assert (control._new, control._known, control._models) == (set(), {}, {})


def test_descriptions_and_probes_are_not_counted(control):
    for method, path in (("GET", "/v1/models"), ("POST", "/v2/repository/index"), ("GET", "/metrics")):
        request = Counted("a")
        request.scope |= {"method": method, "path": path}
        enter(control, *[request] * 20)
        assert not control.refuses(request.scope)
    assert not control._new


def test_callers_behind_a_trusted_proxy_are_told_apart_before_they_are_admitted(full_behind_proxy, draw_image):
    client = full_behind_proxy
    send = {"content": draw_image(), "timeout": 1.0}
    assert client.post("/v1/classify", headers=PNG | {"X-Forwarded-For": "192.0.2.1"}, **send).status_code == 429
    with pytest.raises(httpx.ReadTimeout):  # let in
        client.post("/v1/classify", headers=PNG | {"X-Forwarded-For": "192.0.2.2"}, **send)


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


def test_all_that_has_come_is_taken_before_the_acceptor_closes():
    made = []

    async def connect():
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
            acceptor = Acceptor([listening], lambda: made.append(None) or asyncio.Protocol())
            clients = [socket.create_connection(listening.getsockname()) for _ in range(MOST_AT_ONCE + 5)]
            await acceptor.close()
            for client in clients:
                client.close()

    asyncio.run(connect())
    assert len(made) == MOST_AT_ONCE + 5
