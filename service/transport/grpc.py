"""The port of gRPC: listening, limits of its connections, encryption, draining. The calls are the API's.

``grpc.aio`` works on uvloop as on asyncio's own loop: a thread of gRPC waits for its events, and wakes the loop by a
socket that the loop watches like any other.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable

import grpc

from ..errors import StartError
from ..settings import Settings
from .tls import Certificates

log = logging.getLogger(__name__)
STREAMS = 1024  # calls at once on a connection; a client waits with more, or opens another
IDENTITY = 1  # the one way to encode messages that is taken: not at all
LAST_CALLS_S = 0.2  # calls are taken so long: those that gRPC has received, and not handed over yet, it would cancel
OTHERS_S = 1.0  # after the last call, for streams of health and reflection, whose clients learn of the end
LOOK_S = 0.02


class GrpcPort:
    """Answers calls on a port of its own, in the event loop it was started in.

    Args:
        certificates: None for a port without encryption.
        register: adds the services to the server.
        under_way: how many calls are being answered.
        on_drain: called when no more are taken.

    Attributes:
        port: that is listened on, from the start on.

    """

    def __init__(
        self,
        settings: Settings,
        certificates: Certificates | None,
        register: Callable[[grpc.aio.Server], None],
        under_way: Callable[[], int],
        on_drain: Callable[[], None],
    ) -> None:
        self._settings, self._certificates = settings, certificates
        self._register, self._under_way, self._on_drain = register, under_way, on_drain
        self._server: grpc.aio.Server | None = None
        self._draining: asyncio.Task[None] | None = None
        self.port = settings.grpc_port or 0

    async def start(self) -> None:
        """Listen.

        Raises:
            StartError: the port is taken, or the address is none of this machine.

        """
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # or strangers fill the log
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        server = grpc.aio.server(
            options=_options(self._settings), maximum_concurrent_rpcs=self._settings.max_connections
        )
        self._register(server)
        try:
            if self._certificates is None:
                self.port = server.add_insecure_port(f"{host}:{self.port}")
            else:
                self.port = server.add_secure_port(f"{host}:{self.port}", _credentials(self._certificates))
        except RuntimeError as error:
            raise StartError(
                f"gRPC cannot listen on {host}:{self.port}: the port is taken, or no such address"
            ) from error
        await server.start()
        self._server = server
        log.info("gRPC running on %s:%d", host, self.port)

    async def start_after(self, ready: Awaitable[None]) -> None:
        """Listen once this process is ready: the port is one that others listen on, too, and answer meanwhile."""
        try:
            await ready
            await self.start()
        except StartError as error:
            log.error("%s", error)
            os.kill(os.getpid(), signal.SIGTERM)  # another takes its place

    def drain(self) -> None:
        """Begin to end: the port closes, and calls that are under way get their time."""
        if self._draining is None:
            self._on_drain()
            self._draining = asyncio.ensure_future(self._drain())

    async def close(self) -> None:
        """Return once all calls have ended, or their time is over."""
        self.drain()
        if self._draining is not None:
            await self._draining

    async def _drain(self) -> None:
        if self._server is None:  # it has not come to that
            return
        await asyncio.sleep(LAST_CALLS_S)
        stopping = asyncio.ensure_future(self._server.stop(self._settings.drain_timeout_s))
        while self._under_way() and not stopping.done():
            await asyncio.sleep(LOOK_S)
        await self._server.stop(OTHERS_S)
        await stopping


def _credentials(certificates: Certificates) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials(
        [(certificates.key.read_bytes(), certificates.certificate.read_bytes())],
        certificates.client_ca.read_bytes() if certificates.client_ca else None,
        require_client_auth=certificates.client_ca is not None,
    )


def _options(settings: Settings) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", int(settings.processes > 1)),  # else a port that is taken is refused
        ("grpc.max_receive_message_length", settings.max_body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.compression_enabled_algorithms_bitset", IDENTITY),
        ("grpc.max_concurrent_streams", STREAMS),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.server_handshake_timeout_ms", int(1000 * settings.header_timeout_s)),
        ("grpc.max_connection_idle_ms", 1000 * settings.idle_timeout_s),
        ("grpc.server_max_unrequested_time_in_server", max(1, int(settings.request_timeout_s))),
    ]
