"""v1: what is served, and what each model offers."""

from typing import Any

from fastapi import Request, Response

from lccl.decoding.containers import FORMATS
from lccl.operating_points import OperatingPoint

from ...inference.registry import Registry, ServedModel
from ..exchange import Exchange
from ..operation import Json, Operation
from .answers import Measured, ModelInput, ModelList, ModelMetadata


def operations(
    exchange: Exchange, registry: Registry, max_body_bytes: int, max_pixels: int, max_images: int
) -> list[Operation]:
    """Routes that describe the models; the limits are those of a request."""

    async def list_models(_: Request) -> Response:
        default = registry.default
        answer: ModelList = {
            "default": default.name if default else None,
            "models": [describe(model) for model in registry],
        }
        return Json(answer)

    async def describe_model(request: Request) -> Response:
        return Json(describe(exchange.find(request)))

    def describe(model: ServedModel) -> ModelMetadata:
        size = model.bundle.preprocessing.size
        return _metadata(model, {
            "width": size, "height": size, "formats": FORMATS, "max_body_bytes": max_body_bytes,
            "max_pixels": max_pixels, "max_images": max_images,
        })  # fmt: skip

    errors = (401, 404, 429)
    return [
        Operation("GET", "/v1/models", "List the models", "models", list_models, ModelList, errors),
        Operation("GET", "/v1/models/{model}", "Describe a model", "models", describe_model, ModelMetadata, errors),
    ]


def _metadata(model: ServedModel, taken: ModelInput) -> ModelMetadata:
    bundle, table, shares = model.bundle, model.bundle.table, _images_by_exit(model)
    return {
        "name": model.name,
        "version": model.version,
        "digest": bundle.digest,
        "architecture": bundle.architecture.to_json(),
        "engine": model.engine.name,
        "precision": model.engine.precision,
        "experimental": model.engine.experimental,
        "labels": bundle.labels,
        "input": taken,
        "dense_macs": model.engine.shape.dense,
        "sparsity_range": table.sparsity_range,
        "smallest_certified_drop": table.smallest_certified_drop,
        "measured_images": table.images,
        "operating_points": [
            {"name": str(point.name), "exit_confidence": point.setting.exit_confidence, **_measured(point)}
            for point in table.points
        ],
        "exits": [
            {"number": number, "after_block": spec.after, "images": {name: row[number] for name, row in shares.items()}}
            for number, spec in enumerate(bundle.network.sidenets.specs)
        ],
        "exit_confidence_range": table.exit_confidence_range,
        "exit_points": [
            {"exit_confidence": point.setting.exit_confidence[0], **_measured(point)} for point in table.exit_points
        ],
    }


def _measured(point: OperatingPoint) -> Measured:
    return {
        "skip_ratio": point.skip_ratio,
        "gated_macs": point.gated_macs,
        "accuracy": point.accuracy,
        "accuracy_interval": (point.accuracy_interval.low, point.accuracy_interval.high),
        "accuracy_drop": point.drop,
        "accuracy_drop_interval": (point.drop_interval.low, point.drop_interval.high),
        "accuracy_drop_bound": point.drop_bound,
    }


def _images_by_exit(model: ServedModel) -> dict[str, list[float]]:
    """For each operating point the share of held-out images that each exit answered, the network's end last.

    Nothing where calibration recorded nothing that fits.
    """
    bundle = model.bundle
    recorded: Any = bundle.calibration.get("images_by_exit")
    points, ends = bundle.table.points, len(bundle.network.sidenets) + 1
    try:
        shares = {str(point.name): [float(share) for share in recorded[point.name]] for point in points}
    except (KeyError, TypeError, ValueError, OverflowError):
        return {}
    fits = all(len(row) == ends and all(0 <= share <= 1 for share in row) for row in shares.values())
    return shares if fits else {}
