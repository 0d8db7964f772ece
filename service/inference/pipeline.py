"""Images → results, for one request of any protocol: decode, queue, await the device."""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lccl.errors import InputError
from lccl.request import QualityRequest

from ..errors import ServiceError
from .decode import decode, decode_if_small
from .registry import ServedModel
from .runner import Result, WorkBatcher
from .scheduler import Work, WorkJob

Image = NDArray[np.uint8] | NDArray[np.float32]
Value = TypeVar("Value")

NOT_FINITE = "the model has no finite answer for this image: it is too unlike its training data"


@dataclass(frozen=True, slots=True)
class Classified:
    """A request's results, in the order of its images; an image that failed has its error in its place.

    Attributes:
        decode_s: the longest time that an image's decoding took, waiting for a decoder included.
        images: what the network saw of each image; or its error.

    """

    results: list[Result | Exception]
    decode_s: float
    images: Sequence[Image | Exception]

    @property
    def done(self) -> list[Result]:
        """Those that did not fail."""
        return [one for one in self.results if isinstance(one, Result)]

    @property
    def sparsest(self) -> Result:
        """The one whose setting promises least, where brown-out came between them."""
        return max(self.done, key=lambda result: result.point.skip_ratio)


class Pipeline:
    """Takes images to their results.

    Args:
        decoders: threads for images that are slow to decode, and for other work that would hold up the event loop.
        max_pixels: the largest image, width × height.
        limit_s: seconds from a request's arrival after which its results are of no use.

    """

    def __init__(self, batcher: WorkBatcher, decoders: Executor, max_pixels: int, limit_s: float) -> None:
        self._batcher, self._decoders = batcher, decoders
        self._max_pixels, self._limit_s = max_pixels, limit_s

    async def classify(
        self,
        model: ServedModel,
        images: Sequence[bytes | Image],
        quality: QualityRequest,
        *,
        client: str,
        arrived: float,
        loop_delay_s: float = 0.0,
        departure: asyncio.Future[None] | None = None,
        want_masks: bool = False,
        limit_s: float = math.inf,
    ) -> Classified:
        """Classify images with one quality. An image's own error takes its place among the results.

        Args:
            images: encoded ones, or images that fit the network: uint8, or float32 and normalised, [H, W, 3].
            client: whom fairness counts them for.
            arrived: monotone seconds when the request's first byte was read; its deadline counts from there.
            loop_delay_s: seconds from then until something was done for it: how late the event loop was.
            departure: done when the client has left; None where nobody tells.
            want_masks: whether the results are to carry masks.
            limit_s: seconds from the arrival after which this request's results are of no use.

        Raises:
            QualityError: the model does not offer what is asked for.
            ServiceError, client_gone: the client left before its results were there.
            ServiceError, overloaded, unavailable: the queue takes no more.

        """
        resolution = model.resolve(quality)
        allowed_s = min(self._limit_s, limit_s, resolution.deadline_s or self._limit_s)
        began = time.monotonic()
        decoded = await self._decode_all(model, images)
        decode_s = time.monotonic() - began
        deadline = arrived + allowed_s
        work = [
            Work(model, one, resolution, deadline, loop_delay_s, want_masks=want_masks)
            for one in decoded
            if not isinstance(one, Exception)
        ]
        jobs = self._batcher.put(model.key, work, client) if work else []
        await _wait(jobs, departure)
        done = (_outcome(job) for job in jobs)
        results = [one if isinstance(one, Exception) else next(done) for one in decoded]
        return Classified(results, decode_s, decoded)

    async def beside(self, function: Callable[[], Value], *, if_worth_it: bool = True) -> Value:
        """Call a function in the decoders' threads; here, where what it does is not worth a thread's waking."""
        if not if_worth_it:
            return function()
        return await asyncio.get_running_loop().run_in_executor(self._decoders, function)

    async def _decode_all(self, model: ServedModel, images: Sequence[bytes | Image]) -> Sequence[Image | Exception]:
        """Small images are decoded here, in less time than a thread takes to wake; others in the threads, together."""
        loop, preprocessing = asyncio.get_running_loop(), model.bundle.preprocessing

        def decoding(image: bytes | Image) -> Image | asyncio.Future[Image]:
            if not isinstance(image, bytes):
                return image
            small = decode_if_small(image, preprocessing) if len(images) == 1 else None
            if small is not None:
                return small
            return loop.run_in_executor(self._decoders, decode, image, preprocessing, self._max_pixels)

        decoded = [decoding(image) for image in images]
        waiting = [one for one in decoded if isinstance(one, asyncio.Future)]
        if waiting:
            await asyncio.gather(*waiting, return_exceptions=True)
        return [one if isinstance(one, np.ndarray) else _value_or_error(one) for one in decoded]


async def _wait(jobs: Sequence[WorkJob], departure: asyncio.Future[None] | None) -> None:
    """Wait for the jobs' outcomes. Images that nobody waits for any more leave the queue.

    Raises:
        ServiceError, client_gone: the client left first.

    """

    def abandon(_: object) -> None:
        for job in jobs:
            job.future.cancel()

    if departure is not None:
        departure.add_done_callback(abandon)
    try:
        for job in jobs:
            with contextlib.suppress(Exception):  # it takes the image's place among the results
                await job.future
    except asyncio.CancelledError:
        if departure is not None and departure.done():
            raise ServiceError("client_gone", "the client closed the connection") from None
        raise
    finally:
        if departure is not None:
            departure.remove_done_callback(abandon)
        abandon(None)


def _outcome(job: WorkJob) -> Result | Exception:
    outcome: Result | Exception = _value_or_error(job.future)
    if isinstance(outcome, Result) and math.isnan(outcome.confidence):
        if job.item.image.dtype == np.float32:  # a client's own numbers; an image's are always within bounds
            return InputError(NOT_FINITE)
        return ServiceError("engine_failed", NOT_FINITE)
    return outcome


def _value_or_error(done: asyncio.Future[Any]) -> Any:
    """A finished future's value, or its error.

    Raises:
        BaseException: the future was cancelled, or its error is none that an image may have.

    """
    error = done.exception()
    if error is not None and not isinstance(error, Exception):
        raise error
    return done.result() if error is None else error
