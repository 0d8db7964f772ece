"""Slow, greedy and broken clients on raw sockets; after each of them a good request is served."""

from __future__ import annotations

import inspect
import json
import re
import socket
import time

import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import StartError
from service.transport import answers, protocol
from service.transport import server as server_module
from service.transport.protocol import check_uvicorn
from tests.service.transport.raw import (
    BODY_S,
    GET,
    HEAD_S,
    IDLE_S,
    LARGE,
    LINGER_S,
    POST,
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


def test_a_head_that_trickles_in_is_answered_408(server):
    started = time.monotonic()
    is_problem(exchange(server.port, b"GET / HTTP/1.1\r\nA: b"), 408, "too_slow")
    with connect(server.port) as connection:
        connection.sendall(GET[:5])
        for byte in GET[5:20]:
            time.sleep(0.1)
            try:
                connection.sendall(bytes([byte]))
            except (BrokenPipeError, ConnectionResetError):
                break
        is_problem(everything(connection), 408, "too_slow")
    assert time.monotonic() - started < 2 * HEAD_S + SOON
    assert server.refused == ["too_slow"] * 2


def test_a_connection_that_says_nothing_is_closed_without_a_word(server):
    started = time.monotonic()
    assert exchange(server.port) == b""
    assert HEAD_S * 0.9 < time.monotonic() - started < HEAD_S + SOON
    assert server.refused == []


def test_a_head_in_time_is_served_however_it_is_cut():
    with running(head_s=30.0) as server, connect(server.port) as connection:
        for byte in GET:
            connection.sendall(bytes([byte]))
        assert answer_on(connection).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "pieces",
    [
        [b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000],
        [b"GET / HTTP/1.1\r\n", *[b"a: b\r\n" * 500] * 40],
        [b"GET / HTTP/1.1\r\na: ", *[b"b" * 9_000] * 40],
        [b"GET / HTTP/1.1\r\na", *[b"b" * 9_000] * 40],
        [b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n\r\n"],
        [b"GET /", *[b"a" * 9_000] * 40],
        [b"GET / HTTP/1.1\r\na: " + b"b" * 33_000 + b"\r\n\r\n"],
    ],
    ids=["at once", "in lines", "endless value", "endless name", "long target", "endless target", "one header"],
)
def test_a_head_that_is_too_large_is_answered_431(parsing_server, pieces):
    is_problem(exchange(parsing_server.port, *pieces), 431, "head_too_large")
    assert parsing_server.refused == ["head_too_large"]
    assert parsing_server.seen == []


def test_the_largest_head_is_served(parsing_server):
    room = (32 << 10) - len("/") - 2 * 4 - len("aconnectionclose")
    head = b"GET / HTTP/1.1\r\nconnection: close\r\na: %s\r\n\r\n"
    assert exchange(parsing_server.port, head % (b"b" * room)).startswith(b"HTTP/1.1 200")
    is_problem(exchange(parsing_server.port, head % (b"b" * (room + 1))), 431, "head_too_large")


def test_an_idle_connection_is_closed_and_one_in_use_is_not(server):
    with connect(server.port) as connection:
        for _ in range(6):
            connection.sendall(GET)
            assert answer_on(connection).startswith(b"HTTP/1.1 200")
            time.sleep(IDLE_S * 0.25)
        started = time.monotonic()
        assert everything(connection) == b""
        assert time.monotonic() - started < IDLE_S + SOON


def test_blank_lines_are_no_use_of_a_connection(server):
    with connect(server.port) as connection:
        connection.sendall(GET)
        assert answer_on(connection).startswith(b"HTTP/1.1 200")
        send_until_cut(connection, b"\r\n", IDLE_S)


def test_the_next_head_has_its_own_time(server):
    with connect(server.port) as connection:
        connection.sendall(GET)
        assert answer_on(connection).startswith(b"HTTP/1.1 200")
        connection.sendall(GET[:10])
        is_problem(everything(connection), 408, "too_slow")


def test_the_rest_of_a_body_that_was_answered_early_has_its_time_too(server):
    with connect(server.port) as connection:
        connection.sendall(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\nabc")
        assert answer_on(connection).startswith(b"HTTP/1.1 200")
        send_until_cut(connection, b"d", HEAD_S)
    with connect(server.port) as connection:
        connection.sendall(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nabc")
        assert answer_on(connection).startswith(b"HTTP/1.1 200")
        connection.sendall(b"d" + GET)
        assert answer_on(connection).startswith(b"HTTP/1.1 200")


def test_a_body_that_trickles_in_is_answered_408_and_its_application_told(server):
    with connect(server.port) as connection:
        connection.sendall(POST + b"Content-Length: 1000\r\n\r\n")
        send_until_cut(connection, b"a", BODY_S + LINGER_S)
    wait_for(lambda: server.seen == ["gone"])
    is_problem(exchange(server.port, POST + b"Content-Length: 1000\r\n\r\nabc"), 408, "too_slow")
    assert server.refused == ["too_slow"] * 2


def test_a_body_that_trickles_in_behind_another_request_ends_the_connection(server):
    with connect(server.port) as connection:
        connection.sendall(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n" + POST + b"Content-Length: 1000\r\n\r\nabc")
        assert everything(connection) == b""
    wait_for(lambda: server.seen == ["waiting", "gone"])


def test_an_application_may_take_longer_than_any_client(server):
    with connect(server.port) as connection:
        connection.sendall(b"GET /late HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer_on(connection).startswith(b"HTTP/1.1 200")


def test_an_answer_that_nobody_takes_is_dropped(server):
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with connection:
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        wait_for(lambda: server.seen == ["/large"])
        wait_for(lambda: not server.connections)
        connection.settimeout(SOON)
        assert len(everything(connection)) < LARGE


def test_an_answer_that_is_taken_slowly_arrives_whole():
    with running(idle_s=2.0) as server, connect(server.port) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received, end = 0, time.monotonic() + 3.0
        while time.monotonic() < end:
            received += len(connection.recv(65536))
            time.sleep(0.03)
        assert 0 < received < LARGE
        assert received + len(everything(connection)) > LARGE


GARBAGE = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"hello\r\n\r\n",
    b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /\x00 HTTP/1.1\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"GET / HTTP/1.1\r\n a: b\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    bytes(100_000),
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda garbage: repr(garbage[:24]))
def test_what_is_no_request_is_answered_400(parsing_server, garbage):
    is_problem(exchange(parsing_server.port, garbage), 400, "malformed")
    assert parsing_server.seen == []


@pytest.fixture(scope="module")
def one_server():
    with running() as server:
        yield server


PARTS = [
    GET,
    POST,
    b"\r\n",
    b"\r\n\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n",
    b"5\r\nabcde\r\n",
    b"0\r\n\r\n",
    b"Upgrade: h2c\r\nConnection: upgrade\r\n",
    b"Expect: 100-continue\r\n",
    b"Connection: close\r\n",
]


@given(st.lists(st.binary(max_size=200) | st.sampled_from(PARTS), max_size=12), st.integers(1, 300))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_arrives_the_connection_ends_and_the_server_goes_on(one_server, parts, size):
    stream = b"".join(parts)
    with connect(one_server.port) as connection:
        try:
            for start in range(0, len(stream), size):
                connection.sendall(stream[start : start + size])
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        everything(connection)
    with connect(one_server.port) as connection:
        connection.sendall(GET)
        assert answer_on(connection).startswith(b"HTTP/1.1 200")


def test_connections_beyond_the_limit_are_answered_503():
    with running(connections=10, head_s=30.0, idle_s=30) as server:
        held = [connect(server.port) for _ in range(10)]
        wait_for(lambda: len(server.connections) == 10)
        answer = exchange(server.port, GET)
        is_problem(answer, 503, "too_many_connections")
        assert b"retry-after: 1\r\n" in answer
        held[0].sendall(GET)
        assert answer_on(held[0]).startswith(b"HTTP/1.1 200")
        for connection in held:
            connection.close()
        wait_for(lambda: not server.connections)


def test_one_address_leaves_room_for_the_connections_of_others():
    with running(connections=90, spare=20, head_s=30.0, idle_s=30, linger_s=30.0) as server:
        held = [connect(server.port) for _ in range(200)]
        wait_for(lambda: len(server.refused) == 4 and len(server.connections) == 84)  # 80, and those that are told
        time.sleep(0.2)
        assert server.refused == ["too_many_connections"] * 4
        assert len(server.connections) == 84
        for number in range(2, 5):
            with connect(server.port, f"127.0.0.{number}") as other:
                other.sendall(GET)
                assert answer_on(other).startswith(b"HTTP/1.1 200")
        for connection in held:
            connection.close()
        wait_for(lambda: not server.connections)
        with connect(server.port) as again:
            again.sendall(GET)
            assert answer_on(again).startswith(b"HTTP/1.1 200")


def test_connections_far_beyond_the_limit_are_cut():
    with running(connections=10, spare=5, head_s=30.0, idle_s=30, linger_s=30.0) as server:
        held = [connect(server.port) for _ in range(200)]
        wait_for(lambda: len(server.connections) == 15)
        time.sleep(0.2)
        assert len(server.connections) == 15
        assert server.refused == ["too_many_connections"] * 5
        for connection in held:
            connection.close()
        wait_for(lambda: not server.connections)


def test_a_refusal_is_read_even_by_a_client_that_is_still_sending(server):
    answer = exchange(server.port, b"GET / HTTP/1.1\r\na: ", *[b"b" * 100_000] * 20)
    is_problem(answer, 431, "head_too_large")


def test_pipelined_requests_are_answered_in_order(server):
    paths = [b"/read", b"/", b"/early", b"/read", b"/"]
    requests = [b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path for path in paths]
    requests[-1] = requests[-1].replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert exchange(server.port, b"".join(requests)).count(b"HTTP/1.1 200") == 5
    assert server.seen == [path.decode() for path in paths]


def test_only_so_many_requests_are_taken_ahead(server):
    answer = exchange(server.port, GET * 5000)
    assert answer.count(b"HTTP/1.1 200") == 9  # one that is answered, eight that wait
    assert b"malformed" not in answer
    assert server.refused == ["malformed"]


def test_a_fault_behind_a_good_request_does_not_take_its_answer(server):
    answer = exchange(server.port, GET + b"\x00garbage\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"hello")


def test_a_fault_within_a_body_is_told_to_the_application(server):
    head = POST + b"Transfer-Encoding: chunked\r\n\r\n"
    is_problem(exchange(server.port, head, b"5\r\nabcde\r\n", b"no size\r\n", pause=0.05), 400, "malformed")
    wait_for(lambda: server.seen == ["gone"])


def test_a_client_that_leaves_takes_the_request_before_its_last_along(server):
    with connect(server.port) as connection:
        connection.sendall(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n" + GET)
        wait_for(lambda: server.seen == ["waiting"])
    wait_for(lambda: server.seen == ["waiting", "gone"])


def test_trailers_are_no_headers(parsing_server):
    head = POST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = exchange(parsing_server.port, head + b"3\r\nabc\r\n0\r\nX-Late: 1\r\n\r\n")
    told = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert told == {"body": "abc", "headers": ["host", "connection", "transfer-encoding"]}


@pytest.mark.parametrize("trailer", [b"a: b\r\n" * 1000, b"b" * 9000], ids=["lines", "one"])
def test_endless_trailers_are_refused(parsing_server, trailer):
    head = POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nt: "
    is_problem(exchange(parsing_server.port, head, *[trailer] * 100), 431, "head_too_large")


def test_a_wish_for_another_protocol_is_passed_over_and_the_body_read(server):
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    for pause, split in ((0.0, 0), (0.05, 2)):
        with connect(server.port) as connection:
            connection.sendall(POST + upgrade + b"Content-Length: 5\r\n\r\n" + b"abcde"[:split])
            time.sleep(pause)
            connection.sendall(b"abcde"[split:])
            told = json.loads(answer_on(connection).partition(b"\r\n\r\n")[2])
            assert told["body"] == "abcde"
            connection.sendall(GET)
            assert answer_on(connection).startswith(b"HTTP/1.1 200")
    assert server.seen == ["/read", "/"] * 2


def test_a_body_after_100_continue_is_read(server):
    with connect(server.port) as connection:
        connection.sendall(POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert connection.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"abc")
        assert b'"body": "abc"' in answer_on(connection)


def test_the_installed_uvicorn_fits():
    check_uvicorn()


@pytest.mark.parametrize("kind", list(protocol.USED), ids=lambda kind: kind.__name__)
def test_a_uvicorn_that_lacks_something_is_refused_at_start_by_name(monkeypatch, kind):
    monkeypatch.setitem(protocol.USED, kind, protocol.USED[kind] | {"moved_elsewhere"})
    with pytest.raises(StartError, match=rf"uvicorn {uvicorn.__version__} has no {kind.__name__}.moved_elsewhere"):
        check_uvicorn()


def test_nothing_is_checked_that_is_not_used():
    """No name is in the list that is not taken from uvicorn."""
    source = inspect.getsource(protocol).partition("class BoundedProtocol")[2]
    source += inspect.getsource(server_module) + inspect.getsource(answers)
    for names in protocol.USED.values():
        for name in names:
            assert re.search(rf"\b{name}\b", source), name
