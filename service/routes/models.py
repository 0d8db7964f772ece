"""v1: what is served, and what each model offers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Depends, Request

from lccl.operating_points import OperatingPoint
from service.decode import FORMATS
from service.parts import parts_of
from service.registry import ServedModel
from service.routes.access import require_key
from service.schemas import (
    ModelInput,
    ModelList,
    ModelMetadata,
    OfferedConfidence,
    OfferedExit,
    OfferedPoint,
    problems,
)
from service.settings import Settings

if TYPE_CHECKING:
    from lccl.bundle.format import Bundle

router = APIRouter(
    prefix="/v1", tags=["models"], dependencies=[Depends(require_key)], responses=problems(401, 404, 429)
)


@router.get("/models", summary="List the models")
async def list_models(request: Request) -> ModelList:
    parts = parts_of(request)
    models = [_metadata(model, parts.settings) for model in parts.registry]
    return ModelList(default=parts.registry.find(None).name, models=models)


@router.get("/models/{model}", summary="Describe a model")
async def describe_model(request: Request, model: str) -> ModelMetadata:
    parts = parts_of(request)
    found = parts.registry.find(model)
    request.state.model = found.name
    return _metadata(found, parts.settings)


def _metadata(model: ServedModel, settings: Settings) -> ModelMetadata:
    bundle, table = model.bundle, model.bundle.table
    return ModelMetadata(
        name=model.name,
        version=model.version,
        digest=bundle.digest,
        architecture=bundle.architecture.to_json(),
        engine=model.engine.name,
        precision=model.engine.precision,
        experimental=model.engine.experimental,
        labels=list(bundle.labels),
        input=ModelInput(
            width=bundle.preprocessing.size,
            height=bundle.preprocessing.size,
            formats=list(FORMATS),
            max_body_bytes=settings.max_body_bytes,
            max_pixels=settings.max_pixels,
            max_images=settings.max_images,
        ),
        dense_macs=model.engine.shape.dense,
        sparsity_range=table.sparsity_range,
        smallest_certified_drop=table.smallest_certified_drop,
        measured_images=table.images,
        operating_points=[
            OfferedPoint(name=str(point.name), exit_confidence=list(point.setting.exit_confidence), **_measured(point))
            for point in table.points
        ],
        exits=_exits(bundle),
        exit_confidence_range=table.exit_confidence_range,
        exit_points=[
            OfferedConfidence(exit_confidence=point.setting.exit_confidence[0], **_measured(point))
            for point in table.exit_points
        ],
    )


def _measured(point: OperatingPoint) -> dict[str, Any]:
    return {
        "skip_ratio": point.skip_ratio,
        "gated_macs": point.gated_macs,
        "accuracy": point.accuracy,
        "accuracy_interval": (point.accuracy_interval.low, point.accuracy_interval.high),
        "accuracy_drop": point.drop,
        "accuracy_drop_interval": (point.drop_interval.low, point.drop_interval.high),
        "accuracy_drop_bound": point.drop_bound,
    }


def _exits(bundle: Bundle) -> list[OfferedExit]:
    shares = _images_by_exit(bundle)
    return [
        OfferedExit(number=number, after_block=spec.after, images={name: row[number] for name, row in shares.items()})
        for number, spec in enumerate(bundle.network.sidenets.specs)
    ]


def _images_by_exit(bundle: Bundle) -> dict[str, list[float]]:
    """For each operating point the share of held-out images that each exit answered, the network's end last.

    Nothing where calibration recorded nothing that fits.
    """
    recorded: Any = bundle.calibration.get("images_by_exit")
    points, ends = bundle.table.points, len(bundle.network.sidenets) + 1
    try:
        shares = {str(point.name): [float(share) for share in recorded[point.name]] for point in points}
    except (KeyError, TypeError, ValueError, OverflowError):
        return {}
    fits = all(len(row) == ends and all(0 <= share <= 1 for share in row) for row in shares.values())
    return shares if fits else {}
