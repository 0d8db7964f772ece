"""Faults that are cheap to try: clients that leave at every stage, a clock that jumps, memory that is not there."""

from __future__ import annotations

import io
import socket
import struct
import time

import imagecodecs
import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageFile

from tests.service.engines import Gated, wait_for

PNG = {"Content-Type": "image/png"}
RESET = struct.pack("ii", 1, 0)
DAY_S = 86_400


def whole_request(image):
    body = image()
    head = f"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode(), body


def nothing(head, body):
    return b""


def part_of_head(head, body):
    return head[:30]


def head_alone(head, body):
    return head


def part_of_body(head, body):
    return head + body[:-10]


def everything(head, body):
    return head + body


def several_ahead(head, body):
    return (head + body) * 5


def one_and_a_part(head, body):
    return head + body + head[:30]


STAGES = [nothing, part_of_head, head_alone, part_of_body, everything, several_ahead, one_and_a_part]


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
def test_clients_that_leave_leave_nothing_behind_at_any_stage(serve, draw_image, reset):
    with serve() as client:
        state = client.app.state
        model = state.registry.find("small")
        right = client.post("/v1/classify", content=draw_image(), headers=PNG).json()["predictions"]
        model.engine = Gated(model.engine)
        for stage in STAGES:
            model.engine.go.clear()
            for _ in range(5):
                leave(client, stage(*whole_request(draw_image)), reset)
            model.engine.go.set()
            wait_for(  # between two requests of one connection none is under way for a moment
                lambda: (
                    "lccl_inflight_requests 1.0" in client.get("/metrics").text
                    and state.batcher.depth(model.key) == 0
                    and state.bodies._held == 0
                )
            )
            answer = client.post("/v1/classify", content=draw_image(), headers=PNG)
            assert answer.json()["predictions"] == right, stage


def leave(client, data, reset):
    connection = socket.create_connection((client.base_url.host, client.base_url.port))
    connection.sendall(data)
    time.sleep(0.02)
    if reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    connection.close()


def test_a_jump_of_the_calendar_clock_is_not_noticed(serve, draw_image, monkeypatch):
    ahead, calendar = {"s": 0}, time.time
    monkeypatch.setattr(time, "time", lambda: calendar() + ahead["s"])
    with serve(rate_limit="12/hour") as client:
        statuses = []
        for ahead["s"] in (0, DAY_S, -DAY_S, 400 * DAY_S, -400 * DAY_S, 0):
            for quality in ({}, {"deadline_ms": 5000}):
                answer = client.post("/v1/classify", content=draw_image(), headers=PNG, params=quality)
                statuses.append(answer.status_code)
            assert client.get("/health/ready").status_code == 200
            assert client.get("/health/live").status_code == 200
        assert statuses == [200] * 12
        for ahead["s"] in (0, 2 * DAY_S, -2 * DAY_S):
            refused = client.post("/v1/classify", content=draw_image(), headers=PNG)
            assert refused.status_code == 429
            assert 3500 < int(refused.headers["Retry-After"]) <= 3600


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF"])
def test_an_image_that_memory_has_no_room_for_is_too_large(client, monkeypatch, kind):
    def none(*_, **__):
        raise MemoryError

    content = io.BytesIO()
    Image.fromarray(np.zeros((300, 300, 3), np.uint8)).save(content, kind)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", none)
    monkeypatch.setattr(imagecodecs, "png_decode", none)
    monkeypatch.setattr(ImageFile.ImageFile, "load", none)
    answer = client.post("/v1/classify", content=content.getvalue(), headers={"Content-Type": f"image/{kind.lower()}"})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


@pytest.mark.parametrize("module", [simplejpeg, imagecodecs])
def test_memory_that_a_library_lacks_is_not_called_damage(client, monkeypatch, module):
    def short(*_, **__):
        raise ValueError("Insufficient memory (case 4)")

    name, kind = ("decode_jpeg", "JPEG") if module is simplejpeg else ("png_decode", "PNG")
    monkeypatch.setattr(module, name, short)
    answer = client.post("/v1/classify", content=grey(300, kind))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_memory_that_is_short_while_an_image_is_scaled_is_the_images(client, monkeypatch):
    def none(*_, **__):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "resize", none)
    answer = client.post("/v1/classify", content=grey(300, "PNG"))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_a_request_that_memory_has_no_room_for_may_come_again(client, monkeypatch, caplog):
    async def none(*_):
        raise MemoryError

    monkeypatch.setattr("service.api.exchange.joined", none)
    answer = client.post("/v1/classify", content=grey(300, "PNG"))
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert answer.headers["Retry-After"] == "1"
    assert "a request failed" in caplog.text


def grey(side, kind):
    content = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), 99, np.uint8)).save(content, kind)
    return content.getvalue()
