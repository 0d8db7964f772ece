"""From a request with images to its answer: what v1, the skip map and the Open Inference Protocol do alike."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from fastapi import Request, Response

from lccl.request import QualityRequest

from ..errors import ServiceError
from ..inference.pipeline import Classified, Image, Pipeline
from ..inference.registry import Registry, ServedModel
from ..telemetry.metrics import Metrics
from .body import BodyMemory

Details = TypeVar("Details")
OF_IMAGES = ("damaged_image", "not_an_image", "too_large")


# What a protocol reads from a request: its images, encoded or fitting the network, its quality, and what it needs to
# write the answer.
Asked = tuple[Sequence[bytes | Image], QualityRequest, Details]
Read = Callable[[Request, bytes, ServedModel], Awaitable[Asked[Details]]]
Write = Callable[[Request, ServedModel, Details, Classified], Awaitable[Response]]


class Exchange:
    """Finds the model, holds the body, keeps the time limit, classifies, and times the stages.

    Args:
        limit_s: seconds from the request's head, after which it is answered with an error.

    """

    def __init__(
        self, registry: Registry, pipeline: Pipeline, bodies: BodyMemory, metrics: Metrics, limit_s: float
    ) -> None:
        self._registry, self._pipeline, self._bodies = registry, pipeline, bodies
        self._metrics, self._limit_s = metrics, limit_s

    async def run(
        self,
        request: Request,
        read: Read[Details],
        write: Write[Details],
        *,
        want_masks: bool = False,
        whole: bool = False,
    ) -> Response:
        """Answer a request for the model and version that its path names, the default one without a name.

        Args:
            whole: the protocol has no place for the error of one image, which therefore fails the whole request.

        Raises:
            LcclError: whatever the request is refused for.

        """
        state = request.scope["state"]
        loop_delay_s = time.monotonic() - state["arrived"]
        model = self.find(request)
        try:
            async with asyncio.timeout(self._limit_s):
                async with self._bodies.read(request) as body:
                    images, quality, details = await read(request, body, model)
                    classified = await self._pipeline.classify(
                        model, images, quality, client=state["caller"].name, arrived=state["arrived"],
                        loop_delay_s=loop_delay_s, departure=state.get("departure"), want_masks=want_masks,
                    )  # fmt: skip
        except TimeoutError as error:
            told = f"no answer within {self._limit_s:g} s: the server is busy, or the upload was slow"
            raise ServiceError("timeout", told) from error
        _check(classified, whole)
        state["classified"] = classified
        encoding_at = time.monotonic()
        response = await write(request, model, details, classified)
        self._metrics.stage_duration.labels(model.name, "decode").observe(classified.decode_s)
        self._metrics.stage_duration.labels(model.name, "encode").observe(time.monotonic() - encoding_at)
        return response

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
    if whole and (classified.done or (isinstance(error, ServiceError) and error.code in OF_IMAGES)):
        error.args = (f"element {index}: {error}",)
    raise error
