"""Connections that send what they like: whole requests, parts of them, slowly, and without waiting for an answer."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

ENDED = (ConnectionError, asyncio.IncompleteReadError, OSError)
RESET = struct.pack("ii", 1, 0)


class Connection:
    """One connection of a client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self._writer = reader, writer

    @classmethod
    async def open(cls, base: str, source: str | None = None) -> Connection:
        """Connect, from an address of this machine if one is given."""
        parts = urlsplit(base)
        local = (source, 0) if source else None
        return cls(*await asyncio.open_connection(parts.hostname, parts.port, local_addr=local))

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        """The next answer's status and content.

        Raises:
            ENDED: the connection ended before it was whole.

        """
        head = await self.reader.readuntil(b"\r\n\r\n")
        status, length = int(head.split(b" ", 2)[1]), 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        return status, await self.reader.readexactly(length)

    def close(self, reset: bool = False) -> None:
        """Close; with a reset, what is on its way is dropped."""
        if reset:
            connection: socket.socket = self._writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self._writer.transport.abort()
        else:
            self._writer.close()


def request(path: str, content: bytes = b"", headers: Mapping[str, str] | None = None, method: str = "POST") -> bytes:
    """A whole request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: faults", f"Content-Length: {len(content)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + content


def pieces(data: bytes, count: int) -> Sequence[bytes]:
    """Data in so many parts."""
    size = max(1, -(-len(data) // count))
    return [data[start : start + size] for start in range(0, len(data), size)]
