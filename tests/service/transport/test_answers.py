"""Short answers go out whole, and look to clients as those that uvicorn writes; whatever is unusual goes its way."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from service.transport.answers import Sender

JSON = (b"content-type", b"application/json")


class Cycle:
    """Stands for uvicorn's cycle: keeps what it is given to send."""

    def __init__(self, method="GET", write_paused=False, keep_alive=True):
        self.scope = {"method": method}
        self.flow = SimpleNamespace(write_paused=write_paused, drain=self.drain)
        self.transport = SimpleNamespace(close=lambda: self.events.append("closed"))
        self.message_event = SimpleNamespace(set=lambda: self.events.append("woken"))
        self.response_started = self.response_complete = self.disconnected = False
        self.waiting_for_100_continue, self.keep_alive = True, keep_alive
        self.sent, self.events = [], []

    async def drain(self):
        self.events.append("drained")

    async def send(self, message):
        self.response_started = True
        self.sent.append(message)

    def on_response(self):
        self.events.append("answered")


def start(*headers, status=200):
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(content=b"{}", more=False):
    return {"type": "http.response.body", "body": content, "more_body": more}


def send(cycle, *messages):
    written = []
    sender = Sender(cycle, lambda answer, keep_alive: written.append(answer))

    async def scenario():
        for message in messages:
            await sender(message)

    asyncio.run(scenario())
    return written


def test_a_short_answer_is_written_at_once():
    cycle = Cycle()
    (written,) = send(cycle, start(JSON, (b"content-length", b"2")), body())
    assert written.head == b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n"
    assert written.body == b"{}"
    assert not cycle.sent
    assert cycle.response_started
    assert cycle.response_complete
    assert not cycle.waiting_for_100_continue
    assert cycle.events == ["woken", "answered"]


def test_the_connection_is_closed_after_it_where_it_is_not_kept_and_a_slow_reader_is_waited_for():
    cycle = Cycle(keep_alive=False, write_paused=True)
    assert send(cycle, start((b"content-length", b"2")), body())
    assert cycle.events == ["drained", "woken", "closed", "answered"]


def test_nothing_is_written_to_who_has_left():
    cycle = Cycle()
    cycle.disconnected = True
    assert not send(cycle, start((b"content-length", b"2")), body())
    assert not cycle.events
    assert not cycle.sent


@pytest.mark.parametrize(
    "messages",
    [
        (start(JSON), body()),  # no length
        (start((b"content-length", b"3")), body()),
        (start((b"content-length", b"2"), status=304), body()),
        (start((b"content-length", b"2"), status=499), body()),  # of a client that has left
        (start((b"content-length", b"2"), (b"connection", b"close")), body()),
        (start((b"transfer-encoding", b"chunked")), body()),
        (start((b"Content-Length", b"2")), body()),
        (start((b"content-length", b"2"), (b"x", b"a\r\nset-cookie: b")), body()),
        (start((b"content-length", b"2"), (b"x", b"a\nb")), body()),
        (start((b"content-length", b"2"), (b"x", b"a\0b")), body()),
        (start((b"content-length", b"4")), body(more=True), body()),
        (start((b"content-length", b"2")), start((b"content-length", b"2")), body()),
    ],
)
def test_what_is_unusual_is_left_to_uvicorn(messages):
    cycle = Cycle()
    assert not send(cycle, *messages)
    assert cycle.sent == list(messages)


def test_the_head_alone_is_left_to_uvicorn():
    cycle, messages = Cycle("HEAD"), (start((b"content-length", b"2")), body())
    assert not send(cycle, *messages)
    assert cycle.sent == list(messages)
