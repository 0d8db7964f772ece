"""The busiest routes, answered before the framework: around a small network it takes as long as the network does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

OnError = Callable[[Request, Exception], Awaitable[Response]]


class Shortcut:
    """Hands what matches these routes straight to their endpoints, and their errors to the application's own handler.

    The framework has the same routes, for its documentation; whatever does not match goes to it.

    Args:
        routes: whose endpoints take a request and return a response, in the order they are tried.

    """

    def __init__(self, app: ASGIApp, routes: Sequence[APIRoute], on_error: OnError) -> None:
        self._app, self._routes, self._on_error = app, routes, on_error
        self._fixed = {route.path: route for route in routes if "{" not in route.path}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._find(scope) if scope["type"] == "http" else None
        if route is None:
            await self._app(scope, receive, send)
        else:
            await self._answer(route, scope, receive, send)

    def _find(self, scope: Scope) -> APIRoute | None:
        """The route that a request is for, entered into its scope."""
        fixed = self._fixed.get(scope["path"])
        if fixed is not None and scope["method"] in (fixed.methods or ()):
            scope["route"], scope["path_params"] = fixed, {}
            return fixed
        for route in self._routes:
            match, found = route.matches(scope)
            if match is Match.FULL:
                scope.update(found)
                return route
        return None

    async def _answer(self, route: APIRoute, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await route.endpoint(request)
        except Exception as error:
            response = await self._on_error(request, error)
        await response(scope, receive, send)
