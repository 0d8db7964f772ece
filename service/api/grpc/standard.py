"""Two standard services beside the protocol's own: health, and reflection, by which tools learn what is served."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from ..operations import Health
from .calls import SERVICE
from .messages import DESCRIPTOR
from .models import is_so

HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
REFLECTION = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"].full_name
LOOK_S = 0.5  # seconds between looks at the health for those who watch it
MOST = 128  # streams of these two services at once, which everybody may open and keep


class Streams:
    """Counts streams that last as long as their clients like."""

    def __init__(self) -> None:
        self._open = 0

    @contextmanager
    def enter(self) -> Iterator[bool]:
        """Count one as long as the context lasts; says whether there may be another."""
        self._open += 1
        try:
            yield self._open <= MOST
        finally:
            self._open -= 1


class Readiness(health_pb2_grpc.HealthServicer):
    """The standard health service: SERVING while the server is ready, as a whole ("") and for its protocol."""

    def __init__(self, health: Health, streams: Streams) -> None:
        self._health, self._streams = health, streams
        self.draining = False

    async def _status(self, service: str) -> int:
        if service not in {"", SERVICE}:
            return health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        ready = not self.draining and await is_so(self._health.check_ready())
        return health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> health_pb2.HealthCheckResponse:  # noqa: N802
        status = await self._status(request.service)
        if status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service is called {request.service[:64]!r} here")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:  # noqa: N802
        told = None
        with self._streams.enter() as may_stay:
            if not may_stay:
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many streams are open")
            while True:
                last, status = self.draining, await self._status(request.service)
                if status != told:
                    await context.write(health_pb2.HealthCheckResponse(status=status))
                if last:
                    return
                told = status
                await asyncio.sleep(LOOK_S)


class Reflection(reflection_pb2_grpc.ServerReflectionServicer):
    """The standard reflection service, for a limited number of streams."""

    def __init__(self, streams: Streams) -> None:
        pool = DescriptorPool()
        for described in (DESCRIPTOR, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
            pool.Add(FileDescriptorProto.FromString(described.serialized_pb))
        self._whole: Any = reflection.aio.ReflectionServicer([SERVICE, HEALTH, REFLECTION], pool=pool)
        self._streams = streams

    async def ServerReflectionInfo(  # noqa: N802
        self, request_iterator: Any, context: Any
    ) -> AsyncIterator[reflection_pb2.ServerReflectionResponse]:
        with self._streams.enter() as may_stay:
            if not may_stay:
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many streams are open")
            async for answer in self._whole.ServerReflectionInfo(request_iterator, context):
                yield answer


class Standard:
    """Both services.

    Args:
        reflection: whether there is that one.

    """

    def __init__(self, health: Health, *, reflection: bool) -> None:
        streams = Streams()
        self._readiness = Readiness(health, streams)
        self._reflection = Reflection(streams) if reflection else None

    def drain(self) -> None:
        """Be ready no more."""
        self._readiness.draining = True

    def add_to(self, server: grpc.aio.Server) -> None:
        """Let a server answer them."""
        health_pb2_grpc.add_HealthServicer_to_server(self._readiness, server)
        if self._reflection is not None:
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(self._reflection, server)  # type: ignore[no-untyped-call]
