"""For operators: health and metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder

from service.errors import UnavailableError
from service.parts import Parts, parts_of
from service.schemas import problems

router = APIRouter(tags=["operations"], responses=problems(503))
LONGEST_BATCH_S = 60.0


@router.get("/health/live", summary="Whether the device thread moves")
async def live(request: Request) -> dict[str, str]:
    if not parts_of(request).runner.moves(LONGEST_BATCH_S):
        raise UnavailableError("the device thread does not move: restart the service")
    return {"status": "live"}


@router.get("/health/ready", summary="Whether models answered their canary lately and the queue accepts")
async def ready(request: Request) -> dict[str, str]:
    check_ready(parts_of(request))
    return {"status": "ready"}


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    encode, kind = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(parts_of(request).metrics.registry), media_type=kind)


def check_ready(parts: Parts) -> None:
    """Raises UnavailableError while requests should go elsewhere."""
    if not len(parts.registry):
        raise UnavailableError("not ready: no model is loaded")
    if parts.batcher.closed or not parts.runner.moves(LONGEST_BATCH_S):
        raise UnavailableError("not ready: the server is shutting down, or its device thread does not move")
    if not parts.self_test.is_healthy():
        raise UnavailableError("not ready: a model did not answer its canary lately; the log says more")
