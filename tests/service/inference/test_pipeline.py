"""The pipeline without a device: images wait in the queue, and leave it with their client."""

from __future__ import annotations

import asyncio
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from lccl.preprocessing import Preprocessing
from lccl.request import QualityRequest, resolve
from service.inference.batcher import Batcher
from service.inference.decoders import Decoders
from service.inference.pipeline import NOT_FINITE, Pipeline
from service.inference.runner import Result
from tests.conftest import make_table
from tests.service.refusals import refused

TABLE = make_table(3)
PREPROCESSING = Preprocessing(32, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
MODEL = SimpleNamespace(
    key="m", bundle=SimpleNamespace(preprocessing=PREPROCESSING), resolve=lambda asked: resolve(TABLE, asked)
)
IMAGE = np.zeros((4, 4, 3), np.uint8)


def result(finite=True):
    scores, ranking = np.full(2, 1.0 if finite else np.nan), np.arange(2)
    return Result(TABLE.points[0], False, scores, scores, ranking, scores, 0.1, 1, 1, 0.0, 0.0, 0.0, False)


async def begin(batcher, departure=None, images=1, encoded=(), decoders=None):
    """Start to classify; the images are in the queue, or with the decoders, when this returns."""
    pipeline = Pipeline(batcher, decoders, 10**6, 10**6, 10.0)
    asking = asyncio.create_task(
        pipeline.classify(
            MODEL,
            encoded or [IMAGE] * images,
            QualityRequest(),
            client="me",
            arrived=time.monotonic(),
            departure=departure,
        )
    )
    await asyncio.sleep(0)
    return asking


@pytest.fixture
def batcher():
    return Batcher(8, lambda _: 4, time.monotonic)


def test_results_come_in_the_images_order_and_an_images_error_in_its_place(batcher):
    async def scenario():
        asking = await begin(batcher, images=3)
        _, (first, second, third) = batcher.take(0)
        good, failure = result(), RuntimeError("this image alone")
        third.future.set_result(result(finite=False))
        second.future.set_exception(failure)
        first.future.set_result(good)
        classified = await asking
        assert classified.results[:2] == [good, failure]
        assert str(classified.results[2]) == NOT_FINITE
        assert classified.done == [good]

    asyncio.run(scenario())


@pytest.mark.parametrize("before", [False, True], ids=["while its images wait", "before"])
def test_a_client_that_leaves_takes_its_images_out_of_the_queue(batcher, before):
    async def scenario():
        departure = asyncio.get_running_loop().create_future()
        if before:
            departure.set_result(None)
        asking = await begin(batcher, departure)
        assert batcher.depth("m") == 1
        if not before:
            departure.set_result(None)
        with refused("client_gone"):
            await asking
        assert batcher.take(0) == ("m", [])

    asyncio.run(scenario())


def test_a_client_that_leaves_takes_its_images_from_the_decoders(batcher, draw_image):
    async def scenario():
        decoders, busy = Decoders(1, 10**6), threading.Event()
        first = decoders.submit("another", 0, lambda: busy.wait(20))
        departure = asyncio.get_running_loop().create_future()
        asking = await begin(batcher, departure, encoded=[draw_image()] * 5, decoders=decoders)
        departure.set_result(None)
        with refused("client_gone"):
            await asking
        busy.set()
        await first
        assert await decoders.submit("another", 0, lambda: "idle") == "idle"
        assert batcher.depth("m") == 0
        decoders.close()

    asyncio.run(scenario())


def test_a_request_without_room_is_refused_before_its_images_are_decoded(batcher, draw_image):
    async def scenario():
        waiting = await begin(batcher, images=8)
        with refused("overloaded"):
            await (await begin(batcher, encoded=[draw_image()]))
        waiting.cancel()

    asyncio.run(scenario())


def test_a_cancelled_request_is_no_client_that_left(batcher):
    async def scenario():
        asking = await begin(batcher, asyncio.get_running_loop().create_future())
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert batcher.take(0) == ("m", [])

    asyncio.run(scenario())
