"""One thread per device: batch → engine → results with their timings."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lccl.operating_points import Setting, controls_for
from service.batcher import Batcher, Job
from service.errors import EngineFailedError
from service.registry import ServedModel

log = logging.getLogger(__name__)
IDLE_S = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """One picture, uint8 [H, W, 3], and the setting it is run with."""

    image: NDArray[np.uint8]
    setting: Setting


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What one picture got.

    Attributes:
        logits: [classes].
        kept: int64 [L].
        executed_macs: what the engine ran for it.
        queue_s: seconds it waited.
        compute_s: seconds its batch ran.

    """

    logits: NDArray[np.floating]
    kept: NDArray[np.int64]
    executed_macs: int
    queue_s: float
    compute_s: float


WorkBatcher = Batcher[ServedModel, Work, Result]


class Runner:
    """Takes batches until the batcher is closed and empty. A failed batch fails its pictures, never the loop.

    Args:
        on_batch: told the model and size of each batch that was taken.
        clock: monotone seconds.

    """

    def __init__(
        self,
        batcher: WorkBatcher,
        on_batch: Callable[[ServedModel, int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._batcher, self._on_batch, self._clock = batcher, on_batch, clock
        self._thread = threading.Thread(target=self._loop, name="device", daemon=True)
        self._moved_at = clock()

    def start(self) -> None:
        self._thread.start()

    def join(self, timeout: float) -> None:
        """Wait until the closed batcher is empty, at most ``timeout`` seconds."""
        self._thread.join(timeout)

    def moves(self, within_s: float) -> bool:
        """Whether the thread lives and has come round its loop lately."""
        return self._thread.is_alive() and self._clock() - self._moved_at < within_s

    def _loop(self) -> None:
        while True:
            self._moved_at = self._clock()
            taken = self._batcher.take(IDLE_S)
            if taken is not None:
                self._run(*taken)
            elif self._batcher.closed:
                return

    def _run(self, model: ServedModel, jobs: list[Job[Work, Result]]) -> None:
        if not jobs:
            return
        started = self._clock()
        self._on_batch(model, len(jobs))
        try:
            images = np.stack([job.item.image for job in jobs])
            output = model.engine.run(images, controls_for([job.item.setting for job in jobs]))
        except Exception as error:
            log.exception("a batch of %d failed on %s", len(jobs), model.name)
            for job in jobs:
                failure = EngineFailedError("the engine failed on the batch that held this picture: try again")
                failure.__cause__ = error
                job.future.set_exception(failure)
            return
        seconds = self._clock() - started
        self._batcher.drained(len(jobs), seconds)
        for row, job in enumerate(jobs):
            job.future.set_result(
                Result(
                    logits=output.logits[row],
                    kept=output.kept[row],
                    executed_macs=int(output.executed_macs[row]),
                    queue_s=started - job.enqueued_at,
                    compute_s=seconds,
                )
            )
