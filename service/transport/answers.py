"""Answers that are written whole: head and body at once."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self

from ..errors import ServiceError, problem

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

USUAL = frozenset(HTTPStatus) - {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}  # statuses of answers with a body
Message = Any  # ASGI's; uvicorn has types of its own


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """An answer that is there whole.

    Attributes:
        head: status and headers, without the server's own and the empty line.

    """

    head: bytes
    body: bytes

    @classmethod
    def of(cls, error: ServiceError) -> Self:
        """The answer to what cannot be read as a request."""
        told, headers = problem(error)
        body = json.dumps(told).encode()
        headers |= {
            "Content-Type": "application/problem+json",
            "Content-Length": str(len(body)),
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        }
        encoded = ((name.lower().encode(), value.encode()) for name, value in headers.items())
        return cls.render(told["status"], encoded, body)

    @classmethod
    def render(cls, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> Self:
        """An answer with those headers."""
        lines = [b"%s: %s\r\n" % header for header in headers]
        return cls(b"".join([_status_line(status), *lines]), body)


@lru_cache(maxsize=128)
def _status_line(status: int) -> bytes:
    return b"HTTP/1.1 %d %s\r\n" % (status, HTTPStatus(status).phrase.encode())


class Sender:
    """What an application sends its answer to. A short one goes to the socket at once, any other uvicorn's way.

    uvicorn takes head and body apart, and searches every header with two regular expressions.

    Args:
        write: writes a whole answer and the server's own headers; it is told whether the connection is kept.

    """

    def __init__(self, cycle: "RequestResponseCycle", write: Callable[[WholeAnswer, bool], None]) -> None:
        self._cycle, self._write = cycle, write
        self._start: Message = None

    async def __call__(self, message: Message) -> None:
        cycle, start = self._cycle, self._start
        if start is None and message["type"] == "http.response.start" and not cycle.response_started:
            self._start = message  # until the body comes
            return
        self._start = None
        whole = _whole(start, message) if start is not None and cycle.scope["method"] != "HEAD" else None
        if whole is None:
            if start is not None:
                await cycle.send(start)
            await cycle.send(message)
            return
        if cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()
        if cycle.disconnected:
            return
        self._write(whole, cycle.keep_alive)
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()


def _whole(start: Message, message: Message) -> WholeAnswer | None:
    """An answer from its two messages; None where there is more to it than a length and headers of the application."""
    if message["type"] != "http.response.body" or message.get("more_body") or start["status"] not in USUAL:
        return None
    headers, body, length = start["headers"], message.get("body", b""), None
    for name, value in headers:
        if name == b"content-length":
            length = value
        elif not name.islower() or name in {b"connection", b"transfer-encoding"}:
            return None
    if length != b"%d" % len(body):
        return None
    answer = WholeAnswer.render(start["status"], headers, body)
    lines = len(headers) + 1
    if answer.head.count(b"\n") != lines or answer.head.count(b"\r") != lines or b"\0" in answer.head:
        return None  # a header with a line's end in it, which uvicorn refuses
    return answer
