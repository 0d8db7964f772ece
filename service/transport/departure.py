"""Whether a client that ended its sending has left."""

import asyncio
import socket
from collections.abc import Callable

STILL_THERE = b"HTTP/1.1 100 Continue\r\n\r\n"
FIRST_LOOK_S, LAST_LOOK_S = 0.05, 1.0  # seconds between looks: at first, and at most


class Departure:
    """The client at the other end of a connection.

    One that closed its socket looks like one that only ended its sending (``shutdown(SHUT_WR)``) until it is sent
    something: then its system resets the connection. An interim answer is what every client of HTTP/1.1 skips
    (RFC 9110, 15.2).

    Args:
        may_be_asked: whether an interim answer may be sent now: to this client, and within no other answer.

    Attributes:
        has_left: done when the connection is lost.

    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, may_be_asked: Callable[[], bool]
    ) -> None:
        self._loop, self._transport, self._may_be_asked = loop, transport, may_be_asked
        self._timer: asyncio.TimerHandle | None = None
        self.has_left: asyncio.Future[None] = loop.create_future()

    def follow(self) -> None:
        """Ask now and again, and end the connection once it is reset."""
        self._ask()
        self._look_later(FIRST_LOOK_S)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _ask(self) -> None:
        if self._may_be_asked():
            self._transport.write(STILL_THERE)

    def _look_later(self, wait_s: float) -> None:
        self._timer = self._loop.call_later(wait_s, self._look, wait_s)

    def _look(self, waited_s: float) -> None:
        # event loops do not watch a socket whose sender has ended
        if self._transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._transport.abort()
            return
        if waited_s >= LAST_LOOK_S:
            self._ask()
        self._look_later(min(2 * waited_s, LAST_LOOK_S))
