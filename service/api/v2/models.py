"""v2: health, descriptions of the server and its models, and the extension that loads and unloads models."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, ValidationError

from ...errors import ServiceError, complaint
from ...everywhere import Everywhere
from ...inference.registry import IndexEntry, Registry, ServedModel
from ..exchange import BodyMemory, Exchange
from ..json_text import load_json
from ..operation import Handler, Json, Operation
from ..operations import Health, probes
from .infer import TAG, interface_of
from .tensors import BYTES, Signature

REPOSITORY = "model repository"
MAX_BYTES = 1 << 12
REPOSITORY_ERRORS = (400, 401, 403, 404, 413, 415, 422, 429)
EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "model_repository", "parameters")
SERVER = {"name": "lccl", "version": version("lccl"), "extensions": EXTENSIONS}
MODEL = "/v2/models/{model}"
VERSION = MODEL + "/versions/{version}"


def operations(exchange: Exchange, registry: Registry, health: Health, max_images: int) -> list[Operation]:
    """Routes that describe the server, its models, and whether they are ready."""

    async def describe_server(_: Request) -> Response:
        return Json(SERVER)

    async def describe_model(request: Request) -> Response:
        model = exchange.find(request)
        return Json(metadata(model, [one.version for one in registry.versions(model.name)]))

    async def model_ready(request: Request) -> Response:
        model = exchange.find(request)
        await health.check_model(model)
        return Json({"name": model.name, "ready": True})

    async def model_configuration(request: Request) -> Response:
        return Json(configuration(exchange.find(request), max_images))

    def operation(path: str, summary: str, handler: Handler) -> Operation:
        return Operation("GET", path, summary, TAG, handler, dict[str, Any], (401, 404, 429, 503))

    return [
        *probes("/v2/health", TAG, health, {"live": {"live": True}, "ready": {"ready": True}}),
        operation("/v2", "Describe the server", describe_server),
        operation(MODEL, "Describe a model", describe_model),
        operation(VERSION, "Describe one version of a model", describe_model),
        operation(f"{MODEL}/ready", "Whether a model is loaded and passed its self-test", model_ready),
        operation(f"{VERSION}/ready", "Whether one version of a model is", model_ready),
        operation(f"{MODEL}/config", "A model's configuration in Triton's form", model_configuration),
        operation(f"{VERSION}/config", "One version's configuration", model_configuration),
    ]  # fmt: skip


def metadata(model: ServedModel, versions: Sequence[str]) -> dict[str, Any]:
    """The protocol's model metadata; one of the inputs is sent, never several."""
    interface = interface_of(model)
    inputs, outputs = (
        [{"name": one.name, "datatype": one.datatype, "shape": list(one.shape)} for one in signatures]
        for signatures in (interface.inputs, interface.outputs)
    )
    return {
        "name": model.name,
        "versions": list(versions),
        "platform": f"lccl_{model.engine.name}",
        "inputs": inputs,
        "outputs": outputs,
    }


def configuration(model: ServedModel, max_images: int) -> dict[str, Any]:
    """Triton's ModelConfig as JSON. Its dims leave out the number of images, which ``max_batch_size`` bounds."""
    interface, table = interface_of(model), model.bundle.table
    low, high = table.sparsity_range
    told = {
        "engine": model.engine.name,
        "precision": model.engine.precision,
        "digest": model.bundle.digest,
        "sparsity_min": f"{low:.6g}",
        "sparsity_max": f"{high:.6g}",
        "operating_points": ",".join(str(point.name) for point in table.points),
    }
    if table.exit_confidence_range is not None:
        least, most = table.exit_confidence_range
        told |= {
            "exits": f"{len(model.engine.shape.exits)}",
            "exit_confidence_min": f"{least:.6g}",
            "exit_confidence_max": f"{most:.6g}",
        }
    return {
        "name": model.name,
        "platform": f"lccl_{model.engine.name}",
        "backend": "lccl",
        "version_policy": {"specific": {"versions": [model.version]}},
        "max_batch_size": max_images,
        "input": [_configured(signature) | {"optional": True} for signature in interface.inputs],
        "output": [_configured(signature) for signature in interface.outputs],
        "parameters": {name: {"string_value": text} for name, text in told.items()},
    }


def _configured(signature: Signature) -> dict[str, Any]:
    kind = "STRING" if signature.datatype == BYTES else signature.datatype
    return {"name": signature.name, "data_type": f"TYPE_{kind}", "dims": list(signature.shape[1:])}


class RepositoryParameters(BaseModel):
    """A model is loaded as it lies in the folder; Triton's ``config`` and files in a request are not taken."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    version: str | None = None
    unload_dependents: bool = False  # no model here has any


class _Asked(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    ready: bool = False
    parameters: RepositoryParameters = RepositoryParameters()


class _Query(BaseModel):
    version: str | None = None


def repository(registry: Registry, bodies: BodyMemory, everywhere: Everywhere) -> list[Operation]:
    """Routes that list, load and unload models; the last two are the administrators'."""

    async def index(request: Request) -> Response:
        asked = await _read(request, bodies)
        entries = await asyncio.to_thread(registry.index)
        return Json(listed(entries, asked.ready))

    def change(verb: str, summary: str) -> Operation:
        async def changed(request: Request) -> Response:
            await everywhere.change(verb, request.path_params["model"], await _version(request, bodies))
            return Response()

        path = f"/v2/repository/models/{{model}}/{verb}"
        return Operation("POST", path, summary, REPOSITORY, changed, None, REPOSITORY_ERRORS, "admin", query=_Query)

    return [
        Operation(
            "POST",
            "/v2/repository/index",
            "List the folder of models",
            REPOSITORY,
            index,
            list[dict[str, Any]],
            REPOSITORY_ERRORS,
        ),
        change("load", "Load or reload a model"),
        change("unload", "Unload a model"),
    ]


def listed(entries: Sequence[IndexEntry], ready: bool) -> list[dict[str, Any]]:
    """The index of the folder of models, or what of it is ready."""
    return [asdict(entry) for entry in entries if entry.state == "READY" or not ready]


async def _read(request: Request, bodies: BodyMemory) -> _Asked:
    body = await bodies.read(request)
    try:
        if len(body) > MAX_BYTES:
            raise ServiceError(
                "too_large", f"the body has more than {MAX_BYTES:,} bytes; files for a model are not taken here"
            )
        return _Asked.model_validate(load_json(body)) if body else _Asked()
    except ValidationError as error:
        raise ServiceError("malformed", f"not a repository request: {complaint(error, 'the JSON')}") from error
    finally:
        bodies.release(request, body)


async def _version(request: Request, bodies: BodyMemory) -> str | None:
    """The version to act on: a parameter of the body, or of the query for clients that cannot set the former."""
    given = (await _read(request, bodies)).parameters.version
    query = request.query_params.multi_items()
    if unknown := [name for name, _ in query if name != "version"]:
        raise ServiceError("invalid_field", f"unknown field {unknown[0][:64]!r}: use version")
    versions = [*([] if given is None else [given]), *(value for _, value in query)]
    if len(versions) > 1:
        raise ServiceError("invalid_field", "version is given twice: give it once")
    return versions[0] if versions else None
