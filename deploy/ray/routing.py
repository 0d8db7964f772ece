"""Which replica a request goes to: batches are filled first, then replicas share the load evenly."""

from __future__ import annotations

import math
import pickle
import re
import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

if TYPE_CHECKING:
    from lccl.bundle.format import Bundle
    from lccl.engines.base import Engine

MODEL = re.compile(r"/v[12]/models/([^/]+)/")
NONE: Counter[str] = Counter()


class FullBatches(RequestRouter):
    """Sends a request where others for its model wait, until a batch is full there; else where fewest are under way.

    A batch is full with as many images as cost together what the batch costs by itself: on a GPU dozens, on a CPU one,
    so that there the replica with fewest requests under way gets each. Each proxy has a router of its own; replicas
    tell all of them how many requests they have.
    """

    def initialize_state(self) -> None:
        """Nothing is under way."""
        self._models: dict[str, str] = {}  # of requests under way, by their internal ids
        self._under_way: dict[ReplicaID, Counter[str]] = defaultdict(Counter)
        self._chosen: Counter[ReplicaID] = Counter()  # for requests that are not sent yet: several may come at once

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The replicas, best first."""
        model = model_of(pending_request)

        def order(replica: RunningReplica) -> tuple[int, int]:
            waiting = (self._replica_queue_len_cache.get(replica.replica_id) or 0) + self._chosen[replica.replica_id]
            full = replica.replica_metadata.get("full", {}).get(model, 1)
            joined = self._under_way.get(replica.replica_id, NONE)[model] if waiting < full else 0
            return -joined, waiting

        ordered = sorted(candidate_replicas, key=order)
        if pending_request is not None and ordered:
            pending_request.routing_context.should_backoff = True
            chosen = Counter([ordered[0].replica_id])
            self._chosen += chosen
            pending_request.future.add_done_callback(lambda _: self._chosen.__isub__(chosen))
        return [[replica] for replica in ordered]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        """Count it."""
        model = self._models[pending_request.metadata.internal_request_id] = model_of(pending_request)
        self._under_way[replica_id][model] += 1

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """Count it no more."""
        model = self._models.pop(internal_request_id, None)
        if model is None:
            return
        self._under_way[replica_id][model] -= 1
        if not +self._under_way[replica_id]:
            del self._under_way[replica_id]


def model_of(request: PendingRequest | None) -> str:
    """The model that the path of a request names; of what is no HTTP request "" as of one for the default model."""
    if request is None or not request.metadata.is_http_request:
        return ""
    named = MODEL.search(pickle.loads(request.args[0]).asgi_scope["path"])  # what Ray's proxy made
    return named[1] if named else ""


def images_that_fill(engine: Engine, bundle: Bundle) -> int:
    """How many images of a batch cost together what the batch costs by itself, as measured now; one at least.

    A batch of that many takes twice as long as the shortest and has half the throughput of the largest.
    """
    from lccl.bundle.self_test import images_for
    from lccl.plan.run import RunOptions

    own, most = images_for(engine, bundle), engine.batch_limit

    def seconds(size: int) -> float:
        images, options = np.resize(own, (size, *own.shape[1:])), RunOptions.of([bundle.table.points[0].setting] * size)
        times = []
        for _ in range(3):
            began = time.perf_counter()
            engine.run(images, options)
            times.append(time.perf_counter() - began)
        return min(times)

    one, largest = seconds(1), seconds(most)
    each = (largest - one) / max(1, most - 1)
    return min(most, max(1, math.floor((one - each) / each))) if each > 0 else most
