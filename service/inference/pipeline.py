"""Images → results, for one request of any protocol: decode, queue, await the device."""

import asyncio
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lccl.decoding.containers import claimed_size
from lccl.errors import ImageTooLargeError, InputError
from lccl.request import QualityRequest

from ..errors import ServiceError
from .decode import decode, decode_if_small
from .decoders import Decoders
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
        request_pixels: of all images of a request together; one of the largest may always be sent.
        limit_s: seconds from a request's arrival after which its results are of no use.

    """

    def __init__(
        self, batcher: WorkBatcher, decoders: Decoders, max_pixels: int, request_pixels: int, limit_s: float
    ) -> None:
        self._batcher, self._decoders = batcher, decoders
        self._max_pixels, self._request_pixels = max_pixels, max(request_pixels, max_pixels)
        self._limit_s = limit_s

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
            ServiceError, too_large: its images have too many pixels together.
            ServiceError, overloaded, unavailable: the queue takes no more.
            ServiceError, deadline: one of its results would come too late.

        """
        resolution = model.resolve(quality)
        allowed_s = min(self._limit_s, limit_s, resolution.deadline_s or self._limit_s)
        began = time.monotonic()
        decoded = await self._decode_all(model, images, client, departure)
        decode_s = time.monotonic() - began
        deadline = arrived + allowed_s
        work = [
            Work(model, one, resolution, deadline, loop_delay_s, want_masks=want_masks)
            for one in decoded
            if not isinstance(one, Exception)
        ]
        jobs = self._batcher.put(model.key, work, client) if work else []
        await _wait([job.future for job in jobs], departure)
        done = (_outcome(job) for job in jobs)
        results = [one if isinstance(one, Exception) else next(done) for one in decoded]
        return Classified(results, decode_s, decoded)

    async def beside(
        self, function: Callable[[], Value], *, client: str = "", weight: int = 0, if_worth_it: bool = True
    ) -> Value:
        """Call a function in the decoders' threads; here, where what it does is not worth a thread's waking.

        Args:
            client: whose turn it takes.
            weight: the pixels of an image that would take as long.

        """
        if not if_worth_it:
            return function()
        return await self._decoders.submit(client, weight, function)

    async def _decode_all(
        self,
        model: ServedModel,
        images: Sequence[bytes | Image],
        client: str,
        departure: asyncio.Future[None] | None,
    ) -> Sequence[Image | Exception]:
        """Small images are decoded here, in less time than a thread takes to wake; others in the threads, in turn.

        An image is decoded in the turn of the size that its header claims, or of its bytes if they are more. One that
        turns out to be larger costs nothing there, and has another turn as one of the largest.
        """
        preprocessing, decoded = model.bundle.preprocessing, list[Image | Exception | bytes](images)
        if len(images) == 1 and isinstance(images[0], bytes):
            small = decode_if_small(images[0], preprocessing)
            if small is not None:
                return [small]
        pixels = {number: self._claimed(one) for number, one in enumerate(images) if isinstance(one, bytes)}
        waiting = pixels
        if waiting:
            self._batcher.check_room(model.key, len(images), client)  # before the work of decoding
        while waiting:
            self._check_pixels(sum(pixels.values()))
            turns = {
                number: self._decoders.submit(
                    client,
                    max(size, len(images[number])),
                    partial(decode, images[number], preprocessing, size),  # type: ignore[arg-type]
                )
                for number, size in waiting.items()
            }
            await _wait(turns.values(), departure)
            decoded = [_value_or_error(turns[number]) if number in turns else one for number, one in enumerate(decoded)]
            waiting = {
                number: self._max_pixels for number, size in waiting.items()
                if size < self._max_pixels and isinstance(decoded[number], ImageTooLargeError)
            }  # fmt: skip
            pixels = pixels | waiting
        return decoded  # type: ignore[return-value]

    def _claimed(self, image: bytes) -> int:
        """How many pixels an image says it has, at most as many as one may have; 0 where it does not say."""
        width, height = claimed_size(image) or (0, 0)
        return min(width * height, self._max_pixels)

    def _check_pixels(self, together: int) -> None:
        if together > self._request_pixels:
            raise ServiceError(
                "too_large",
                f"the images have {together:,} pixels together; one request may have {self._request_pixels:,} "
                "(max_request_pixels): send fewer at a time, or smaller ones",
            )


async def _wait(turns: Collection[asyncio.Future[Any]], departure: asyncio.Future[None] | None) -> None:
    """Wait for the outcomes of all turns. Images that nobody waits for any more leave the queue.

    Raises:
        ServiceError, client_gone: the client left first.
        ServiceError, deadline: the request's time is up for one of them, and with it for all.

    """

    def abandon(_: object) -> None:
        for turn in turns:
            turn.cancel()

    if departure is not None:
        departure.add_done_callback(abandon)
    try:
        for turn in turns:
            try:
                await turn
            except Exception as error:  # of the image alone it takes the image's place among the results
                if isinstance(error, ServiceError) and error.code == "deadline":
                    raise
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
