"""The parts of a running service, put together in ``app`` and handed to the routes."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass

from fastapi import Request

from service.body import BodyMemory
from service.keys import KeyRing
from service.metrics import Metrics
from service.rates import RateLimits
from service.registry import Registry
from service.runner import Runner, WorkBatcher
from service.self_test import SelfTest
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything a route may need."""

    settings: Settings
    registry: Registry
    batcher: WorkBatcher
    runner: Runner
    self_test: SelfTest
    metrics: Metrics
    decoders: Executor
    bodies: BodyMemory
    keys: KeyRing
    rates: RateLimits


def parts_of(request: Request) -> Parts:
    """The parts of the service that received a request."""
    parts: Parts = request.app.state.parts
    return parts
