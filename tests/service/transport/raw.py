"""A small application behind the service's protocol, and clients on raw sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import pytest
import uvicorn

from service.transport.limits import ConnectionLimits
from service.transport.protocol import BoundedProtocol

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /read HTTP/1.1\r\nHost: x\r\n"
LARGE = 8 << 20
HEAD_S, BODY_S, IDLE_S, LINGER_S = 0.5, 0.8, 1.0, 0.3
SOON = 5.0  # seconds that a busy machine may be late


def application(seen):
    async def body_of(receive):
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                seen.append("gone")
                return None
            body, more = body + message["body"], message["more_body"]
        return body

    async def app(scope, receive, send):
        content = b"hello"
        if scope["path"] == "/read":
            body = await body_of(receive)
            if body is None:
                return
            names = [name.decode() for name, _ in scope["headers"]]
            content = json.dumps({"body": body.decode("latin-1"), "headers": names}).encode()
        elif scope["path"] == "/wait":
            seen.append("waiting")
            while (await receive())["type"] != "http.disconnect":
                pass
            seen.append("gone")
            return
        elif scope["path"] == "/soon":
            seen.append("waiting")
            await asyncio.sleep(0.4)
        elif scope["path"] == "/late":
            await asyncio.sleep(2 * IDLE_S)
        elif scope["path"] == "/large":
            content = bytes(LARGE)
        seen.append(scope["path"])
        headers = [(b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    return app


@contextmanager
def running(loop="uvloop", **limits):
    """A server of the small application above; gives its port, and lists of what it saw and refused."""
    chosen = {"connections": 100, "head_s": HEAD_S, "body_s": BODY_S, "idle_s": IDLE_S, "linger_s": LINGER_S} | limits
    seen, refused = [], []
    protocol = partial(BoundedProtocol, ConnectionLimits(**chosen), refused.append)
    config = uvicorn.Config(
        application(seen), port=0, http=protocol, loop=loop, ws="none", lifespan="off", log_config=None,
        timeout_keep_alive=3600, server_header=False,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield SimpleNamespace(
            port=port, seen=seen, refused=refused, connections=server.server_state.connections,
        )  # fmt: skip
        assert exchange(port, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")).startswith(b"HTTP/1.1 200")
    finally:
        server.should_exit = True
        thread.join(20)


def connect(port, address="127.0.0.1"):
    connection = socket.create_connection(("127.0.0.1", port), SOON, (address, 0))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def everything(connection):
    """What comes until the server closes; fails when it does not."""
    received = b""
    while True:
        try:
            chunk = connection.recv(1 << 20)
        except ConnectionResetError:
            return received
        if not chunk:
            return received
        received += chunk


def answer_on(connection):
    """One answer with a declared length; the connection may go on."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536) or pytest.fail("closed")
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536) or pytest.fail("closed")
    return head + b"\r\n\r\n" + body


def send_until_cut(connection, piece, seconds):
    """Send a piece again and again; fails when the server still takes it after so many seconds."""
    end = time.monotonic() + seconds + SOON
    while time.monotonic() < end:
        try:
            connection.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            return
        time.sleep(0.05)
    pytest.fail("the connection is still there")


def exchange(port, *pieces, pause=0.0):
    """Send pieces with pauses between them, and read until the server closes."""
    with connect(port) as connection:
        for piece in pieces:
            try:
                connection.sendall(piece)
            except (BrokenPipeError, ConnectionResetError):
                break
            time.sleep(pause)
        return everything(connection)


def wait_for(condition, seconds=SOON):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def is_problem(answer, status, code):
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer[:200]
    assert b"content-type: application/problem+json" in head
    assert b"connection: close" in head
    assert b"server:" not in head.lower()
    assert json.loads(body)["code"] == code
