"""HTTP/1.1 on a connection: uvicorn's httptools protocol, with bounds on what a connection may cost.

uvicorn's own protocol waits for a head without limit, accepts heads and trailers of any size, and reads more pipelined
requests from the socket with every one that it answers. It closes right after an answer, which a client that still
sends its body then does not get, and it drops requests whose client ended its sending.
"""

import asyncio
import math
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from types import FunctionType
from typing import Any, cast

import httptools

from ..errors import ServiceError, StartError
from .answers import Sender, WholeAnswer
from .departure import Departure
from .limits import ConnectionLimits
from .watch import Phase, Watch

ADVICE = "install a version that pyproject.toml names"

try:
    from uvicorn import Config, Server
    from uvicorn._types import ASGI3Application
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
    from uvicorn.server import ServerState
except ImportError as error:
    raise StartError(f"the installed uvicorn has another HTTP protocol: {error}; {ADVICE}") from error

# What this folder uses of uvicorn beyond what it documents; checked at start.
USED = {
    Server: {"lifespan", "server_state", "servers", "shutdown", "startup"},
    HttpToolsProtocol: {
        "_start_asgi_task", "cycle", "eof_received", "flow", "headers", "on_response_complete", "parser", "pipeline",
        "scope", "shutdown", "timeout_keep_alive_handler", "url",
    },
    RequestResponseCycle: {
        "disconnected", "flow", "keep_alive", "message_event", "on_response", "response_complete", "response_started",
        "scope", "send", "transport", "waiting_for_100_continue",
    },
}  # fmt: skip
BETWEEN_FIELDS = 4  # bytes: the colon, a space and the line's end
SHORT_BODY = 1 << 16  # bytes; answered before it is there, it costs less to read than a new connection


class BoundedProtocol(HttpToolsProtocol):
    """One connection.

    Args:
        limits: what it may cost.
        report: called with the code of each refusal that no application sees.

    """

    def __init__(
        self,
        limits: ConnectionLimits,
        report: Callable[[str], None],
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits, self._report, self._server_state = limits, report, server_state
        self._in_head, self._whole, self._upgrade = False, True, False
        self._chunk, self._head_size, self._unused = 0, 0, 0  # bytes; unused: read since the last that were body
        self._refused, self._lingering = False, False  # reads no further request; nor will it answer any
        self._ended = False  # the client sends nothing more
        self._thrown_away = 0  # bytes
        self._would_last = False  # the connection, once the body is whole
        self._fault: ServiceError = ServiceError("malformed", "this is no HTTP request")
        self._running: RequestResponseCycle | None = None
        self._address = ""
        self._watch: Watch  # from when the connection is made
        self._client: Departure
        self._answers: _AnswerTransport

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._answers = _AnswerTransport(transport, self._end)
        self._client = Departure(asyncio.get_running_loop(), transport, self._may_be_asked)
        shortest_s = min(self._limits.head_s, self._limits.body_s, self._limits.idle_s)
        self._watch = Watch(asyncio.get_running_loop(), transport, shortest_s, self._limits.idle_s, self._over)
        self._address = self.client[0] if self.client else ""
        excess = self._limits.enter(self._address, len(self._server_state.connections))
        if excess > self._limits.spare:
            transport.abort()
            return
        self._wait()
        if excess > 0:
            self._refuse(
                ServiceError(
                    "too_many_connections",
                    "the server, or your address, has as many connections as it may: try again later",
                    1.0,
                )
            )

    def connection_lost(self, exc: Exception | None) -> None:
        self._limits.leave(self._address)
        self._watch.stop()
        self._client.stop()
        for cycle in (self.cycle, self._running, *(waiting for waiting, _ in self.pipeline)):
            self._limits.admission.leave(cycle)
        if self._running is not None and not self._running.response_complete:
            _disconnect(self._running)  # of pipelined requests, uvicorn tells only the last
        self._client.has_left.set_result(None)
        super().connection_lost(exc)

    def timeout_keep_alive_handler(self) -> None:
        """Does nothing: :class:`Watch` bounds the time between two requests."""

    def shutdown(self) -> None:
        self._would_last = False
        if not self._lingering:
            super().shutdown()
            self._cut_if_it_stays()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection for the answers that are due; True does.

        A client that closed its socket looks the same as one that ended its sending alone: see :class:`Departure`.
        """
        self._ended, newest = True, self.cycle
        if self.scheme == "https":  # in which nobody ends the sending alone
            return False
        if self._lingering or newest is None or newest.response_complete or newest.disconnected:
            return False
        if not (self._whole or self._in_head or self._refused):
            self._cut(ServiceError("malformed", "the body ended before it was whole"))
        newest.keep_alive = False
        if not self._lingering:
            self._client.follow()
        return not self._lingering

    def _may_be_asked(self) -> bool:
        running = self._running
        return running is not None and not running.response_started and running.scope["http_version"] == "1.1"

    def data_received(self, data: bytes) -> None:
        if self._refused:
            self._thrown_away += len(data)
            if self._thrown_away > self._limits.rest_bytes:
                self.transport.close()
            return
        self._chunk = len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._stay_with_http_1(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            self._refuse(self._fault)
            return
        if not self._whole:
            self._unused += self._chunk
            head_bytes = self._limits.head_bytes
            if self._unused > head_bytes or (self._in_head and self._chunk > head_bytes < self._fields_size()):
                self._refuse(self._too_large())
            elif not self._in_head and not self.cycle.response_started and self.cycle.keep_alive and self._is_long():
                self.cycle.keep_alive, self._would_last = False, True
        self._wait()

    def resume_writing(self) -> None:
        self._watch.moved()
        super().resume_writing()

    # What the parser finds

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._whole, self._upgrade = True, False, False
        self._head_size, self._unused = 0, -self._chunk  # where in this chunk it begins is not known

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            super().on_header(name, value)
        else:  # a trailer is no header: it comes after the head was judged
            self._count(len(name) + len(value) + BETWEEN_FIELDS)

    def on_headers_complete(self) -> None:
        if self.parser.get_method() == b"CONNECT":
            self._fail(ServiceError("malformed", "CONNECT is not answered: this is no proxy"))
        if len(self.pipeline) >= self._limits.pipelined:
            self._fail(ServiceError("malformed", "too many requests at once on one connection"))
        self._in_head = False
        self._count(self._fields_size())
        self.scope["state"].update(arrived=time.monotonic(), departure=self._client.has_left)
        self._upgrade = self.parser.should_upgrade()
        if not self._upgrade:
            root = self._limits.root_path
            if root and self.url.startswith(root + b"/"):
                self.url = self.url.removeprefix(root)
            super().on_headers_complete()
            self.cycle.transport = self._answers  # type: ignore[assignment]
            self._would_last = False

    def on_body(self, body: bytes) -> None:
        self._unused = -self._chunk
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._upgrade:
            self._whole = True
            super().on_message_complete()
            if not self.pipeline:
                self.flow.resume_reading()  # or nobody would see the client leave
            if self._would_last and not self.cycle.response_started:
                self.cycle.keep_alive = True
            if not self.cycle.response_complete:
                self._limits.admission.enter(self.cycle)

    def _count(self, size: int) -> None:
        self._head_size += size
        if self._head_size > self._limits.head_bytes:
            self._fail(self._too_large())

    def _fields_size(self) -> int:
        """Bytes of the target and of the headers that are there."""
        return len(self.url) + sum([len(name) + len(value) + BETWEEN_FIELDS for name, value in self.headers])

    def _is_long(self) -> bool:
        """Whether the body is longer than is worth reading after its answer for keeping the connection."""
        size = next((value for name, value in self.headers if name == b"content-length"), b"")
        return not size.isdigit() or int(size) > SHORT_BODY

    def _fail(self, error: ServiceError) -> None:
        """End the parsing: the parser turns what a callback raises into an error of its own."""
        self._fault = error
        raise error

    def _too_large(self) -> ServiceError:
        return ServiceError("head_too_large", f"the request's head has more than {self._limits.head_bytes:,} bytes")

    def _stay_with_http_1(self, rest: bytes) -> None:
        """Parse a head again without its Upgrade header: the parser would take the body for bytes of that protocol."""
        head = [self.parser.get_method(), b" ", self.url, b" HTTP/1.1\r\n"]
        for name, value in self.headers:
            if name != b"upgrade":
                head += [name, b": ", value, b"\r\n"]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"".join([*head, b"\r\n", rest]))

    # The answers

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        if self._limits.admission.refuses(cycle.scope):
            # once the parser is done with what it is at
            asyncio.get_running_loop().call_soon(self._turn_away, cycle)
        else:
            answering = cast(ASGI3Application, partial(_answer, cycle, app, self._write))
            self._limits.starts.begin(cycle.scope, partial(super()._start_asgi_task, cycle, answering))

    def _turn_away(self, cycle: RequestResponseCycle) -> None:
        """Answer a request that is not admitted, without the task and the messages of an application."""
        if cycle.disconnected:
            return
        self._write(self._limits.admission.refusal(cycle.scope), cycle.keep_alive)
        cycle.response_started = cycle.response_complete = True
        if not cycle.keep_alive:
            self._end()
        self.on_response_complete()
        cycle.on_response = lambda: None  # a finished cycle must not keep its connection in memory

    def on_response_complete(self) -> None:
        self._limits.admission.leave(self._running)
        super().on_response_complete()
        self._wait()

    def _refuse(self, error: ServiceError) -> None:
        """Answer a request that no application will see, read nothing more, and close.

        Requests that came before it on the connection get their answers first, and it gets none.
        """
        self._report(error.code)
        self._cut(error)

    def _cut(self, error: ServiceError) -> None:
        """As :meth:`_refuse`, unreported."""
        self._refused = True
        newest = self.cycle
        if newest is not None and not newest.response_complete:
            if self.pipeline or self._whole or self._in_head:
                newest.keep_alive = False
                self._wait()
                return
            _disconnect(newest)
        if newest is None or newest.response_complete or not newest.response_started:
            self._write(WholeAnswer.of(error), keep_alive=False)
        self._linger()

    def _end(self) -> None:
        """Close after an answer; a client that may still send must have read it first.

        A socket that is closed while bytes arrive is reset, and a reset takes the answer from the client.
        """
        if self._ended or self.transport.is_closing() or (self._whole and not self._refused and not self.pipeline):
            self.transport.close()
            self._cut_if_it_stays()
        else:
            self._linger()

    def _cut_if_it_stays(self) -> None:
        """Over TLS a connection that closes waits for its client to answer so, half a minute by default."""
        if self.scheme == "https" and self.transport.is_closing():
            asyncio.get_running_loop().call_later(self._limits.linger_s, self.transport.abort)

    def _linger(self) -> None:
        """Send nothing more, and throw away what comes, until the client closes or has used up its time or bytes."""
        self._refused = self._lingering = True
        while self.pipeline:
            self._limits.admission.leave(self.pipeline.pop()[0])
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._wait()

    # The time

    def _wait(self) -> None:
        """Tell the watch what the connection waits for now."""
        answering = self.cycle is not None and not (self.cycle.response_complete or self.cycle.disconnected)
        if self._lingering:
            self._watch.expect("linger", self._limits.linger_s if self._whole else self._limits.head_s)
        elif answering and (self._whole or self._refused):
            self._watch.expect("answer", math.inf)
        elif answering:
            self._watch.expect("body", self._limits.body_s)
        elif self.cycle is None or self._in_head:
            self._watch.expect("head", self._limits.head_s)
        elif not self._whole:
            self._watch.expect("rest", self._limits.head_s)
        else:
            self._watch.expect("idle", self._limits.idle_s)

    def _over(self, phase: Phase) -> None:
        if phase == "head" and self._in_head:
            self._refuse(ServiceError("too_slow", f"the request's head was not there within {self._limits.head_s:g} s"))
        elif phase == "body" and not self.pipeline:
            self._refuse(ServiceError("too_slow", f"the request's body was not there within {self._limits.body_s:g} s"))
        else:
            self.transport.close()

    def _write(self, answer: WholeAnswer, keep_alive: bool) -> None:
        own = [b"%s: %s\r\n" % header for header in self._server_state.default_headers]
        end = b"\r\n" if keep_alive else b"connection: close\r\n\r\n"
        self.transport.write(b"".join([answer.head, *own, end, answer.body]))


class _AnswerTransport:
    """What an answer is written to: the connection's transport, but for how it is closed."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.write, self.is_closing, self.close = transport.write, transport.is_closing, close


async def _answer(
    cycle: RequestResponseCycle,
    app: ASGI3Application,
    write: Callable[[WholeAnswer, bool], None],
    scope: Any,
    receive: Any,
    _send: Any,
) -> None:
    await app(scope, receive, Sender(cycle, write))


def _disconnect(cycle: RequestResponseCycle) -> None:
    """Tell a request's application that nobody reads its answer."""
    cycle.disconnected = True
    cycle.message_event.set()


def check_uvicorn() -> None:
    """See whether the installed uvicorn has what this folder is built on.

    Raises:
        StartError: it has not.

    """
    missing = [
        f"{kind.__name__}.{name}"
        for kind, names in USED.items()
        for name in sorted(names - set(dir(kind)))
        if not any(name in made.__code__.co_names for made in vars(kind).values() if isinstance(made, FunctionType))
    ]
    if missing:
        raise StartError(f"uvicorn {version('uvicorn')} has no {', '.join(missing)}; {ADVICE}")
