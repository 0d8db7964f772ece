"""How connections end: after answers that came early, when clients end their sending, and when they leave."""

from __future__ import annotations

import socket
import struct
import time

import pytest

from tests.service.transport.raw import (
    GET,
    HEAD_S,
    SOON,
    answer_on,
    connect,
    everything,
    exchange,
    is_problem,
    running,
    send_until_cut,
    wait_for,
)  # fmt: skip

SOON_ANSWERED = b"GET /soon HTTP/1.1\r\nHost: x\r\n\r\n"
EARLY = b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"


def ended_after(port, *pieces):
    """What comes after all was sent and the sending ended."""
    with connect(port) as connection:
        for piece in pieces:
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        return everything(connection)


def test_a_client_that_ends_its_sending_is_answered(server):
    answer = ended_after(server.port, SOON_ANSWERED)
    assert answer.startswith(INTERIM + b"HTTP/1.1 200 OK\r\n")
    assert b"connection: close" in answer
    assert answer.endswith(b"hello")


def test_one_of_http_1_0_gets_no_interim_answer(server):
    assert ended_after(server.port, b"GET /soon HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")


def test_all_that_was_sent_before_the_end_is_answered(server):
    answer = ended_after(server.port, SOON_ANSWERED + GET * 3)
    assert answer.count(b"HTTP/1.1 200 OK") == 4
    assert answer.count(b"connection: close") == 1


def test_a_body_that_ends_early_is_told(server):
    answer = ended_after(server.port, b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
    is_problem(answer, 400, "malformed")
    assert server.refused == []  # the application counts it
    wait_for(lambda: server.seen == ["gone"])


def test_a_head_that_ends_early_is_closed_without_a_word(server):
    assert ended_after(server.port, b"GET / HTTP/1.1\r\nHo") == b""


def test_a_large_answer_is_taken_whole_after_the_end_of_sending(server):
    assert len(ended_after(server.port, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")) > 8 << 20


@pytest.mark.parametrize("how", ["closed", "reset"])
def test_a_client_that_leaves_ends_its_work(server, how):
    with connect(server.port) as connection:
        connection.sendall(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for(lambda: server.seen == ["waiting"])
        if how == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_for(lambda: server.seen == ["waiting", "gone"])
    wait_for(lambda: not server.connections)


def test_one_that_only_ended_its_sending_is_waited_for(server):
    with connect(server.port) as connection:
        connection.sendall(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for(lambda: server.seen == ["waiting"])
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(4096) == INTERIM
        time.sleep(0.4)
        assert server.seen == ["waiting"]
        connection.setblocking(False)  # it reads nothing more, and so resets nothing as it leaves
        with pytest.raises(BlockingIOError):
            connection.recv(1)
    wait_for(lambda: server.seen == ["waiting", "gone"])  # it left by and by


@pytest.mark.parametrize("more", [b"", b"Connection: close\r\n"])
def test_an_early_answer_says_that_the_connection_ends_and_ends_it_when_the_client_does(server, more):
    with connect(server.port) as connection:
        connection.sendall(EARLY + more + b"\r\nabc")
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer
    wait_for(lambda: not server.connections, HEAD_S + SOON)


def test_the_rest_of_a_body_is_read_for_a_bounded_time(server):
    with connect(server.port) as connection:
        connection.sendall(EARLY + b"Connection: close\r\n\r\nabc")
        send_until_cut(connection, b"d", HEAD_S)


def test_the_rest_of_a_body_is_read_up_to_a_bounded_size():
    with running(head_s=60.0, rest_bytes=4 << 20) as server, connect(server.port) as connection:
        connection.sendall(EARLY + b"\r\n" + bytes(3 << 20))
        assert answer_on(connection).startswith(b"HTTP/1.1 200")
        started = time.monotonic()
        send_until_cut(connection, bytes(1 << 20), 1.0)
        assert time.monotonic() - started < SOON


def test_what_follows_the_last_request_of_a_connection_takes_no_answer_away(server):
    last = SOON_ANSWERED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    answer = exchange(server.port, last, GET * 3, bytes(1 << 20), pause=0.1)
    assert answer.count(b"HTTP/1.1 200 OK") == 1
    assert answer.endswith(b"hello")


def test_a_server_that_stops_lets_a_client_read_its_early_answer():
    with running(head_s=5.0) as server, connect(server.port) as connection:
        connection.sendall(EARLY + b"\r\nabc")
        wait_for(lambda: server.seen == ["/early"] and server.connections)
        (protocol,) = server.connections
        wait_for(lambda: protocol.cycle.response_complete)
        protocol.loop.call_soon_threadsafe(protocol.shutdown)
        for _ in range(20):
            connection.sendall(bytes(1 << 20))
        assert answer_on(connection).startswith(b"HTTP/1.1 200")
