"""HTTP/1.1 on a connection: uvicorn's httptools protocol, with bounds on what a connection may cost.

uvicorn's own protocol waits for a head without limit, accepts heads and trailers of any size, and reads more pipelined
requests from the socket with every one that it answers.
"""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from types import FunctionType
from typing import Any

import httptools

from ..errors import ServiceError, StartError
from .admission import AdmissionControl, Refusal
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
        "_start_asgi_task", "cycle", "flow", "headers", "on_response_complete", "parser", "pipeline", "scope",
        "timeout_keep_alive_handler", "url",
    },
    RequestResponseCycle: {
        "disconnected", "keep_alive", "message_event", "on_response", "response_complete", "response_started", "scope",
    },
}  # fmt: skip
BETWEEN_FIELDS = 4  # bytes: the colon, a space and the line's end


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What connections may cost.

    Attributes:
        connections: how many there may be; more are answered 503.
        head_s: seconds for a head, from the connection or its first byte; as many for the rest of a body that was
            answered before it was there.
        body_s: seconds for a body; longer than any route waits for one.
        idle_s: seconds between two requests; as many in which an answer may make no way to its reader.
        spare: connections that are held beyond the limit to be answered; what comes on top is cut.
        head_bytes: largest head, the trailers of its body included.
        pipelined: requests that may wait behind the one being answered; with one more, the connection ends.
        linger_s: seconds that a client has to read why it was refused.
        admission: refuses work under overload; the default never does.

    """

    connections: int
    head_s: float
    body_s: float
    idle_s: float
    spare: int = 64
    head_bytes: int = 32 << 10
    pipelined: int = 8
    linger_s: float = 1.0
    admission: AdmissionControl = field(default_factory=AdmissionControl)


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
        self._refused = False
        self._fault: ServiceError = ServiceError("malformed", "this is no HTTP request")
        self._running: RequestResponseCycle | None = None
        self._watch: Watch  # from when the connection is made
        self._departure: asyncio.Future[None]  # done when the client has left

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._departure = asyncio.get_running_loop().create_future()
        shortest_s = min(self._limits.head_s, self._limits.body_s, self._limits.idle_s)
        self._watch = Watch(asyncio.get_running_loop(), transport, shortest_s, self._limits.idle_s, self._over)
        excess = len(self._server_state.connections) - self._limits.connections
        if excess > self._limits.spare:
            transport.abort()
            return
        self._wait()
        if excess > 0:
            self._refuse(
                ServiceError(
                    "too_many_connections", "the server has as many connections as it may: try again later", 1.0
                )
            )

    def connection_lost(self, exc: Exception | None) -> None:
        self._watch.stop()
        for cycle in (self.cycle, self._running, *(waiting for waiting, _ in self.pipeline)):
            self._limits.admission.inside.discard(cycle)
        if self._running is not None and not self._running.response_complete:
            _disconnect(self._running)  # of pipelined requests, uvicorn tells only the last
        self._departure.set_result(None)
        super().connection_lost(exc)

    def timeout_keep_alive_handler(self) -> None:
        """Does nothing: :class:`Watch` bounds the time between two requests."""

    def data_received(self, data: bytes) -> None:
        if self._refused:
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
            if self._unused > self._limits.head_bytes:
                self._refuse(self._too_large())
        self._wait()

    def resume_writing(self) -> None:
        self._watch.moved()
        super().resume_writing()

    # What the parser finds

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._whole, self._upgrade = True, False, False
        self._head_size, self._unused = 0, -self._chunk  # where in this chunk it begins is not known

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + BETWEEN_FIELDS)
        if self._in_head:  # a trailer is no header: it comes after the head was judged
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.get_method() == b"CONNECT":
            self._fail(ServiceError("malformed", "CONNECT is not answered: this is no proxy"))
        if len(self.pipeline) >= self._limits.pipelined:
            self._fail(ServiceError("malformed", "too many requests at once on one connection"))
        self._in_head = False
        self.scope["state"].update(arrived=time.monotonic(), departure=self._departure)
        self._upgrade = self.parser.should_upgrade()
        if not self._upgrade:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unused = -self._chunk
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._upgrade:
            self._whole = True
            super().on_message_complete()
            if not self.pipeline:
                self.flow.resume_reading()  # or nobody would see the client leave
            if not self.cycle.response_complete:
                self._limits.admission.inside.add(self.cycle)

    def _count(self, size: int) -> None:
        self._head_size += size
        if self._head_size > self._limits.head_bytes:
            self._fail(self._too_large())

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
            super()._start_asgi_task(cycle, app)

    def _turn_away(self, cycle: RequestResponseCycle) -> None:
        """Answer a request that is not admitted, without the task and the messages of an application."""
        if cycle.disconnected:
            return
        self._write(self._limits.admission.refusal(cycle.scope["path"]), cycle.keep_alive)
        cycle.response_started = cycle.response_complete = True
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()
        cycle.on_response = lambda: None  # a finished cycle must not keep its connection in memory

    def on_response_complete(self) -> None:
        self._limits.admission.inside.discard(self._running)
        super().on_response_complete()
        self._wait()

    def _refuse(self, error: ServiceError) -> None:
        """Answer a request that no application will see, read nothing more, and close.

        Requests that came before it on the connection get their answers first, and it gets none.
        """
        self._refused = True
        newest = self.cycle
        self._report(error.code)
        if newest is not None and not newest.response_complete:
            if self.pipeline or self._whole or self._in_head:
                newest.keep_alive = False
                self._wait()
                return
            _disconnect(newest)
        if newest is None or newest.response_complete or not newest.response_started:
            self._write(Refusal.of(error), keep_alive=False)
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._wait()

    # The time

    def _wait(self) -> None:
        """Tell the watch what the connection waits for now."""
        answering = self.cycle is not None and not (self.cycle.response_complete or self.cycle.disconnected)
        if answering and (self._whole or self._refused):
            self._watch.expect("answer", math.inf)
        elif answering:
            self._watch.expect("body", self._limits.body_s)
        elif self._refused:
            self._watch.expect("linger", self._limits.linger_s)
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

    def _write(self, refusal: Refusal, keep_alive: bool) -> None:
        own = [b"%s: %s\r\n" % header for header in self._server_state.default_headers]
        end = b"\r\n" if keep_alive else b"connection: close\r\n\r\n"
        self.transport.write(b"".join([refusal.head, *own, end, refusal.body]))


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
