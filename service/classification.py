"""Images → results, for one request of any protocol: decode, queue, await the device."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lccl.request import QualityRequest
from service.decode import decode, decode_if_small
from service.errors import ClientGoneError, EngineFailedError
from service.parts import Parts
from service.registry import ServedModel
from service.runner import Result, Work, WorkJob

Image = NDArray[np.uint8] | NDArray[np.float32]
Receive = Callable[[], Awaitable[Any]]

# Whether a client has gone is watched once its images wait for longer than this: to watch every short request costs
# more than the few images it could spare.
WATCH_AFTER_S = 0.05
NOT_FINITE = "the model has no finite answer for this image: it is too unlike its training data"


@dataclass(frozen=True, slots=True)
class Order:
    """How a request wants its images classified.

    Attributes:
        client: whom fairness counts it for.
        started: monotone seconds when its first byte was read; its deadline counts from there.
        held_s: seconds from then until something was done for it: what the event loop was late.
        receive: gives the connection's next message; after the body that is the client's leaving.
        want_masks: whether the results are to carry masks.

    """

    quality: QualityRequest
    client: str
    started: float
    held_s: float
    receive: Receive
    want_masks: bool = False


@dataclass(frozen=True, slots=True)
class Classified:
    """A request's results, in the order of its images; an image that failed has its error in its place.

    Attributes:
        decode_s: the longest that an image was decoded, waiting for a decoder included.
        images: what the network saw of each image; or its error.

    """

    results: list[Result | Exception]
    decode_s: float
    images: Sequence[Image | Exception]

    @property
    def done(self) -> list[Result]:
        """Those that did not fail."""
        return [one for one in self.results if isinstance(one, Result)]


async def classify(parts: Parts, model: ServedModel, order: Order, images: Sequence[bytes | Image]) -> Classified:
    """Classify images under one wish. An image's own error takes its place among the results.

    Args:
        images: encoded ones, or images that fit the network: uint8, or float32 and normalised, [H, W, 3].

    Raises:
        QualityError: the model does not offer what is asked for.
        Exception: the first image's error, when no image is left; or what fails the whole request.

    """
    resolution = model.resolve(order.quality)
    allowed_s = parts.settings.request_timeout_s
    if resolution.deadline_s is not None:
        allowed_s = min(allowed_s, resolution.deadline_s)
    began = time.monotonic()
    decoded = await _decode_all(parts, model, images)
    decode_s = time.monotonic() - began
    deadline = order.started + allowed_s
    work = [
        Work(model, one, resolution, deadline, order.held_s, want_masks=order.want_masks)
        for one in decoded
        if not isinstance(one, Exception)
    ]
    jobs = parts.batcher.put(model.key, work, order.client) if work else []
    await _wait(jobs, order.receive)
    done = (_outcome(job) for job in jobs)
    results = [one if isinstance(one, Exception) else next(done) for one in decoded]
    if all(isinstance(one, Exception) for one in results):
        raise next(one for one in results if isinstance(one, Exception))
    return Classified(results, decode_s, decoded)


async def _wait(jobs: Sequence[WorkJob], receive: Receive) -> None:
    """Wait for the jobs' outcomes. Images that nobody waits for any more leave the queue.

    Raises:
        ClientGoneError: the client closed the connection first.

    """
    watch = _Watch(receive, jobs)
    try:
        for job in jobs:
            with contextlib.suppress(Exception):  # it takes the image's place among the results
                await job.future
    except asyncio.CancelledError:
        if watch.client_gone:
            raise ClientGoneError("the client closed the connection") from None
        raise
    finally:
        watch.end()
        for job in jobs:
            job.future.cancel()


class _Watch:
    """Cancels jobs when their client goes away."""

    def __init__(self, receive: Receive, jobs: Sequence[WorkJob]) -> None:
        self.client_gone = False
        self._receive, self._jobs = receive, jobs
        self._looking: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(WATCH_AFTER_S, self._begin)

    def end(self) -> None:
        self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()

    def _begin(self) -> None:
        self._looking = self._loop.create_task(self._look())

    async def _look(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.client_gone = True
        for job in self._jobs:
            job.future.cancel()


def _outcome(job: WorkJob) -> Result | Exception:
    error = job.future.exception()
    if error is None:
        result = job.future.result()
        return result if result.finite else EngineFailedError(NOT_FINITE)
    if not isinstance(error, Exception):
        raise error
    return error


async def _decode_all(parts: Parts, model: ServedModel, images: Sequence[bytes | Image]) -> list[Image | Exception]:
    """Small images are decoded here, in less time than a thread takes to be woken; others in the pool, together."""
    loop, preprocessing = asyncio.get_running_loop(), model.bundle.preprocessing
    max_pixels = parts.settings.max_pixels
    decoded: list[Image | Exception | asyncio.Future[NDArray[np.uint8]]] = []
    alone = len(images) == 1
    for image in images:
        if not isinstance(image, bytes):
            decoded.append(image)
            continue
        small = decode_if_small(image, preprocessing) if alone else None
        if small is None:
            decoded.append(loop.run_in_executor(parts.decoders, decode, image, preprocessing, max_pixels))
        else:
            decoded.append(small)
    waiting = [one for one in decoded if isinstance(one, asyncio.Future)]
    if waiting:
        await asyncio.gather(*waiting, return_exceptions=True)
    return [_image(one) for one in decoded]


def _image(one: Image | Exception | asyncio.Future[NDArray[np.uint8]]) -> Image | Exception:
    if not isinstance(one, asyncio.Future):
        return one
    error = one.exception()
    if error is not None and not isinstance(error, Exception):
        raise error
    return one.result() if error is None else error
