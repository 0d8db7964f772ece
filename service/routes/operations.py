"""For operators: health and metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.errors import UnavailableError
from service.parts import parts_of

router = APIRouter(tags=["operations"])
LONGEST_BATCH_S = 60.0


@router.get("/health/live", summary="Whether the device thread moves")
async def live(request: Request) -> dict[str, str]:
    if not parts_of(request).runner.moves(LONGEST_BATCH_S):
        raise UnavailableError("the device thread does not move: restart the service")
    return {"status": "live"}


@router.get("/health/ready", summary="Whether models are warm and the queue accepts")
async def ready(request: Request) -> dict[str, str]:
    parts = parts_of(request)
    if not len(parts.registry) or parts.batcher.closed or not parts.runner.moves(LONGEST_BATCH_S):
        raise UnavailableError("not ready: models are loading, or the server is shutting down")
    return {"status": "ready"}


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    return Response(generate_latest(parts_of(request).metrics.registry), media_type=CONTENT_TYPE_LATEST)
