"""The self-test: each model's own images, run through the queue at intervals, and before it is served at all."""

import asyncio
import logging
import math
import time
from collections.abc import Callable

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

    def is_healthy(self) -> bool:
        """Whether every model passed within the last three intervals."""
        oldest = min((model.passed_at for model in self._registry), default=-math.inf)
        return self._clock() - oldest < PATIENCE * self._interval_s

    async def watch(self) -> None:
        """Test every model once an interval, until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            for model in self._registry:
                await self._test(model)

    async def _test(self, model: ServedModel) -> None:
        from lccl.bundle.self_test import images_for  # brings torch, which routes do without

        deadline = self._clock() + PATIENCE * self._interval_s
        work = Work(
            model, images_for(model.engine, model.bundle)[0], model.resolve(QualityRequest()), deadline, probe=True
        )
        try:
            (job,) = self._batcher.put(model.key, [work], "self-test")
            async with asyncio.timeout(PATIENCE * self._interval_s):
                result = await job.future
        except (ServiceError, TimeoutError) as error:
            if isinstance(error, ServiceError) and error.code == "overloaded":
                model.passed_at = self._clock()  # a full queue says something of the clients, not of the model
            else:
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
