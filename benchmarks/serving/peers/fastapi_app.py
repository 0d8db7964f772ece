"""The plain twin behind FastAPI, as one would write it with care: a micro-batcher, and nothing slow on the event loop.

uvicorn with uvloop and httptools, several processes on one port; a bounded queue that sheds what it cannot hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, Request, Response
from model import Model, Settings

WAITING = 256  # images, in all workers together
Job = tuple[bytes, asyncio.Future[bytes]]


class MicroBatcher:
    """All that waits when the runtime is free goes into one batch, up to a limit; a lone image waits for a window."""

    def __init__(self, run: Callable[[Sequence[bytes]], list[bytes]], settings: Settings) -> None:
        self._run, self._limit, self._window = run, settings.batch, settings.window_ms / 1000
        self._jobs: asyncio.Queue[Job] = asyncio.Queue(WAITING // settings.workers)
        self._thread = ThreadPoolExecutor(1)

    async def ask(self, content: bytes) -> bytes:
        """Answer one image.

        Raises:
            asyncio.QueueFull: too many wait already.

        """
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._jobs.put_nowait((content, answer))
        return await answer

    async def work(self) -> None:
        """Run batches for ever."""
        loop = asyncio.get_running_loop()
        while True:
            jobs = [await self._jobs.get()]
            if self._window and self._jobs.qsize() < self._limit - 1:
                await asyncio.sleep(self._window)
            while len(jobs) < self._limit and not self._jobs.empty():
                jobs.append(self._jobs.get_nowait())
            try:
                answers = await loop.run_in_executor(self._thread, self._run, [content for content, _ in jobs])
            except Exception as error:  # whatever was wrong with the batch is for its clients to hear
                for _, answer in jobs:
                    if not answer.cancelled():
                        answer.set_exception(error)
                continue
            for (_, answer), found in zip(jobs, answers, strict=True):
                if not answer.cancelled():
                    answer.set_result(found)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the model in this worker and start batching."""
    settings = Settings.from_environment()
    model = Model(settings)
    app.state.batcher = MicroBatcher(lambda contents: model.answers(model.decode(contents)), settings)
    task = asyncio.create_task(app.state.batcher.work())
    yield
    task.cancel()


app = FastAPI(lifespan=lifespan, openapi_url=None)


@app.post("/classify")
async def classify(request: Request) -> Response:
    """Classify the image that is the body."""
    try:
        found = await app.state.batcher.ask(await request.body())
    except asyncio.QueueFull:
        return Response(status_code=503)
    return Response(found, media_type="application/json")


@app.get("/ready")
async def ready() -> Response:
    return Response()


if __name__ == "__main__":
    told = Settings.from_environment()
    uvicorn.run(
        "fastapi_app:app", host="127.0.0.1", port=told.port, workers=told.workers,
        loop="uvloop", http="httptools", access_log=False, log_level="warning",
    )  # fmt: skip
