"""The busiest routes, answered before the framework: around a small network it takes as long as the network does."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import OverloadedError

TOO_LONG_S = 0.1
OnError = Callable[[Request, Exception], Awaitable[Response]]


class Shortcut:
    """Hands what matches these routes straight to their endpoints, and their errors to the application's own handler.

    The framework has the same routes, for its documentation; whatever does not match goes to it.

    When more requests arrive than the event loop gets round to, the queue's bound is not what limits them: they wait
    before it. Those that waited too long are refused before anything else is done for them, which keeps the loop free.

    Args:
        routes: whose endpoints take a request and return a response, in the order they are tried.
        many: requests under way that are more than a burst.
        waiting_s: predicts the queue's wait, for the advice to those refused.

    """

    def __init__(
        self,
        app: ASGIApp,
        routes: Sequence[APIRoute],
        on_error: OnError,
        many: int,
        waiting_s: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app, self._routes, self._on_error = app, routes, on_error
        self._many, self._waiting_s, self._clock = many, waiting_s, clock
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            for route in self._routes:
                match, found = route.matches(scope)
                if match is Match.FULL:
                    scope.update(found)
                    await self._answer(route, scope, receive, send)
                    return
        await self._app(scope, receive, send)

    async def _answer(self, route: APIRoute, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        self._under_way += 1
        try:
            if self._under_way > self._many and self._clock() - request.state.arrived > TOO_LONG_S:
                raise OverloadedError("more requests arrive than can be read: try again later", self._waiting_s())
            response = await route.endpoint(request)
        except Exception as error:
            response = await self._on_error(request, error)
        finally:
            self._under_way -= 1
        await response(scope, receive, send)
