"""Messages between the supervisor and a worker, over a socket that only these two have."""

import asyncio
import pickle
import socket
from typing import Any, Self

LENGTH = 4  # bytes


def pack(*message: Any) -> bytes:
    """A message as it is sent."""
    packed = pickle.dumps(message)
    return len(packed).to_bytes(LENGTH, "little") + packed


class Channel:
    """One end. It trusts what comes: the process at the other was started by this one or started it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, own: socket.socket) -> Self:
        """Take over one end of a pair of sockets."""
        return cls(*await asyncio.open_unix_connection(sock=own))

    def send(self, *message: Any) -> None:
        """Send something that can be pickled; lost where the other end is gone."""
        if not self._writer.is_closing():
            self._writer.write(pack(*message))

    async def receive(self) -> tuple[Any, ...] | None:
        """The next message; None at the end."""
        try:
            length = int.from_bytes(await self._reader.readexactly(LENGTH), "little")
            message: tuple[Any, ...] = pickle.loads(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return message

    def close(self) -> None:
        """Send nothing more."""
        self._writer.close()


class Outcome:
    """What became of an act: pickled, so that whoever only passes it on need not read it."""

    def __init__(self, value: object = None, error: Exception | None = None) -> None:
        self.failed, self._packed = error is not None, pickle.dumps((value, error))

    def read(self) -> Any:
        """The value, or raises the error."""
        value, error = pickle.loads(self._packed)
        if error is not None:
            raise error
        return value
