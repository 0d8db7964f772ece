"""The sockets that listen: HTTP's, whose connections are handed on, and gRPC's port, kept for the workers."""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from ..errors import StartError
from ..settings import Settings
from ..transport.acceptor import BACKLOG, MOST_AT_ONCE

log = logging.getLogger(__name__)
PAUSE_S = 0.01


class Listener:
    """Accepts the connections of a port.

    Args:
        hand: takes a connection, which it may close after; says whether it could.

    Attributes:
        url: where the port can be reached.

    Raises:
        StartError: the port is taken, or the address is none of this machine.

    """

    def __init__(self, settings: Settings, hand: Callable[[socket.socket], bool]) -> None:
        self._hand, self._loop = hand, asyncio.get_running_loop()
        self._held: socket.socket | None = None  # the connection that nobody could take yet
        self._is_open = self._is_closed = False
        self._sockets = _bind(settings.host, settings.port)
        port = self._sockets[0].getsockname()[1]
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        self.url = f"{'https' if settings.tls_certificate else 'http'}://{host}:{port}"

    def open(self) -> bool:
        """Begin to accept; False where that has begun."""
        if self._is_open or self._is_closed:
            return False
        for one in self._sockets:
            one.listen(BACKLOG)
        self._is_open = True
        self._watch()
        return True

    def close(self) -> None:
        """Accept what has come, and no more."""
        self._is_closed = True
        if self._is_open:
            self._is_open = False
            for one in self._sockets:
                self._loop.remove_reader(one)
                self._accept(one, BACKLOG)
        if self._held is not None:
            self._held.close()
        for one in self._sockets:
            one.close()

    def _watch(self) -> None:
        if not self._is_open:
            return
        if self._held is not None and not self._pass_on(self._held):
            self._loop.call_later(PAUSE_S, self._watch)
            return
        for one in self._sockets:
            self._loop.add_reader(one, self._accept, one)

    def _accept(self, listening: socket.socket, most: int = MOST_AT_ONCE) -> None:
        for _ in range(most):
            try:
                connection, _ = listening.accept()
            except BlockingIOError:
                return
            except OSError as error:  # too many open files, or the peer has gone already
                log.warning("a connection was not accepted: %s", error)
                return
            if not self._pass_on(connection):
                for one in self._sockets:
                    self._loop.remove_reader(one)
                self._loop.call_later(PAUSE_S, self._watch)
                return

    def _pass_on(self, connection: socket.socket) -> bool:
        self._held = None if self._hand(connection) else connection
        if self._held is None:
            connection.close()
        return self._held is None


def _bind(host: str, port: int) -> list[socket.socket]:
    """A socket for each address of a host, all with the same port."""
    bound: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(found):
            one = socket.socket(family)
            bound.append(one)
            one.setblocking(False)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind((address[0], port or bound[0].getsockname()[1], *address[2:]))
    except OSError as error:
        for one in bound:
            one.close()
        raise StartError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return bound


@contextmanager
def keep_grpc_port(settings: Settings) -> Iterator[Settings]:
    """The settings with a port of gRPC that all workers can listen on, and nobody else does.

    Raises:
        StartError: the port is taken, or the address is none of this machine.

    """
    with ExitStack() as kept:
        if settings.grpc_port is not None:
            for one in _bind(settings.host, settings.grpc_port):  # the workers share it, and would with a stranger
                kept.enter_context(one)
                settings = settings.model_copy(update={"grpc_port": one.getsockname()[1]})
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        yield settings
