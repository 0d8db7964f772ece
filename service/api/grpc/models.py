"""Whether the server and its models are ready, what they are, and the extension that loads and unloads models."""

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from pydantic import ValidationError

from ...errors import ServiceError, complaint
from ...everywhere import Everywhere
from ...inference.registry import Registry, ServedModel
from ..exchange import Exchange
from ..operations import Health
from ..v2.models import SERVER, RepositoryParameters, configuration, listed, metadata
from .calls import Call, Procedure
from .messages import (
    ModelConfigRequest,
    ModelConfigResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    RepositoryModelLoadRequest,
    RepositoryModelLoadResponse,
    RepositoryModelUnloadRequest,
    RepositoryModelUnloadResponse,
    ServerLiveResponse,
    ServerMetadataResponse,
    ServerReadyResponse,
)

NOT_READY = ("unavailable", "unknown_model")


def procedures(exchange: Exchange, registry: Registry, health: Health, max_images: int) -> list[Procedure]:
    """The methods that say what there is and whether it is ready."""

    async def server_live(_: Call) -> Message:
        return ServerLiveResponse(live=await is_so(health.check_live()))

    async def server_ready(_: Call) -> Message:
        return ServerReadyResponse(ready=await is_so(health.check_ready()))

    async def model_ready(call: Call) -> Message:
        async def check() -> None:
            await health.check_model(_asked(call, ModelReadyRequest(), exchange))

        return ModelReadyResponse(ready=await is_so(check()))

    async def server_metadata(_: Call) -> Message:
        return ParseDict(SERVER, ServerMetadataResponse())

    async def model_metadata(call: Call) -> Message:
        model = _asked(call, ModelMetadataRequest(), exchange)
        versions = [one.version for one in registry.versions(model.name)]
        return ParseDict(metadata(model, versions), ModelMetadataResponse())

    async def model_config(call: Call) -> Message:
        told = configuration(_asked(call, ModelConfigRequest(), exchange), max_images)
        if not all(version.isdigit() for version in told["version_policy"]["specific"]["versions"]):
            del told["version_policy"]  # Triton has numbers there
        return ParseDict({"config": told}, ModelConfigResponse())

    return [
        Procedure("ServerLive", server_live, "open"),
        Procedure("ServerReady", server_ready, "open"),
        Procedure("ModelReady", model_ready),
        Procedure("ServerMetadata", server_metadata),
        Procedure("ModelMetadata", model_metadata),
        Procedure("ModelConfig", model_config),
    ]


async def is_so(check: Awaitable[None]) -> bool:
    """Whether a check finds nothing; what is not there is not ready."""
    try:
        await check
    except ServiceError as error:
        if error.code not in NOT_READY:
            raise
        return False
    return True


def _asked(
    call: Call, sent: ModelReadyRequest | ModelMetadataRequest | ModelConfigRequest, exchange: Exchange
) -> ServedModel:
    call.parse(sent)
    return call.find(exchange, sent.name, sent.version)


def repository(registry: Registry, everywhere: Everywhere) -> list[Procedure]:
    """The methods that list, load and unload models; the last two are the administrators'."""

    async def index(call: Call) -> Message:
        sent = RepositoryIndexRequest()
        call.parse(sent)
        entries = await asyncio.to_thread(registry.index)
        return ParseDict({"models": listed(entries, sent.ready)}, RepositoryIndexResponse())

    async def load(call: Call) -> Message:
        sent = RepositoryModelLoadRequest()
        call.parse(sent)
        await everywhere.change("load", sent.model_name, _version(sent.parameters))
        return RepositoryModelLoadResponse()

    async def unload(call: Call) -> Message:
        sent = RepositoryModelUnloadRequest()
        call.parse(sent)
        await everywhere.change("unload", sent.model_name, _version(sent.parameters))
        return RepositoryModelUnloadResponse()

    return [
        Procedure("RepositoryIndex", index),
        Procedure("RepositoryModelLoad", load, "admin"),
        Procedure("RepositoryModelUnload", unload, "admin"),
    ]


def _version(parameters: Mapping[str, Any]) -> str | None:
    """The version to act on.

    Raises:
        ServiceError, malformed: another parameter; files and configurations for a model are not taken.

    """
    kinds = {name: value.WhichOneof("parameter_choice") or "" for name, value in parameters.items()}
    given = {name: getattr(parameters[name], kind, None) for name, kind in kinds.items()}
    try:
        return RepositoryParameters.model_validate(given).version
    except ValidationError as error:
        raise ServiceError("malformed", f"not a repository request: {complaint(error, 'the parameters')}") from error
