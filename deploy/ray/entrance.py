"""What stands between Ray's proxy and the application: ids, departures, and where metrics are."""

from __future__ import annotations

import asyncio
import contextlib

from fastapi import FastAPI
from lccl.service.api.problems import media_type
from lccl.service.errors import problem_body
from lccl.service.transport.proxies import behind_proxies
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from deploy.ray.metrics import Directory

TARGETS = "/metrics/targets"
ELSEWHERE = f"each replica has its metrics on a port of its own: {TARGETS} lists them for Prometheus (http_sd_configs)"


class Entrance:
    """The application as Ray's proxies reach it.

    Args:
        app: what ``create_app`` made.
        trusted_proxies: as in the settings; they stand in front of Ray's.
        directory: of the replicas' metrics.

    """

    def __init__(self, app: FastAPI, trusted_proxies: str, directory: Directory) -> None:
        self._app, self._directory = app, directory
        self._see_through = behind_proxies(trusted_proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["path"] = scope["path"].removeprefix(scope["root_path"])  # the application's route_prefix
        if scope["path"] == TARGETS:
            await JSONResponse(await self._directory.targets.remote())(scope, receive, send)
        elif scope["path"] == "/metrics":
            told = problem_body(404, "not_found", ELSEWHERE)
            await JSONResponse(told, 404, media_type=media_type("/metrics"))(scope, receive, send)
        else:
            self._see_through(scope)
            await self._follow(scope, receive, _without_id(scope, send))

    async def _follow(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and tell the request when its client has left: Ray cancels what it waits for then."""
        departure = asyncio.get_running_loop().create_future()
        scope["state"] = {"departure": departure}
        answering = asyncio.ensure_future(self._app(scope, receive, send))
        try:
            await asyncio.shield(answering)
        except asyncio.CancelledError:
            departure.set_result(None)
            with contextlib.suppress(Exception):
                await answering
            raise


def _without_id(scope: Scope, send: Send) -> Send:
    """Leave out an X-Request-ID that Ray's proxy adds itself: the one that it gave the request."""
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")

    async def send_once(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [one for one in message["headers"] if tuple(one) != (b"x-request-id", given)]
        await send(message)

    return send_once


async def status_of(app: FastAPI, path: str) -> int:
    """The status that an application answers a GET with, asked without a socket."""
    statuses = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": [(b"host", b"127.0.0.1")]}
    await app(scope, receive, send)
    return int(statuses[0])
