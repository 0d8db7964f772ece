"""Accepting connections: all that wait, at every turn of the event loop.

uvloop accepts one connection a turn. Under overload turns are long, and requests would wait for seconds in the kernel,
where neither deadlines nor the queue's bound see them.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)
MOST = 256  # connections a turn


class Acceptor:
    """Accepts connections from listening sockets, in addition to the server's own accepting.

    Args:
        make_protocol: a protocol for each connection.

    """

    def __init__(self, sockets: Sequence[socket.socket], make_protocol: Callable[[], asyncio.Protocol]) -> None:
        self._make_protocol, self._loop = make_protocol, asyncio.get_running_loop()
        self._greeting: set[asyncio.Task[object]] = set()
        self._sockets = [socket.socket(fileno=listening.dup().detach()) for listening in sockets]
        for listening in self._sockets:
            listening.setblocking(False)
            self._loop.add_reader(listening, self._accept, listening)

    def close(self) -> None:
        """Accept no more."""
        for listening in self._sockets:
            self._loop.remove_reader(listening)
            listening.close()
        self._sockets = []

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(MOST):
            try:
                connection, _ = listening.accept()
            except BlockingIOError:
                return
            except OSError as error:  # too many open files, or the peer has gone already
                log.warning("a connection was not accepted: %s", error)
                return
            connection.setblocking(False)
            task = self._loop.create_task(self._greet(connection))
            self._greeting.add(task)
            task.add_done_callback(self._greeting.discard)

    async def _greet(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make_protocol, connection)
        except OSError as error:
            log.warning("a connection was lost while it was accepted: %s", error)
            connection.close()
