"""Answers that are given before the body was read: every client gets them, however it sends and closes."""

from __future__ import annotations

import asyncio
import http.client
import importlib.util
import io
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

import httpx
import pytest

from tests.service.conftest import serve
from tests.service.engines import Gated, wait_for

LARGE = bytes(12 << 20)  # more than all buffers between client and server hold
KEY = {"X-API-Key": "one"}
CLOSE = {"Connection": "close"}
CASES = {  # path, headers, status
    "too large": ("/v1/classify", KEY | {"Content-Type": "image/png"}, 413),
    "no key": ("/v1/classify", {"Content-Type": "image/png"}, 401),
    "no such path": ("/nothing", KEY, 404),
    "no such model": ("/v1/models/nobody/classify", KEY, 404),
    "another method": ("/v1/models", KEY, 405),
    "form": ("/v1/classify", KEY | {"Content-Type": "multipart/form-data; boundary=x"}, 413),
}


@pytest.fixture(scope="module")
def address(small_folder):
    with serve(models=small_folder, api_key="one", max_body_bytes=1 << 20, header_timeout_s=30.0) as client:
        yield str(client.base_url).rstrip("/")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("large") / "body"
    path.write_bytes(LARGE)
    return path


def with_urllib(url, headers, _):
    try:
        with urllib.request.build_opener().open(urllib.request.Request(url, LARGE, headers), timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def with_http_client(url, headers, _):
    parts = httpx.URL(url)
    connection = http.client.HTTPConnection(parts.host, parts.port, timeout=30)
    try:
        connection.request("POST", parts.path, LARGE, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def with_httpx(url, headers, _):
    with httpx.Client(verify=False, timeout=30) as client:
        answer = client.post(url, content=LARGE, headers=headers)
        return answer.status_code, answer.content


def with_requests(url, headers, _):
    import requests

    with requests.Session() as session:
        answer = session.post(url, data=LARGE, headers=headers, timeout=30)
        return answer.status_code, answer.content


def with_aiohttp(url, headers, _):
    import aiohttp

    async def ask():
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, data=io.BytesIO(LARGE), headers=headers) as answer,
        ):
            told = answer.status, await answer.read()
        await asyncio.sleep(0.1)  # its sockets close after the session
        return told

    return asyncio.run(ask())


def with_curl(url, headers, file, *more):
    given = [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]
    command = ["curl", "-sS", "-m", "30", "-w", "\n%{http_code}", "--data-binary", f"@{file}", *given, *more, url]
    done = subprocess.run(command, capture_output=True, check=True)
    body, _, status = done.stdout.rpartition(b"\n")
    return int(status), body


def with_curl_1_0(url, headers, file):
    return with_curl(url, headers, file, "--http1.0")


def with_curl_at_once(url, headers, file):
    return with_curl(url, headers, file, "-H", "Expect:")


CLIENTS = [
    with_urllib, with_http_client, with_httpx,
    *(pytest.param(client, marks=pytest.mark.skipif(not importlib.util.find_spec(name), reason=f"{name} is missing"))
      for client, name in ((with_requests, "requests"), (with_aiohttp, "aiohttp"))),
    *(pytest.param(client, marks=pytest.mark.skipif(not shutil.which("curl"), reason="curl is missing"))
      for client in (with_curl, with_curl_1_0, with_curl_at_once)),
]  # fmt: skip


@pytest.mark.parametrize("ask", CLIENTS)
@pytest.mark.parametrize("more", [{}, CLOSE], ids=["keep-alive", "close"])
def test_every_client_gets_the_answer_to_what_is_refused_early(address, file, ask, more):
    for name, (path, headers, status) in CASES.items():
        told, body = ask(address + path, headers | more, file)
        assert told == status, name
        assert json.loads(body)["status"] == status, name


def answered(connection):
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return received


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("more", ["", "Connection: close\r\n"])
def test_the_answer_is_there_after_all_was_sent_and_says_that_the_connection_ends(address, version, more):
    url = httpx.URL(address)
    with socket.create_connection((url.host, url.port), timeout=30) as connection:
        head = f"POST /nothing HTTP/{version}\r\nHost: x\r\nContent-Length: {len(LARGE)}\r\n{more}\r\n"
        connection.sendall(head.encode())
        connection.sendall(LARGE)
        answer = answered(connection)
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"connection: close" in answer.partition(b"\r\n\r\n")[0]


def test_a_short_body_that_was_answered_early_does_not_cost_the_connection(address):
    url = httpx.URL(address)
    with socket.create_connection((url.host, url.port), timeout=30) as connection:
        connection.sendall(b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
        assert b" 404 " in connection.recv(65536)
        connection.sendall(b"abcdeGET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answered(connection).startswith(b"HTTP/1.1 200 ")


def test_a_long_body_that_is_taken_whole_does_not_cost_the_connection(address):
    url = httpx.URL(address)
    with socket.create_connection((url.host, url.port), timeout=30) as connection:
        head = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nX-API-Key: one\r\nContent-Type: image/png\r\n"
        connection.sendall(head + b"Content-Length: 100000\r\n\r\n" + bytes(50_000))
        time.sleep(0.1)
        connection.sendall(bytes(50_000))
        refused = connection.recv(65536)
        assert refused.startswith(b"HTTP/1.1 415 ")
        assert b"connection: close" not in refused
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"HTTP/1.1 200 " in answered(connection)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_client_that_ends_its_sending_gets_its_answer(serve, draw_image, version):
    with serve() as client:
        model, image = client.app.state.registry.find("small"), draw_image()
        engine = model.engine = Gated(model.engine)
        with socket.create_connection((client.base_url.host, client.base_url.port), timeout=30) as connection:
            head = f"POST /v1/classify HTTP/{version}\r\nContent-Type: image/png\r\n"
            connection.sendall(f"{head}Content-Length: {len(image)}\r\n\r\n".encode() + image)
            connection.shutdown(socket.SHUT_WR)
            wait_for(lambda: engine.entered)
            time.sleep(0.3)
            engine.go.set()
            answer = answered(connection)
    interim, _, rest = answer.partition(b"HTTP/1.1 200 ")
    assert interim == (b"HTTP/1.1 100 Continue\r\n\r\n" if version == "1.1" else b"")
    assert b"connection: close" in rest
    assert b"predictions" in rest


def test_the_interim_answer_is_nothing_to_a_client_of_http(serve, draw_image):
    with serve() as client:
        model = client.app.state.registry.find("small")
        engine = model.engine = Gated(model.engine)
        connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port, timeout=30)
        connection.request("POST", "/v1/classify", draw_image(), {"Content-Type": "image/png"})
        connection.sock.shutdown(socket.SHUT_WR)
        wait_for(lambda: engine.entered)
        time.sleep(0.1)
        engine.go.set()
        answer = connection.getresponse()
        assert (answer.status, "predictions" in json.load(answer)) == (200, True)
        connection.close()


def test_pipelined_requests_before_the_end_of_sending_are_all_answered(address):
    url = httpx.URL(address)
    with socket.create_connection((url.host, url.port), timeout=30) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-API-Key: one\r\n\r\n" * 3)
        connection.shutdown(socket.SHUT_WR)
        assert answered(connection).count(b"HTTP/1.1 200 ") == 3


def test_a_body_that_is_cut_by_the_end_of_sending_is_told(address):
    url = httpx.URL(address)
    with socket.create_connection((url.host, url.port), timeout=30) as connection:
        connection.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nX-API-Key: one\r\nContent-Length: 9\r\n\r\nabc")
        connection.shutdown(socket.SHUT_WR)
        answer = answered(connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"ended before it was whole" in answer


def test_a_client_of_http_1_0_that_leaves_is_computed_for_and_forgotten(serve, draw_image):
    """Nothing may be sent to it that would show whether it is there."""
    with serve() as client:
        with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
            image = draw_image()
            head = f"POST /v1/classify HTTP/1.0\r\nContent-Type: image/png\r\nContent-Length: {len(image)}\r\n\r\n"
            connection.sendall(head.encode() + image)
        registry = client.app.state.metrics.registry
        count = {"model": "small", "route": "/v1/classify", "code": "200"}
        wait_for(lambda: registry.get_sample_value("lccl_request_duration_seconds_count", count) == 1)
