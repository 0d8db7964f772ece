"""Speaking HTTP/1.1 with real servers, well-behaved and not."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import pytest

from lccl_client.load.connections import BrokenConnectionError, Connections


def talk(base, *requests, timeout_s=5.0, pause_s=0.0):
    """Ask one request after another over one set of connections; the replies, and how many connections are left."""

    async def run():
        connections, replies = Connections(base, timeout_s), []
        for path, content in requests:
            replies.append(await connections.ask(connections.head("POST", path, {"X-A": "b"}), content))
            await asyncio.sleep(pause_s)
        left = len(connections.idle)
        connections.close()
        await asyncio.sleep(0)
        return replies, left

    return asyncio.run(run())


def test_requests_and_answers_are_whole(answering):
    seen = []

    def answer(handler):
        seen.append((handler.path, dict(handler.headers), handler.content, handler.client_address))
        handler.reply(201, handler.content * 2)

    big = bytes(range(256)) * 4000
    with answering(answer) as base:
        replies, left = talk(base, ("/a?b=c", b"x"), ("/", big), ("/", b""))
    assert [(reply.status, reply.content) for reply in replies] == [(201, b"xx"), (201, big * 2), (201, b"")]
    assert (seen[0][0], seen[0][1]["X-A"], seen[0][2]) == ("/a?b=c", "b", b"x")
    assert seen[0][1]["Host"] == base.removeprefix("http://")
    assert len({address for *_, address in seen}) == left == 1


def test_chunked_answers_and_interim_ones_are_read(answering):
    def answer(handler):
        handler.wfile.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")

    with answering(answer) as base:
        replies, _ = talk(base, ("/", b""), ("/", b""))
    assert [reply.content for reply in replies] == [b"abcde"] * 2


def test_a_connection_that_the_server_ends_is_not_used_again(answering):
    def answer(handler):
        handler.close_connection = True
        handler.reply(200, b"last", Connection="close")

    with answering(answer) as base:
        replies, left = talk(base, ("/", b""), ("/", b""))
    assert [reply.content for reply in replies] == [b"last"] * 2
    assert left == 0


def test_a_connection_closed_while_idle_costs_no_request(answering):
    def answer(handler):
        handler.close_connection = True  # without saying so
        handler.reply()

    with answering(answer) as base:
        for pause in (0.0, 0.05):
            replies, _ = talk(base, *[("/", b"")] * 5, pause_s=pause)
            assert [reply.status for reply in replies] == [200] * 5


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", b"SSH-2.0-OpenSSH\r\n\r\n"])
def test_an_answer_that_ends_early_or_is_none_is_a_broken_connection(answering, sent):
    def answer(handler):
        handler.wfile.write(sent)
        handler.close_connection = True

    with answering(answer) as base, pytest.raises(BrokenConnectionError):
        talk(base, ("/", b""))


def test_a_silent_server_is_given_up_in_time(answering):
    over = threading.Event()
    with answering(lambda _: over.wait(5)) as base:
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            talk(base, ("/", b""), timeout_s=0.2)
        assert time.monotonic() - started < 2
        over.set()


def test_nobody_there_is_a_broken_connection():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(BrokenConnectionError):
        talk(f"http://127.0.0.1:{port}", ("/", b""))


@pytest.mark.parametrize("address", ["127.0.0.1:80", "ftp://x", "http://", "http://x/path"])
def test_an_address_has_scheme_host_and_port_alone(address):
    with pytest.raises(ValueError, match="not of the form"):
        Connections(address, 1)


def test_a_header_is_one_line():
    with pytest.raises(ValueError, match="line break"):
        Connections("http://x", 1).head("GET", "/", {"a": "b\r\nc: d"})
