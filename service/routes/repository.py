"""v2: the model repository extension of the Open Inference Protocol: what there is, loading and unloading."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, ValidationError

from service.errors import InvalidFieldError, MalformedRequestError, TooLargeError
from service.open_inference.requests import load_json, sentence
from service.parts import parts_of
from service.routes.access import require_admin, require_key
from service.routes.open_inference import JSON, PREFIX
from service.schemas import problems

MAX_BYTES = 1 << 12

router = APIRouter(
    prefix=f"{PREFIX}/repository", tags=["model repository"],
    responses=problems(400, 401, 403, 404, 413, 415, 422, 429, media_type=JSON),
)  # fmt: skip


class _Parameters(BaseModel):
    """A model is loaded as it lies in the folder; Triton's ``config`` and files in a request are not taken."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    version: str | None = None
    unload_dependents: bool = False  # no model here has any


class _Asked(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    ready: bool = False
    parameters: _Parameters = _Parameters()


@router.post("/index", summary="List what is in the folder of models", dependencies=[Depends(require_key)])
async def index(request: Request) -> list[dict[str, Any]]:
    asked = await _read(request)
    entries = await asyncio.to_thread(parts_of(request).registry.index)
    return [asdict(entry) for entry in entries if entry.state == "READY" or not asked.ready]


@router.post("/models/{model}/load", summary="Load or reload a model", dependencies=[Depends(require_admin)])
async def load(request: Request, model: str, version: str | None = None) -> Response:
    wanted = _version(await _read(request), version)
    await asyncio.to_thread(parts_of(request).registry.load, model, wanted)
    return Response()


@router.post("/models/{model}/unload", summary="Unload a model", dependencies=[Depends(require_admin)])
async def unload(request: Request, model: str, version: str | None = None) -> Response:
    wanted = _version(await _read(request), version)
    await asyncio.to_thread(parts_of(request).registry.unload, model, wanted)
    return Response()


async def _read(request: Request) -> _Asked:
    with parts_of(request).bodies.lease() as lease:
        body = await lease.read(request)
        if len(body) > MAX_BYTES:
            raise TooLargeError(f"the body has more than {MAX_BYTES:,} bytes; files for a model are not taken here")
        try:
            return _Asked.model_validate(load_json(body)) if body else _Asked()
        except ValidationError as error:
            raise MalformedRequestError(f"not a repository request: {sentence(error)}") from error


def _version(asked: _Asked, query: str | None) -> str | None:
    """The version to act on: a parameter of the body, or of the query for clients that cannot set the former."""
    given = asked.parameters.version
    if given is not None and query is not None:
        raise InvalidFieldError("version is given twice: give it once")
    return given if given is not None else query
