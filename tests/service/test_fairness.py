"""A greedy client and a modest one: whatever the greedy one sends within the limits, the modest one is answered."""

from __future__ import annotations

import io
import socket
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from PIL import Image

from benchmarks.faults.fairness import Greed, greedy_client
from tests.lccl.decoding.corpus import chunk
from tests.service.engines import Slow, wait_for

PNG = {"Content-Type": "image/png"}
MODEST = 15  # requests


def huge_png(side):
    """A grey PNG of one colour that is made in no time and takes as long to decode as any of its size."""
    header = chunk(b"IHDR", side.to_bytes(4, "big") * 2 + b"\x08\0\0\0\0")
    data = chunk(b"IDAT", zlib.compress(bytes((1 + side) * side), 1))
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


def lying_gif(side):
    """A GIF whose frame is far larger than the screen in its header."""
    out = io.BytesIO()
    Image.new("P", (side, side)).save(out, "GIF")
    content = bytearray(out.getvalue())
    content[6:10] = (1).to_bytes(2, "little") * 2
    return bytes(content)


@contextmanager
def client_at(base, address):
    """A client that connects from an address of its own, by which fairness knows it."""
    with httpx.Client(
        base_url=base, transport=httpx.HTTPTransport(local_address=address, verify=False), timeout=30
    ) as one:
        yield one


def files(images):
    return [("file", image) for image in images]


@pytest.fixture(scope="module")
def huge():
    return huge_png(5000)


def test_a_modest_client_is_answered_beside_hundreds_of_connections(serve, draw_image):
    with serve(self_test_interval_s=600) as client:
        model = client.app.state.registry.find("small")
        model.engine = Slow(model.engine, 0.002)
        greed = Greed(300, "/v1/classify", PNG, draw_image())
        with greedy_client(str(client.base_url), greed) as counts, client_at(client.base_url, "127.0.0.3") as modest:
            answers = [modest.post("/v1/classify", content=draw_image(), headers=PNG) for _ in range(MODEST)]
    assert [answer.status_code for answer in answers] == [200] * MODEST
    assert set(counts.answered) <= {"200", "429", "504"}
    assert counts.sent >= 300


@pytest.mark.parametrize(("kind", "senders"), [("large images", 4), ("many images", 8)])
def test_a_modest_client_is_answered_beside_a_greedy_one(serve, draw_image, huge, kind, senders):
    small = draw_image()
    asked = {
        "large images": {"files": files([huge] * 8)},
        "many images": {"files": files([small] * 64)},
    }[kind]
    stop, told = threading.Event(), []

    def hog(base):
        with client_at(base, "127.0.0.2") as greedy:
            while not stop.is_set():
                told.append(greedy.post("/v1/classify", **asked).status_code)

    with serve(self_test_interval_s=600, request_timeout_s=6) as client, ThreadPoolExecutor(senders) as pool:
        model = client.app.state.registry.find("small")
        model.engine = Slow(model.engine, 0.002)
        hogs = [pool.submit(hog, client.base_url) for _ in range(senders)]
        try:
            with client_at(client.base_url, "127.0.0.3") as modest:
                answers = [modest.post("/v1/classify", content=small, headers=PNG) for _ in range(MODEST)]
        finally:
            stop.set()
        for one in hogs:
            one.result()
    assert [answer.status_code for answer in answers] == [200] * MODEST
    assert set(told) <= {200, 429, 504}


def test_a_requests_pixels_are_bounded(serve, huge, draw_image):
    with serve() as client:
        refused = client.post("/v1/classify", files=files([huge] * 32))
        assert (refused.status_code, refused.json()["code"]) == (413, "too_large")
        assert "200,000,000 (max_request_pixels)" in refused.json()["detail"]
    with serve(max_request_pixels=1, max_pixels=1200) as client:
        assert client.post("/v1/classify", content=draw_image(), headers=PNG).status_code == 200
        assert client.post("/v1/classify", files=files([draw_image()] * 2)).status_code == 413


def test_an_image_that_is_larger_than_its_header_says_counts_as_what_it_is(serve):
    with serve(max_pixels=1_000_000, max_request_pixels=2_000_000) as client:
        assert client.post("/v1/classify", content=lying_gif(900)).status_code == 200
        assert client.post("/v1/classify", files=files([lying_gif(900)] * 2)).status_code == 200
        refused = client.post("/v1/classify", files=files([lying_gif(900)] * 3))
        assert (refused.status_code, refused.json()["code"]) == (413, "too_large")
        assert "1,000,000" in client.post("/v1/classify", content=lying_gif(1001)).json()["detail"]


def test_uploads_of_one_client_leave_room_for_others(serve, draw_image):
    size = 1 << 18
    head = f"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode()
    with serve(max_body_bytes=size, max_inflight_bytes=4 * size) as client, ExitStack() as open_ones:
        bodies, address = client.app.state.bodies, (client.base_url.host, client.base_url.port)
        for _ in range(8):
            upload = socket.create_connection(address, source_address=("127.0.0.2", 0))
            open_ones.enter_context(upload)
            upload.sendall(head + bytes(size - 1))
        wait_for(lambda: bodies._held > 2 * size)
        with client_at(client.base_url, "127.0.0.2") as greedy, client_at(client.base_url, "127.0.0.3") as modest:
            assert greedy.post("/v1/classify", content=bytes(size)).status_code == 429
            assert modest.post("/v1/classify", content=draw_image(), headers=PNG).status_code == 200
            assert modest.post("/v1/classify", content=bytes(size // 2)).status_code == 415
    wait_for(lambda: not bodies._held)
    assert not bodies._held_by


def test_one_body_may_take_all_there_is(serve):
    with serve(max_body_bytes=1 << 18, max_inflight_bytes=1 << 18) as client:
        assert client.post("/v1/classify", content=bytes(1 << 18)).status_code == 415
