"""v2: health, and descriptions of the server and its models."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from fastapi import Request, Response

from ...inference.registry import Registry, ServedModel
from ..exchange import Exchange
from ..operation import Handler, Json, Operation
from ..operations import Health, probes
from .infer import TAG, interface_of
from .tensors import BYTES, Signature

EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "model_repository", "parameters")
MODEL = "/v2/models/{model}"
VERSION = MODEL + "/versions/{version}"


def operations(exchange: Exchange, registry: Registry, health: Health, max_images: int) -> list[Operation]:
    """Routes that describe the server, its models, and whether they are ready."""

    async def describe_server(_: Request) -> Response:
        return Json({"name": "lccl", "version": version("lccl"), "extensions": EXTENSIONS})

    async def describe_model(request: Request) -> Response:
        model = exchange.find(request)
        return Json(_metadata(model, [one.version for one in registry.versions(model.name)]))

    async def model_ready(request: Request) -> Response:
        model = exchange.find(request)
        health.check_ready()
        return Json({"name": model.name, "ready": True})

    async def model_configuration(request: Request) -> Response:
        return Json(_configuration(exchange.find(request), max_images))

    def operation(path: str, summary: str, handler: Handler) -> Operation:
        return Operation("GET", path, summary, TAG, handler, dict[str, Any], (401, 404, 429, 503))

    return [
        *probes("/v2/health", TAG, health, {"live": {"live": True}, "ready": {"ready": True}}),
        operation("/v2", "Describe the server", describe_server),
        operation(MODEL, "Describe a model", describe_model),
        operation(VERSION, "Describe one version of a model", describe_model),
        operation(f"{MODEL}/ready", "Whether a model is loaded and the server ready", model_ready),
        operation(f"{VERSION}/ready", "Whether one version of a model is", model_ready),
        operation(f"{MODEL}/config", "A model's configuration in Triton's form", model_configuration),
        operation(f"{VERSION}/config", "One version's configuration", model_configuration),
    ]  # fmt: skip


def _metadata(model: ServedModel, versions: Sequence[str]) -> dict[str, Any]:
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


def _configuration(model: ServedModel, max_images: int) -> dict[str, Any]:
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
