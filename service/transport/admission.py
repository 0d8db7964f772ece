"""Admission: requests beyond what can be answered in time are refused with a 429 before the application sees them.

A refusal by the application costs the event loop about as much as an answer. Under overload the loop would spend its
time on refusals, and accepted requests would wait for it where neither deadlines nor the queue's bound see them.
"""

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import ServiceError
from .answers import WholeAnswer

WORK = ("/v1/", "/v2/models/")  # paths whose POST requests are work; probes, metrics and descriptions always pass
LEAST = 32  # requests under way that are never too many for a model
FEW = 4  # requests under way of one client that are few
Scope = Any  # uvicorn's has types of its own


class Request(Protocol):
    """What is counted: uvicorn's RequestResponseCycle."""

    scope: Any


@dataclass(slots=True, eq=False)
class _Work:
    scope: Scope


class AdmissionControl:
    """Counts the work that was read whole and is not answered yet, by model and client, and refuses more of it.

    Of a model with as much under way as it answers in time, those clients are refused that have their share of it, or
    more; who asks for little is served.

    Args:
        model_of: the model that a request asks for.
        client_of: whoever sends a request; None for those who may not ask at all.
        most: how many requests for a model there may be now, never fewer than ``least``.
        refuse: the answer to a refused request.

    """

    def __init__(
        self,
        model_of: Callable[[Scope], str] = lambda _: "",
        client_of: Callable[[Scope], str | None] = lambda _: None,
        most: Callable[[str], int] = lambda _: sys.maxsize,
        refuse: Callable[[Scope, ServiceError], WholeAnswer] = lambda _, error: WholeAnswer.of(error),
        waiting_s: Callable[[], float] = lambda: 0.0,
        least: int = LEAST,
    ) -> None:
        self.client_of = client_of
        self._model_of, self._most, self._refuse = model_of, most, refuse
        self._waiting_s, self._least = waiting_s, least
        self._new: set[Request] = set()  # nobody has asked yet whose they are
        self._known: dict[Request, tuple[str, str | None]] = {}  # model and client
        self._models: dict[str, Counter[str | None]] = {}  # requests under way of each client

    def enter(self, request: Request) -> None:
        """Count a request that is there whole; before, it is not counted, so that slow uploads shut nobody out."""
        if _is_work(request.scope):
            self._new.add(request)

    def leave(self, request: Request | None) -> None:
        """Count a request no more, if it was counted."""
        if request in self._new:
            self._new.discard(request)
        elif request is not None and (known := self._known.pop(request, None)) is not None:
            model, client = known
            clients = self._models[model]
            clients[client] -= 1
            if not clients[client]:
                del clients[client]
            if not clients:
                del self._models[model]

    @contextmanager
    def admitted(self, scope: Scope) -> Iterator[None]:
        """Count work that came by another way than HTTP, as the request over HTTP that asks the same.

        Raises:
            ServiceError, overloaded: it is refused.

        """
        if self.refuses(scope):
            raise self.error()
        work = _Work(scope)
        self.enter(work)
        try:
            yield
        finally:
            self.leave(work)

    def is_crowded(self) -> bool:
        """Whether as much is under way as is never too much for a model, or more."""
        return len(self._new) + len(self._known) >= self._least

    def refuses(self, scope: Scope) -> bool:
        """Whether a request that begins now is refused."""
        if not self.is_crowded() or not _is_work(scope):
            return False
        model = self._model_of(scope)
        most = self._most(model)
        if len(self._new) + len(self._known) < most:
            return False
        self._learn()
        clients = self._models.get(model)
        if clients is None or clients.total() < most:
            return False
        client = self.client_of(scope)
        return client is None or clients[client] >= max(FEW, most // len(clients))

    def _learn(self) -> None:
        """See whose the new requests are: once for each, and under load alone."""
        for request in self._new:
            model, client = self._known[request] = self._model_of(request.scope), self.client_of(request.scope)
            self._models.setdefault(model, Counter())[client] += 1
        self._new.clear()

    def refusal(self, scope: Scope) -> WholeAnswer:
        """The answer to a refused request."""
        return self._refuse(scope, self.error())

    def error(self) -> ServiceError:
        """Why a request is refused, and for how long."""
        told = "more requests arrive than can be answered: try again later"
        return ServiceError("overloaded", told, max(1.0, self._waiting_s()))


def _is_work(scope: Scope) -> bool:
    return bool(scope["method"] == "POST" and scope["path"].startswith(WORK))


def requests_in_time(queue_limit: int, limit_s: float, per_s: float) -> int:
    """How many requests may be under way: what leaves within a third of the time that they have.

    At most two queues full: up to there the queue itself refuses, which knows whose share is used up.
    """
    return 2 * queue_limit if not per_s else min(2 * queue_limit, max(LEAST, math.ceil(per_s * limit_s / 3)))
