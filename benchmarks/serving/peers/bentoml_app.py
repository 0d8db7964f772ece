"""The plain twin behind BentoML, with its adaptive batching on the API itself: no hop between services.

A batchable API takes a list, and BentoML fills it from a form; so the image comes as the form's field ``images``.
Its documentation says: ``batchable`` with a batch size and a latency limit, one worker per core where a worker
cannot use several. Metrics, tracing and the access log are off. ``window_ms`` is the latency limit, past which
BentoML answers 503.
"""

from __future__ import annotations

from typing import Any

import bentoml
from model import Model, Settings
from PIL import Image

TOLD = Settings.from_environment()


@bentoml.service(
    workers=TOLD.workers,
    traffic={"timeout": 60},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class Classifier:
    """Images in, their classes out."""

    def __init__(self) -> None:
        self._model = Model(TOLD)

    @bentoml.api(batchable=True, max_batch_size=TOLD.batch, max_latency_ms=int(TOLD.window_ms))
    def classify(self, images: list[Image.Image]) -> list[dict[str, Any]]:
        return self._model.classify(self._model.decode(map(_file, images)))


def _file(image: Image.Image) -> bytes:
    """The file of an image that BentoML has opened and not decoded: there is a faster decoder for it."""
    image.fp.seek(0)
    return image.fp.read()
