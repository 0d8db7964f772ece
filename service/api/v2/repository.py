"""v2: the model repository extension of the Open Inference Protocol: what there is, loading and unloading."""

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, ValidationError

from ...errors import ServiceError
from ...inference.registry import Registry
from ..body import BodyMemory
from ..operation import Json, Operation
from .requests import load_json, sentence

TAG = "model repository"
MAX_BYTES = 1 << 12
ERRORS = (400, 401, 403, 404, 413, 415, 422, 429)


class _Parameters(BaseModel):
    """A model is loaded as it lies in the folder; Triton's ``config`` and files in a request are not taken."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    version: str | None = None
    unload_dependents: bool = False  # no model here has any


class _Asked(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    ready: bool = False
    parameters: _Parameters = _Parameters()


class _Query(BaseModel):
    version: str | None = None


def operations(registry: Registry, bodies: BodyMemory) -> list[Operation]:
    """Routes that list, load and unload models; the last two are the administrators'."""

    async def index(request: Request) -> Response:
        asked = await _read(request, bodies)
        entries = await asyncio.to_thread(registry.index)
        return Json([asdict(entry) for entry in entries if entry.state == "READY" or not asked.ready])

    def change(verb: str, summary: str, act: Callable[[str, str | None], object]) -> Operation:
        async def changed(request: Request) -> Response:
            await asyncio.to_thread(act, request.path_params["model"], await _version(request, bodies))
            return Response()

        path = f"/v2/repository/models/{{model}}/{verb}"
        return Operation("POST", path, summary, TAG, changed, None, ERRORS, "admin", query=_Query)

    entries = list[dict[str, Any]]
    return [
        Operation("POST", "/v2/repository/index", "List the folder of models", TAG, index, entries, ERRORS),
        change("load", "Load or reload a model", registry.load),
        change("unload", "Unload a model", registry.unload),
    ]


async def _read(request: Request, bodies: BodyMemory) -> _Asked:
    async with bodies.read(request) as body:
        if len(body) > MAX_BYTES:
            raise ServiceError(
                "too_large", f"the body has more than {MAX_BYTES:,} bytes; files for a model are not taken here"
            )
        try:
            return _Asked.model_validate(load_json(body)) if body else _Asked()
        except ValidationError as error:
            raise ServiceError("malformed", f"not a repository request: {sentence(error)}") from error


async def _version(request: Request, bodies: BodyMemory) -> str | None:
    """The version to act on: a parameter of the body, or of the query for clients that cannot set the former."""
    given, query = (await _read(request, bodies)).parameters.version, request.query_params.get("version")
    if given is not None and query is not None:
        raise ServiceError("invalid_field", "version is given twice: give it once")
    return given if given is not None else query
