"""HTTP/1.1 for a load generator: kept-alive connections, prepared heads, httptools to read answers, nothing else.

No cookies, redirects, proxies or decompression: what a request costs the generator is taken from the server where the
two share a machine, and general HTTP clients take several times as much.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import httptools


class Reply(NamedTuple):
    """An answer, complete at ``at`` seconds of ``time.monotonic()``."""

    status: int
    content: bytes
    at: float


class BrokenConnectionError(Exception):
    """The connection could not be made, or ended before the answer did."""


class _StaleConnectionError(BrokenConnectionError):
    """A kept-alive connection that the server had closed before it read the request."""


class Connections:
    """As many connections to one server as there are requests under way; idle ones are used again, the last one first.

    Args:
        base_url: scheme, host and port.
        timeout_s: a request without its whole answer after so many seconds fails.

    """

    def __init__(self, base_url: str, timeout_s: float) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
            raise ValueError(f"{base_url!r} is not of the form http://host:port")
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._host, self._port = parts.hostname, parts.port or (443 if self._ssl else 80)
        self._netloc, self._timeout_s = parts.netloc.rpartition("@")[2], timeout_s
        self.idle: list[_Connection] = []

    def head(self, method: str, path: str, headers: Mapping[str, str]) -> bytes:
        """The start of a request up to the value of its Content-Length, which :meth:`ask` adds."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._netloc}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if any("\r" in line or "\n" in line for line in lines):
            raise ValueError("a header must not hold a line break")
        return ("\r\n".join(lines) + "\r\nContent-Length: ").encode("latin-1")

    async def ask(self, head: bytes, content: bytes) -> Reply:
        """Send a request and wait for its answer.

        Raises:
            BrokenConnectionError: no connection, or it ended early.
            TimeoutError: no answer in time.

        """
        async with asyncio.timeout(self._timeout_s):
            if self.idle:
                with suppress(_StaleConnectionError):  # not the server's failure: it had closed an idle connection
                    return await self.idle.pop().ask(head, content)
            create = asyncio.get_running_loop().create_connection
            try:
                _, connection = await create(lambda: _Connection(self.idle), self._host, self._port, ssl=self._ssl)
            except OSError as error:
                raise BrokenConnectionError(str(error)) from error
            return await connection.ask(head, content)

    def close(self) -> None:
        for connection in self.idle:
            connection.transport.close()
        self.idle.clear()


class _Connection(asyncio.Protocol):
    """One connection, one request at a time; it puts itself among the idle ones after each answer."""

    def __init__(self, idle: list[_Connection]) -> None:
        self._idle, self._loop = idle, asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._reply: asyncio.Future[Reply] | None = None
        self._parts: list[bytes] = []
        self._received = self._used = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)

    async def ask(self, head: bytes, content: bytes) -> Reply:
        reply: asyncio.Future[Reply] = self._loop.create_future()
        self._reply, self._received = reply, False
        self.transport.writelines((head, b"%d\r\n\r\n" % len(content), content))
        try:
            return await reply
        finally:
            if self._reply is reply:  # given up
                self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self._received = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(BrokenConnectionError(f"not an HTTP answer: {error}"))

    def on_body(self, part: bytes) -> None:
        self._parts.append(part)

    def on_message_complete(self) -> None:
        status, reply = self._parser.get_status_code(), self._reply
        content, self._parts = b"".join(self._parts), []
        if status < 200 or reply is None:
            return
        # From here on another request may use the connection, even before the one that waited goes on.
        self._reply, self._used = None, True
        if not reply.done():
            reply.set_result(Reply(status, content, time.monotonic()))
        if self._parser.should_keep_alive():
            self._idle.append(self)
        else:
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if self in self._idle:
            self._idle.remove(self)
        kind = _StaleConnectionError if self._used and not self._received else BrokenConnectionError
        self._fail(kind(str(error) if error else "the server closed the connection"))

    def _fail(self, error: Exception) -> None:
        reply, self._reply = self._reply, None
        if reply is not None and not reply.done():
            reply.set_exception(error)
        self.transport.abort()
