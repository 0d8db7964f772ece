"""Sockets that listen: ports that are taken, connections that nobody can take yet, and a port that is kept."""

from __future__ import annotations

import asyncio
import socket

import pytest

from service.errors import StartError
from service.processes.listener import Listener, keep_grpc_port
from service.settings import Settings
from service.transport.acceptor import MOST_AT_ONCE


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


def test_a_port_that_is_taken_is_said(taken):
    async def listen():
        with pytest.raises(StartError, match=f"cannot listen on 127.0.0.1:{taken}: Address already in use"):
            Listener(Settings(port=taken), lambda _: True)
        with pytest.raises(StartError, match="cannot listen"), keep_grpc_port(Settings(grpc_port=taken)):
            pass

    asyncio.run(listen())


def test_all_that_has_come_is_handed_on_before_it_closes():
    handed = []

    async def connect():
        listener = Listener(Settings(host="localhost", port=0), lambda one: handed.append(one.getpeername()) or True)
        listener.open()
        address = ("127.0.0.1", int(listener.url.rpartition(":")[2]))
        clients = [socket.create_connection(address) for _ in range(MOST_AT_ONCE + 5)]  # within one turn of the loop
        listener.close()
        for client in clients:
            client.close()

    asyncio.run(connect())
    assert len(handed) == MOST_AT_ONCE + 5


def test_connections_wait_until_somebody_can_take_them():
    handed, can_take = [], False

    def hand(connection):
        if can_take:
            handed.append(connection.getpeername())
        return can_take

    async def connect():
        nonlocal can_take
        listener = Listener(Settings(host="localhost", port=0), hand)
        assert listener.open()
        assert not listener.open()
        address = ("127.0.0.1", int(listener.url.rpartition(":")[2]))
        clients = [socket.create_connection(address) for _ in range(3)]
        await asyncio.sleep(0.1)
        assert not handed
        can_take = True
        async with asyncio.timeout(10):
            while len(handed) < 3:
                await asyncio.sleep(0.01)
        assert {client.getsockname() for client in clients} == set(handed)
        late = socket.create_connection(address)
        listener.close()
        assert late.getsockname() in handed
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        for client in (*clients, late):
            client.close()

    asyncio.run(connect())


def test_a_port_is_kept_for_workers_alone():
    with keep_grpc_port(Settings(grpc_port=0)) as settings:
        address = ("127.0.0.1", settings.grpc_port)
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(address)
        for _ in range(2):
            with socket.socket() as worker:
                worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                worker.bind(address)
