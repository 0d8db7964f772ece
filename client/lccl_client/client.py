"""The two clients: thin transports around :mod:`lccl_client.wire`, one that blocks and one for asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Generic, Self, TypeVar, Unpack

import httpx

from lccl_client import wire
from lccl_client.answers import Answer, ModelList, ModelMetadata
from lccl_client.errors import ConnectionFailedError, LcclServerError
from lccl_client.images import Image, encoded
from lccl_client.retries import wait_s
from lccl_client.wire import Call, Options, T

Transport = TypeVar("Transport", httpx.Client, httpx.AsyncClient)


class _Base(Generic[Transport]):
    """How both clients are made."""

    _transport: type[Transport]

    def __init__(
        self, base_url: str, api_key: str | None = None, *, timeout: float = 30.0, retries: int = 0,
        max_retry_wait_s: float = 30.0,
    ) -> None:  # fmt: skip
        if retries < 0 or not max_retry_wait_s >= 0:
            raise ValueError("retries and max_retry_wait_s must not be negative")
        self._retries = (retries, max_retry_wait_s)
        limits = httpx.Timeout(timeout, pool=None)  # a request may wait for a free connection without a limit
        self._http: Transport = self._transport(base_url=base_url, headers=wire.key_headers(api_key), timeout=limits)


class Client(_Base[httpx.Client]):
    """A client of a model server, safe to share between threads. Use it in a ``with`` statement, or close it.

    Args:
        base_url: where the server is, such as ``http://127.0.0.1:8000``.
        api_key: sent as a bearer token.
        timeout: seconds to wait for a connection, and for each part of an answer.
        retries: how often a request refused with 429 or 503 is sent again, after the time the server names.
        max_retry_wait_s: a server that names a longer time is not waited for.

    Every method raises a :class:`~lccl_client.errors.LcclServerError` when the server answers with an error and a
    :class:`~lccl_client.errors.ConnectionFailedError` when it does not answer.

    """

    _transport = httpx.Client

    def classify(self, image: Image, **options: Unpack[Options]) -> Answer:
        """Classify one image: bytes, a path, an open file or a Pillow image; options: :class:`Options`."""
        return self.classify_many([image], **options)

    def classify_many(self, images: Sequence[Image], **options: Unpack[Options]) -> Answer:
        """Classify images in one request; the prediction of an unreadable image holds its ``error``."""
        return self._ask(Answer, wire.classify([encoded(image) for image in images], **options))

    def models(self) -> ModelList:
        """The served models."""
        return self._ask(ModelList, wire.MODELS)

    def model(self, name: str) -> ModelMetadata:
        """A model's labels, operating points, ranges and limits."""
        return self._ask(ModelMetadata, wire.describe_model(name))

    def ready(self) -> bool:
        """Whether the server can be reached and accepts requests."""
        try:
            return self._http.get("/health/ready").is_success
        except httpx.RequestError:
            return False

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, kind: type[T], call: Call) -> T:
        attempt = 0
        while True:
            try:
                return wire.read(kind, self._http.request(**call._asdict()))
            except httpx.RequestError as error:
                raise _no_answer(error) from error
            except LcclServerError as error:
                delay_s = wait_s(error, attempt, *self._retries)
            time.sleep(delay_s)
            attempt += 1


class AsyncClient(_Base[httpx.AsyncClient]):
    """:class:`Client` for asyncio. Use it in an ``async with``, or close it with ``aclose``."""

    _transport = httpx.AsyncClient

    async def classify(self, image: Image, **options: Unpack[Options]) -> Answer:
        """Classify one image: bytes, a path, an open file or a Pillow image; options: :class:`Options`."""
        return await self.classify_many([image], **options)

    async def classify_many(self, images: Sequence[Image], **options: Unpack[Options]) -> Answer:
        """Classify images in one request; the prediction of an unreadable image holds its ``error``."""
        contents = [image if isinstance(image, bytes) else await asyncio.to_thread(encoded, image) for image in images]
        return await self._ask(Answer, wire.classify(contents, **options))

    async def models(self) -> ModelList:
        """The served models."""
        return await self._ask(ModelList, wire.MODELS)

    async def model(self, name: str) -> ModelMetadata:
        """A model's labels, operating points, ranges and limits."""
        return await self._ask(ModelMetadata, wire.describe_model(name))

    async def ready(self) -> bool:
        """Whether the server can be reached and accepts requests."""
        try:
            return (await self._http.get("/health/ready")).is_success
        except httpx.RequestError:
            return False

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _ask(self, kind: type[T], call: Call) -> T:
        attempt = 0
        while True:
            try:
                return wire.read(kind, await self._http.request(**call._asdict()))
            except httpx.RequestError as error:
                raise _no_answer(error) from error
            except LcclServerError as error:
                delay_s = wait_s(error, attempt, *self._retries)
            await asyncio.sleep(delay_s)
            attempt += 1


def _no_answer(error: httpx.RequestError) -> ConnectionFailedError:
    return ConnectionFailedError(f"{error.request.url.copy_with(query=None)}: {error or type(error).__name__}")
