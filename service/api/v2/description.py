"""What a model says of itself in the Open Inference Protocol: its interface, metadata and configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...inference.registry import ServedModel
from .tensors import BYTES, Interface, Signature


def interface_of(model: ServedModel) -> Interface:
    """The tensors that a model takes and gives."""
    size = model.bundle.preprocessing.size
    return Interface.of(size, size, len(model.bundle.labels), exits=bool(model.engine.shape.exits))


def platform_of(model: ServedModel) -> str:
    return f"lccl_{model.engine.name}"


def metadata(model: ServedModel, versions: Sequence[str]) -> dict[str, Any]:
    """The protocol's model metadata; one of the inputs is sent, never several."""
    interface = interface_of(model)
    return {
        "name": model.name,
        "versions": list(versions),
        "platform": platform_of(model),
        "inputs": [_tensor(signature) for signature in interface.inputs],
        "outputs": [_tensor(signature) for signature in interface.outputs],
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
        "platform": platform_of(model),
        "backend": "lccl",
        "version_policy": {"specific": {"versions": [model.version]}},
        "max_batch_size": max_images,
        "input": [_configured(signature) | {"optional": True} for signature in interface.inputs],
        "output": [_configured(signature) for signature in interface.outputs],
        "parameters": {name: {"string_value": text} for name, text in told.items()},
    }


def _tensor(signature: Signature) -> dict[str, Any]:
    return {"name": signature.name, "datatype": signature.datatype, "shape": list(signature.shape)}


def _configured(signature: Signature) -> dict[str, Any]:
    kind = "STRING" if signature.datatype == BYTES else signature.datatype
    return {"name": signature.name, "data_type": f"TYPE_{kind}", "dims": list(signature.shape[1:])}
