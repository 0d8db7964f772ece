"""The plain twin behind LitServe.

Its documentation says: batch (``max_batch_size``, ``batch_timeout``), decode a batch's images in a thread pool
inside ``batch``, as many workers as there are cores, ``fast_queue`` from hundreds of requests per second on,
and several API servers. ``front`` is their number.
"""

from collections.abc import Sequence
from typing import Annotated

import litserve as ls
from fastapi import Depends, Request, Response
from model import Model, Pixels, Settings


async def body(request: Request) -> bytes:
    """The request's body as it came; without this LitServe would parse it as JSON."""
    return await request.body()


class Classify(ls.LitAPI):
    """One image in, its classes out."""

    def setup(self, device: str) -> None:
        self._model = Model(Settings.from_environment())

    def decode_request(self, request: Annotated[bytes, Depends(body)]) -> bytes:
        return request

    def batch(self, inputs: Sequence[bytes]) -> list[Pixels]:
        return self._model.decode(inputs)

    def predict(self, x: list[Pixels]) -> list[bytes]:
        return self._model.answers(x)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output

    def encode_response(self, output: bytes) -> Response:
        return Response(output, media_type="application/json")


if __name__ == "__main__":
    told = Settings.from_environment()
    api = Classify(max_batch_size=told.batch, batch_timeout=told.window_ms / 1000, api_path="/classify")
    server = ls.LitServer(
        api, accelerator="cpu", workers_per_device=told.workers, fast_queue=True, disable_openapi_url=True,
        healthcheck_path="/ready",
    )  # fmt: skip
    server.run(
        host="127.0.0.1", port=told.port, num_api_servers=int(told.front), generate_client_file=False,
        log_level="warning", access_log=False,
    )  # fmt: skip
