"""The self-test: each model's own images, run through the queue at intervals, and before it is served at all."""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from lccl.plan.run import RunOptions
from lccl.request import QualityRequest

from ..errors import ServiceError
from .cost import CostModel
from .registry import Registry, ServedModel
from .runner import WorkBatcher
from .scheduler import Work

log = logging.getLogger(__name__)
PATIENCE = 3  # intervals without a right answer after which a model is not ready


class SelfTest:
    """Runs the self-tests and notes when each model passed last.

    Args:
        interval_s: seconds between two rounds.
        clock: monotone seconds.

    """

    def __init__(
        self, registry: Registry, batcher: WorkBatcher, interval_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._registry, self._batcher, self._interval_s, self._clock = registry, batcher, interval_s, clock
        self._began_at = clock()
        self._under_way: dict[str, asyncio.Task[None]] = {}  # by the model's key

    def is_healthy(self, model: ServedModel) -> bool:
        """Whether a model passed within the last three intervals."""
        return self._is_recent(model.passed_at)

    def goes_on(self) -> bool:
        """Whether a round began within the last three intervals."""
        return self._is_recent(self._began_at)

    def _is_recent(self, at: float) -> bool:
        return self._clock() - at < PATIENCE * self._interval_s

    async def begin(self) -> None:
        """Begin a round: test every model whose last test has ended, so that none waits for another's."""
        self._began_at = self._clock()
        for model in list(self._registry):
            if model.key not in self._under_way:
                task = asyncio.create_task(self._test(model))
                self._under_way[model.key] = task
                task.add_done_callback(partial(self._end, model))

    def close(self) -> None:
        """Cancel the tests that are under way."""
        for task in self._under_way.values():
            task.cancel()

    def _end(self, model: ServedModel, task: asyncio.Task[None]) -> None:
        del self._under_way[model.key]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the self-test of %s failed", model.name, exc_info=error)

    async def _test(self, model: ServedModel) -> None:
        from lccl.bundle.self_test import images_for  # brings torch, which routes do without

        deadline = self._clock() + PATIENCE * self._interval_s
        image = (await asyncio.to_thread(images_for, model.engine, model.bundle))[0]
        work = Work(model, image, model.resolve(QualityRequest()), deadline, probe=True)
        try:
            (job,) = self._batcher.put(model.key, [work], "self-test")
            async with asyncio.timeout(PATIENCE * self._interval_s):
                result = await job.future
        except (ServiceError, TimeoutError) as error:
            if isinstance(error, ServiceError) and error.code == "overloaded":
                model.passed_at = self._clock()  # a full queue says something of the clients, not of the model
            elif not model.retired:
                log.error("%s did not answer its self-test: %s", model.name, error)
        else:
            if np.allclose(result.logits, model.self_test[0], rtol=1e-3, atol=1e-3 * np.abs(model.self_test).max()):
                model.passed_at = self._clock()
            else:
                log.error("%s failed its self-test: its answer was wrong", model.name)


def warm_up(model: ServedModel, cost: CostModel, clock: Callable[[], float] = time.monotonic) -> None:
    """Run batches of several sizes, dense and sparse, and enter what they took as first costs."""
    from lccl.bundle.self_test import images_for

    engine, limit = model.engine, model.engine.batch_limit
    own = images_for(engine, model.bundle)
    for size in sorted({1, min(4, limit), min(16, limit), limit}):
        images = np.resize(own, (size, *own.shape[1:]))
        for point in (model.bundle.table.points[0], model.bundle.table.points[-1]):
            options = RunOptions.of([point.setting] * size)
            for sharing in (False, True) if engine.streams > 1 else (False,):
                seconds = math.inf
                for _ in range(2):  # the first run of a size allocates
                    began = clock()
                    output = engine.run(images, options, sharing=sharing)
                    seconds = min(seconds, clock() - began)
                macs = float(engine.shape.gated(output.kept, output.exit_index).sum())
                cost.learn(model.key, size, macs, seconds, sharing=sharing)
