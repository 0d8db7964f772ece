"""Taking connections: from sockets that listen, or from another process that hands them over."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress

log = logging.getLogger(__name__)
BACKLOG = 4096  # connections that wait for the event loop; the kernel's own limit may be lower
MOST_AT_ONCE = 256  # connections that are accepted in one turn of the event loop
LAST_S, READ_S = 1.0, 0.1  # for the greetings of the last ones, and for them to send their first requests


class Handed:
    """Connections that another process hands over, which is told how many have ended.

    Args:
        source: a socket to that process; over it come single bytes with a connection each.

    """

    def __init__(self, source: socket.socket) -> None:
        self.source = source

    def take(self, source: socket.socket) -> socket.socket:
        """The next connection.

        Raises:
            BlockingIOError: there is none now.
            EOFError: the other process is gone.
            OSError: it was lost, as this process has too many open files.

        """
        told, files, _, _ = socket.recv_fds(source, 1, 1)
        if not told:
            raise EOFError
        if not files:
            self.left()
            raise OSError("too many files are open")
        return socket.socket(fileno=files[0])

    def left(self) -> None:
        """Tell that a connection has ended."""
        with suppress(OSError):
            self.source.send(b"-")


class Acceptor:
    """Accepts connections from listening sockets, in addition to the server's own accepting, or takes what is handed.

    uvloop accepts one connection a turn. Under overload turns are long, and requests would wait for seconds in the
    kernel, where neither deadlines nor the queue's bound see them.

    Args:
        make_protocol: a protocol for each connection.
        encryption: of the connections; None for none.
        handed: where connections come from, instead of from sockets.

    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        make_protocol: Callable[[], asyncio.Protocol],
        encryption: ssl.SSLContext | None = None,
        handed: Handed | None = None,
    ) -> None:
        self._make_protocol, self._handed, self._loop = make_protocol, handed, asyncio.get_running_loop()
        self._encryption = encryption
        self._greeting: set[asyncio.Task[object]] = set()
        listened = [handed.source] if handed else sockets
        self._sockets = [socket.socket(fileno=one.dup().detach()) for one in listened]
        for listening in self._sockets:
            listening.setblocking(False)
            self._loop.add_reader(listening, self._accept, listening)

    async def close(self) -> None:
        """Take what has come, and no more."""
        for listening in self._sockets:
            self._loop.remove_reader(listening)
            self._accept(listening, BACKLOG)
            listening.close()
        self._sockets = []
        if self._greeting:
            await asyncio.wait(self._greeting, timeout=LAST_S)
        await asyncio.sleep(READ_S)

    def _accept(self, listening: socket.socket, most: int = MOST_AT_ONCE) -> None:
        for _ in range(most):
            try:
                connection = self._handed.take(listening) if self._handed else listening.accept()[0]
            except BlockingIOError:
                return
            except EOFError:
                self._loop.remove_reader(listening)
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
            await self._loop.connect_accepted_socket(self._make_protocol, connection, ssl=self._encryption)
        except OSError as error:
            log.warning("a connection was lost while it was accepted: %s", error)
            connection.close()
            if self._handed is not None:
                self._handed.left()
