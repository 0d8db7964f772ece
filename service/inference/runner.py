"""A thread for each of the device's streams: batch → engine → results with their times."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lccl.operating_points import OperatingPoint
from lccl.plan.run import RunOptions

from ..errors import ServiceError
from .batcher import Batcher
from .brownout import BrownOut
from .cost import CostModel
from .registry import ServedModel
from .scheduler import Schedule, Work, WorkJob, schedule

log = logging.getLogger(__name__)
IDLE_S = 0.5
SHARED_BATCH_S = 0.01  # what a batch may take while others wait, or may come
LONE_BATCH_S = 0.1  # and otherwise, for whoever comes next waits for all of it
FAILED = "the engine failed on this image: try again"
TOO_LATE = "the answer would come after its deadline: allow more time, or a larger max_accuracy_drop"


@dataclass(slots=True, eq=False)
class Result:
    """The result of one image.

    Attributes:
        point: what it was run at.
        downgraded: whether that is less than its request's target.
        logits: [classes].
        probabilities: float64 [classes]; NaN where the logits are not finite.
        ranking: int64 [classes], the likeliest first.
        kept: int64 [L].
        skip_ratio: of the gated convolutions' cells, weighted by MACs.
        gated_macs: theory: gates, kept cells and the rest, as far as it came.
        executed_macs: what the engine ran for it.
        enqueued_at: monotone seconds, as the next two.
        started_at: when its batch began.
        finished_at: when its batch ended.
        probe: whether no client asked.
        masks: per layer uint8 [G, H, W], 1 where kept; none unless asked for.
        exit_index: of the early exit that answered, from 0; None where the network ran to its end.

    """

    point: OperatingPoint
    downgraded: bool
    logits: NDArray[np.floating]
    probabilities: NDArray[np.float64]
    ranking: NDArray[np.int64]
    kept: NDArray[np.int64]
    skip_ratio: float
    gated_macs: int
    executed_macs: int
    enqueued_at: float
    started_at: float
    finished_at: float
    probe: bool
    masks: tuple[NDArray[np.uint8], ...] = ()
    exit_index: int | None = None

    @property
    def confidence(self) -> float:
        """The likeliest class's probability."""
        return float(self.probabilities[self.ranking[0]])

    @property
    def queue_s(self) -> float:
        return self.started_at - self.enqueued_at

    @property
    def compute_s(self) -> float:
        return self.finished_at - self.started_at


WorkBatcher = Batcher[Work, Result]
Chosen = Sequence[tuple[WorkJob, OperatingPoint]]
Settled = list[tuple[WorkJob, "Result | Exception"]]


class Runner:
    """Takes batches until the batcher is closed and empty. Nothing that a batch does ends a loop.

    A batch that finds the device idle has all of it; one that finds another there shares it. So a single image is
    answered soonest, and under load no thread waits for another's.
    A batch that fails is run again in halves, so that one image's failure is not its neighbours'.

    Args:
        on_batch: told the results of each batch, on its device thread, before they are sent off: who has an answer
            finds it counted.
        clock: monotone seconds.

    """

    def __init__(
        self,
        batcher: WorkBatcher,
        cost: CostModel,
        brownout: BrownOut,
        on_batch: Callable[[ServedModel, Sequence[Result]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._batcher, self._cost, self._brownout, self._on_batch = batcher, cost, brownout, on_batch
        self._clock = clock
        self._threads: list[threading.Thread] = []
        self._moved_at: list[float] = []  # of each thread
        self._deciding = threading.Lock()
        self._running = 0  # batches in the engine
        self._home: asyncio.AbstractEventLoop | None = None

    def start(self, home: asyncio.AbstractEventLoop, streams: int = 1) -> None:
        """Begin; results go to the futures of that event loop."""
        self._home = home
        self._moved_at = [self._clock()] * streams
        for number in range(streams):
            thread = threading.Thread(target=self._loop, args=(number,), name=f"device-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def join(self, timeout: float) -> None:
        """Wait until the closed batcher is empty, at most ``timeout`` seconds."""
        end = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def moves(self, within_s: float) -> bool:
        """Whether every thread lives and has passed through its loop within so many seconds."""
        alive = bool(self._threads) and all(thread.is_alive() for thread in self._threads)
        return alive and self._clock() - min(self._moved_at) < within_s

    def _loop(self, number: int) -> None:
        while True:
            self._moved_at[number] = self._clock()
            try:
                taken = self._batcher.take(IDLE_S)
                if taken is not None:
                    self._serve(*taken)
                    continue
                with self._deciding:
                    self._brownout.look(self._batcher.waiting_s(), self._clock())
            except Exception:
                log.exception("a device thread failed, and goes on")
                time.sleep(IDLE_S)
            if self._batcher.closed:
                return

    def _serve(self, key: str, jobs: list[WorkJob]) -> None:
        """Schedule what was taken and run it; whatever goes wrong here fails these jobs alone."""
        if not jobs:
            return
        plan: Schedule | None = None
        try:
            with self._deciding:
                sharing = self._running > 0
                plan = self._schedule(key, jobs, sharing)
                self._running += 1
            try:
                self._settle([(job, ServiceError("deadline", TOO_LATE)) for job in plan.late])
                for chosen in _alike(plan.run):
                    self._run(key, chosen, sharing)
            finally:
                with self._deciding:
                    self._running -= 1
        except Exception:
            log.exception("a device thread failed on %d images", len(jobs))
            put_back = set(map(id, plan.later)) if plan is not None else set()
            failed = [job for job in jobs if id(job) not in put_back]
            self._settle([(job, ServiceError("engine_failed", FAILED)) for job in failed])

    def _schedule(self, key: str, jobs: Sequence[WorkJob], sharing: bool) -> Schedule:
        """Look at the wait, choose the points, and put back what waits for the next batch."""
        now = self._clock()
        seen_s = median(now - job.enqueued_at + job.item.loop_delay_s for job in jobs)
        level = self._brownout.look(max(seen_s, self._batcher.waiting_s()), now)

        def predict(count: int, macs: float) -> float:
            return self._cost.predict(key, count, macs, safe=True, sharing=sharing)

        clients = {job.client for job in jobs}
        shared = len(clients) > 1 or self._batcher.is_shared(key, clients)
        plan = schedule(jobs, level, now, predict, SHARED_BATCH_S if shared else LONE_BATCH_S)
        self._batcher.give_back(key, plan.later)
        return plan

    def _run(self, key: str, chosen: Chosen, sharing: bool) -> None:
        model = chosen[0][0].item.model
        started = self._clock()
        try:
            images: Any = np.stack([job.item.image for job, _ in chosen])
            options = RunOptions.of([point.setting for _, point in chosen], want_masks=chosen[0][0].item.want_masks)
            output = model.engine.run(images, options, sharing=sharing)
        except Exception as error:
            # a model that fails has used the device, too: others would wait for ever
            self._batcher.drained(key, int(len(chosen) == 1), self._clock() - started)
            if len(chosen) == 1:
                log.exception("an image failed on %s", model.name)
                self._settle([(chosen[0][0], ServiceError("engine_failed", FAILED))])
                if model.retired:
                    self._forget(key)
                return
            log.warning("a batch of %d failed on %s and is run in halves: %s", len(chosen), model.name, error)
            for half in (chosen[: len(chosen) // 2], chosen[len(chosen) // 2 :]):
                self._run(key, half, sharing)
            return
        finished = self._clock()
        shape, probabilities = model.engine.shape, _softmax(output.logits)
        ratios, gated = shape.skip_ratio(output.kept).tolist(), shape.gated(output.kept, output.exit_index).tolist()
        exits = [number if number < len(shape.exits) else None for number in output.exit_index.tolist()]
        executed = output.executed_macs.tolist()
        ranking = np.argsort(-probabilities, axis=1, kind="stable")
        results = [
            Result(
                point, job.item.resolution.is_downgrade(point), output.logits[row], probabilities[row], ranking[row],
                output.kept[row], ratios[row], gated[row], executed[row], job.enqueued_at, started,
                finished, job.item.probe, tuple(mask[row] for mask in output.masks or ()), exits[row],
            )
            for row, (job, point) in enumerate(chosen)
        ]  # fmt: skip
        self._on_batch(model, results)
        self._settle(list(zip((job for job, _ in chosen), results, strict=True)))
        seconds = finished - started
        self._cost.learn(key, len(chosen), sum(point.gated_macs for _, point in chosen), seconds, sharing=sharing)
        self._batcher.drained(key, len(chosen), seconds)
        if model.retired:
            self._forget(key)

    def _forget(self, key: str) -> None:
        self._cost.forget(key)
        self._batcher.forget(key)

    def _settle(self, outcomes: Settled) -> None:
        if outcomes and self._home is not None:
            self._home.call_soon_threadsafe(_deliver, outcomes)


def _deliver(outcomes: Settled) -> None:
    """Hand results to those who still wait; runs on the event loop."""
    for job, outcome in outcomes:
        if job.future.done():
            continue
        if isinstance(outcome, Exception):
            job.future.set_exception(outcome)
        else:
            job.future.set_result(outcome)


def _alike(chosen: Chosen) -> list[Chosen]:
    """An engine's images are all uint8 or all normalised, and it gives masks of all or of none: these come last."""
    kinds: dict[Any, list[tuple[WorkJob, OperatingPoint]]] = {}
    for one in chosen:
        work = one[0].item
        kinds.setdefault((work.want_masks, work.image.dtype), []).append(one)
    return [kinds[kind] for kind in sorted(kinds, key=lambda kind: kind[0])]


def _softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """[N, classes] → [N, classes], float64; rows that are not finite become NaN."""
    with np.errstate(invalid="ignore"):
        powers = np.exp(np.subtract(logits, logits.max(axis=1, keepdims=True), dtype=np.float64))
        probabilities: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    probabilities[~np.isfinite(logits).all(axis=1)] = np.nan
    return probabilities
