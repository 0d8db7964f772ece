"""Where the replicas' metrics are: a list that Prometheus asks for (HTTP service discovery)."""

from __future__ import annotations

import time
from typing import Any, cast

import ray

NAME = "lccl-metrics"
FORGOTTEN_S = 15.0  # after which a replica that says nothing more is left out; it tells at each health check


class Addresses:
    """The replicas that told their address lately. An actor of the cluster; its state comes back by itself."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[str, float]] = {}

    def tell(self, replica: str, address: str) -> None:
        """Note where a replica's metrics are."""
        self._told[replica] = address, time.monotonic()

    def forget(self, replica: str) -> None:
        """Leave out a replica that has ended."""
        self._told.pop(replica, None)

    def targets(self) -> list[dict[str, list[str]]]:
        """As Prometheus takes them."""
        oldest = time.monotonic() - FORGOTTEN_S
        self._told = {replica: told for replica, told in self._told.items() if told[1] > oldest}
        return [{"targets": sorted(address for address, _ in self._told.values())}]


Directory = Any  # a handle of the actor: Ray's handles have no types


def directory() -> Directory:
    """The cluster's actor of :class:`Addresses`, made if there is none."""
    actor = cast(Any, ray.remote(num_cpus=0, max_restarts=-1)(Addresses))
    return actor.options(name=NAME, namespace="lccl", get_if_exists=True, lifetime="detached").remote()
