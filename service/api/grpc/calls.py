"""What is done around every call: the same as around every request over HTTP, by the same parts.

A call is a request of HTTP/2, and is described here as ASGI would: its headers are the metadata.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NoReturn, cast
from urllib.parse import unquote

import grpc
from fastapi import Request
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from starlette.types import Scope

from ...auth.access import AccessControl, Level
from ...errors import STATUS, Code, ServiceError
from ...inference.registry import ServedModel
from ..exchange import PROMPT_S, BodyMemory, Exchange
from ..middleware import RequestObserver
from ..problems import Refused
from .messages import DESCRIPTOR

SERVICE = DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
DETAILS, REQUEST_ID = "grpc-status-details-bin", "x-request-id"
DOMAIN = "lccl"
LATE_SHARE = 0.9  # of a call's time; a client that leaves after it is one whose own clock, begun earlier, ran out
Context = grpc.aio.ServicerContext[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Call:
    """A call that was admitted and read.

    Attributes:
        request: the call as a request over HTTP.
        message: what was sent.
        remaining_s: seconds from its arrival after which its client no longer waits (``grpc-timeout``); infinity
            where it did not say.

    """

    request: Request
    message: bytes
    remaining_s: float

    def parse(self, message: Message) -> None:
        """Fill a message with what was sent.

        Raises:
            ServiceError, malformed: it is no such message.

        """
        try:
            message.ParseFromString(self.message)
        except DecodeError as error:
            raise ServiceError("malformed", f"this is no {message.DESCRIPTOR.name}: {error}") from error

    def find(self, exchange: Exchange, name: str, version: str) -> ServedModel:
        """The model that a message names, or its version; metrics and log get its name.

        Raises:
            ServiceError, unknown_model: it is not loaded.

        """
        self.request.scope["path_params"] = {"model": name, "version": version or None}
        return exchange.find(self.request)


@dataclass(frozen=True, slots=True)
class Procedure:
    """One method of the service.

    Attributes:
        level: who may call it. What everybody may call takes an empty message, which is not read.

    """

    name: str
    answer: Callable[[Call], Awaitable[Message]]
    level: Level = "key"

    @property
    def path(self) -> str:
        return f"/{SERVICE}/{self.name}"


class Calls:
    """Answers calls: who asks, how often, how much memory, errors as statuses, metrics and the log.

    Args:
        proxies: sets the client's address of a scope by what trusted proxies say.
        limit_s: seconds in which a call's message has to be there.

    """

    def __init__(
        self,
        observer: RequestObserver,
        access: AccessControl,
        bodies: BodyMemory,
        limit_s: float,
        *,
        scheme: str,
        proxies: Callable[[Scope], None],
    ) -> None:
        self._observer, self._access, self._bodies = observer, access, bodies
        self._limit_s, self._scheme, self._proxies = limit_s, scheme, proxies
        self._under_way = 0

    def under_way(self) -> int:
        """How many calls are being answered."""
        return self._under_way

    def handler(self, procedures: Sequence[Procedure]) -> grpc.GenericRpcHandler:
        """The service for gRPC. Its methods read their messages themselves, once it is known who asks."""

        def method(procedure: Procedure) -> "grpc.RpcMethodHandler[bytes, bytes]":
            async def answer(_: object, context: Context) -> bytes:
                self._under_way += 1
                try:
                    return await self._answer(procedure, context)
                finally:
                    self._under_way -= 1

            return grpc.stream_unary_rpc_method_handler(answer)

        return grpc.method_handlers_generic_handler(SERVICE, {one.name: method(one) for one in procedures})

    async def _answer(self, procedure: Procedure, context: Context) -> bytes:
        remaining_s, arrived = context.time_remaining(), time.monotonic()
        scope = self._scope(procedure, context, arrived)
        self._proxies(scope)
        work = partial(self._work, procedure, scope, context, math.inf if remaining_s is None else remaining_s)
        answer = await self._observer.observe(scope, work)
        told = ((REQUEST_ID, scope["state"]["request_id"]),)
        if isinstance(answer, bytes):
            context.set_trailing_metadata(told)
            return answer
        if answer[0]["code"] == "client_gone":
            raise asyncio.CancelledError
        return await _refuse(context, answer, told)

    def _scope(self, procedure: Procedure, context: Context, arrived: float) -> Scope:
        headers = [
            (key.encode(), value if isinstance(value, bytes) else value.encode("latin-1", "replace"))
            for key, value in context.invocation_metadata() or ()
        ]
        return {
            "type": "http", "http_version": "2", "method": "POST", "scheme": self._scheme, "path": procedure.path,
            "query_string": b"", "headers": headers, "client": _address(context.peer()), "route": procedure,
            "state": {"arrived": arrived},
        }  # fmt: skip

    async def _work(self, procedure: Procedure, scope: Scope, context: Context, remaining_s: float) -> bytes:
        request = Request(scope)
        try:
            await self._access.admit(request, procedure.level)
            if procedure.level == "open":
                answer = await procedure.answer(Call(request, b"", remaining_s))
            else:
                receiving = self._bodies.receive(scope["state"]["caller"].name, self._read(context))
                async with receiving as message:
                    answer = await procedure.answer(Call(request, message, remaining_s))
        except asyncio.CancelledError:  # by gRPC: the client left, or waits no longer
            if time.monotonic() < scope["state"]["arrived"] + LATE_SHARE * remaining_s:
                raise ServiceError("client_gone", "the client cancelled the call") from None
            raise ServiceError("timeout", "the call's own timeout passed before the answer was there") from None
        return answer.SerializeToString()

    async def _read(self, context: Context) -> bytes:
        """The message of a call.

        Raises:
            ServiceError, too_slow: it was not there in time.
            ServiceError, client_gone: it was not sent to its end, or is larger than gRPC takes, which has answered so.
            ServiceError, malformed: there is none.

        """
        try:
            async with asyncio.timeout(self._limit_s):
                message = await context.read()
        except TimeoutError:
            raise ServiceError("too_slow", f"the message was not there within {self._limit_s:g} s") from None
        if isinstance(message, bytes):
            return message
        ended = time.monotonic() + PROMPT_S
        while not context.done():  # a call's end is told a little later than that nothing is left to read
            if time.monotonic() > ended:
                raise ServiceError("malformed", "the call ended without a message")
            await asyncio.sleep(PROMPT_S / 10)
        raise ServiceError("client_gone", "the message was not whole when the call ended")


def _address(peer: str) -> tuple[str, int] | None:
    """Host and port of ``ipv4:127.0.0.1:1234`` or ``ipv6:%5B::1%5D:1234``."""
    kind, _, rest = unquote(peer).partition(":")
    host, _, port = rest.rpartition(":")
    return (host.strip("[]"), int(port)) if kind in {"ipv4", "ipv6"} and port.isdigit() else None


async def _refuse(context: Context, refused: Refused, told: tuple[tuple[str, str], ...]) -> NoReturn:
    status, details = _status(refused)
    await context.abort(status, refused[0]["detail"], (*told, (DETAILS, details)))


def _status(refused: Refused) -> tuple[grpc.StatusCode, bytes]:
    """The status of an error by the one table, and its details: the code, and when trying again makes sense."""
    told, headers = refused
    status = grpc.StatusCode[STATUS[cast(Code, told["code"])][1]]
    details: list[Message] = [ErrorInfo(reason=told["code"].upper(), domain=DOMAIN)]
    if "Retry-After" in headers:
        details.append(RetryInfo(retry_delay=Duration(seconds=int(headers["Retry-After"]))))
    rich = Status(code=status.value[0], message=told["detail"])
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        rich.details.append(packed)
    return status, rich.SerializeToString()
