"""From a request with images to its answer: what v1, the skip map and the Open Inference Protocol do alike.

Bodies are read into memory, within limits on each and on all together.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from fastapi import Request
from starlette.types import Scope

from lccl.errors import ImageError
from lccl.request import QualityRequest

from ..errors import ServiceError
from ..inference.pipeline import Classified, Image, Pipeline
from ..inference.registry import Registry, ServedModel
from ..shares import SHARE
from ..telemetry.metrics import Metrics
from .time_limit import TimeLimit
from .turns import LoopTurns, joined

Details = TypeVar("Details")
Answer = TypeVar("Answer")
PROMPT_S = 0.05  # by then a body that was sent with its request is there


# What a protocol reads from a request: its images, encoded or fitting the network, its quality, what it needs to write
# the answer, and the seconds within which the client wants it, if it says so (else infinity).
Asked = tuple[Sequence[bytes | Image], QualityRequest, Details, float]
Read = Callable[[Request, bytes, ServedModel], Awaitable[Asked[Details]]]
Write = Callable[[Request, ServedModel, Details, Classified], Awaitable[Answer]]


def header(scope: Scope, name: bytes, default: str = "") -> str:
    """The first header of that name, given in lower case; cheaper than a mapping of all headers."""
    for given, value in scope["headers"]:
        if given == name:
            return str(value, "latin-1")
    return default


def refuse_compressed(request: Request) -> None:
    """Raises ServiceError (not_an_image) for a body with a content encoding."""
    if header(request.scope, b"content-encoding", "identity").lower() != "identity":
        raise ServiceError("not_an_image", "compressed bodies are not taken: send the request as it is")


class BodyMemory:
    """Counts the bytes of all bodies held at once and keeps them, each and together, under their limits.

    A client that holds a body may hold more up to eight times what that leaves free, so that there is room for others.
    """

    def __init__(self, per_body: int, together: int) -> None:
        self._per_body, self._together, self._held = per_body, together, 0
        self._held_by: Counter[str] = Counter()

    async def read(self, request: Request) -> bytes:
        """The whole body, whose bytes count until :meth:`release`.

        Raises:
            ServiceError, too_large: more bytes, also declared ones, than one body may have.
            ServiceError, overloaded: more than all bodies together, or this client's, may have.
            ServiceError, client_gone: the client left.

        """
        declared, client = header(request.scope, b"content-length"), request.scope["state"]["caller"].name
        self._check(int(declared) if declared.isascii() and declared.isdigit() else 0, 0, client)
        chunks, size, more = [], 0, True
        try:
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ServiceError("client_gone", "the client closed the connection during its upload")
                chunk, more = message.get("body", b""), message.get("more_body", False)
                if chunk:
                    self._check(size + len(chunk), size, client)
                    size += len(chunk)
                    self._hold(len(chunk), client)
                    chunks.append(chunk)
            return await joined(chunks)
        except BaseException:
            self._hold(-size, client)
            raise

    def release(self, request: Request, body: bytes) -> None:
        """Count a body no more."""
        self._hold(-len(body), request.scope["state"]["caller"].name)

    @asynccontextmanager
    async def receive(self, client: str, message: Awaitable[bytes]) -> AsyncIterator[bytes]:
        """A body that a library reads: its bytes count until the context ends.

        How much of it is there is not known before it is whole. If that takes a while, it counts as the largest.

        Raises:
            ServiceError, too_large, overloaded: as :meth:`read`.

        """
        held, reading = 0, asyncio.ensure_future(message)
        try:
            done, _ = await asyncio.wait((reading,), timeout=PROMPT_S)
            if not done:
                self._check(self._per_body, 0, client)
                held = self._per_body
                self._hold(held, client)
            body = await reading
            self._check(len(body), held, client)
            self._hold(len(body) - held, client)
            held = len(body)
            yield body
        finally:
            if not reading.cancel() and not reading.cancelled():
                reading.exception()  # told already, or of no use
            self._hold(-held, client)

    def _hold(self, more: int, client: str) -> None:
        self._held += more
        self._held_by[client] += more
        if not self._held_by[client]:
            del self._held_by[client]

    def _check(self, size: int, held: int, client: str) -> None:
        if size > self._per_body:
            raise ServiceError("too_large", f"the body has more than {self._per_body:,} bytes")
        left, others = self._together - self._held - size + held, self._held_by[client] - held
        if left < 0 or (others and others + size > SHARE * left):
            raise ServiceError("overloaded", "too many uploads are in progress: try again later", retry_after_s=1.0)


class Exchange:
    """Finds the model, holds the body, keeps the time limit, classifies, and times the stages.

    Args:
        limit_s: seconds from the request's head, after which it is answered with an error.

    Attributes:
        turns: of the event loop, for bodies that take long to read.

    """

    def __init__(
        self, registry: Registry, pipeline: Pipeline, bodies: BodyMemory, metrics: Metrics, limit_s: float
    ) -> None:
        self._registry, self._pipeline, self._bodies = registry, pipeline, bodies
        self._metrics, self._limit = metrics, TimeLimit(limit_s)
        self.turns = LoopTurns()

    async def run(
        self,
        request: Request,
        read: Read[Details],
        write: Write[Details, Answer],
        *,
        want_masks: bool = False,
        whole: bool = False,
        body: bytes | None = None,
    ) -> Answer:
        """Answer a request for the model and version that its path names, the default one without a name.

        Args:
            body: if it was read already, and counts as long as this takes.
            whole: the protocol has no place for the error of one image, which therefore fails the whole request.

        Raises:
            LcclError: whatever the request is refused for.

        """
        state = request.scope["state"]
        loop_delay_s = time.monotonic() - state["arrived"]
        model = self.find(request)
        task, held = self._limit.begin(), b""
        try:
            if body is None:
                body = held = await self._bodies.read(request)
            images, quality, details, limit_s = await read(request, body, model)
            classified = await self._pipeline.classify(
                model, images, quality, client=state["caller"].name, arrived=state["arrived"],
                loop_delay_s=loop_delay_s, departure=state.get("departure"), want_masks=want_masks,
                limit_s=limit_s,
            )  # fmt: skip
        except asyncio.CancelledError as error:
            if not self._limit.end(task):
                raise
            raise ServiceError(
                "timeout",
                f"no answer within {self._limit.limit_s:g} s: the server is busy, or the upload was slow",
            ) from error
        finally:
            self._limit.end(task)
            self._bodies.release(request, held)
        _check(classified, whole)
        state["classified"] = classified
        encoding_at = time.monotonic()
        answer = await write(request, model, details, classified)
        self._metrics.stage_duration.labels(model.name, "decode").observe(classified.decode_s)
        self._metrics.stage_duration.labels(model.name, "encode").observe(time.monotonic() - encoding_at)
        return answer

    def find(self, request: Request) -> ServedModel:
        """The model and version in a path; metrics and log get its name."""
        names = request.path_params
        model = self._registry.find(names.get("model"), names.get("version"))
        request.scope["state"]["model"] = model.name
        return model


def _check(classified: Classified, whole: bool) -> None:
    """Raise the first image's error if all images failed, or if any did and the protocol answers whole requests."""
    failed = [(index, error) for index, error in enumerate(classified.results) if isinstance(error, Exception)]
    if not failed or (classified.done and not whole):
        return
    index, error = failed[0]
    if whole and (classified.done or isinstance(error, ImageError)):
        error.args = (f"element {index}: {error}",)
    raise error
