"""Endpoints that the client speaks to, for an application that does not have them yet.

Put behind the application's own routes, which win where they exist.
"""

from __future__ import annotations

from fastapi import APIRouter, FastAPI
from starlette.responses import PlainTextResponse, Response

from api.routes.batches import shown
from api.services import ServicesDep
from api.shapes import BatchObject
from models.store.batches import get_batch
from models.store.commit_log import follow_results
from models.store.retry import retry_batch
from models.wire.json_lines import json_line
from models.wire.output import result_line

router = APIRouter(prefix="/v1")


def add_stand_ins(app: FastAPI) -> FastAPI:
    """The application with these routes behind its own."""
    app.include_router(router)
    return app


@router.get("/batches/{batch_id}/results", response_class=PlainTextResponse)
def results(batch_id: str, services: ServicesDep, after: int = 0, limit: int = 100) -> Response:
    """What is there now, as NDJSON."""
    batch = get_batch(services.database, batch_id)
    lines = [
        {**result_line(record, batch), "cursor": cursor}
        for cursor, record in follow_results(services.database, batch_id, after=after, limit=limit)
    ]
    headers = {
        "x-batch-status": str(batch.state),
        "x-next-cursor": str(lines[-1]["cursor"] if lines else after),
    }
    text = "".join(f"{json_line(line)}\n" for line in lines)
    return PlainTextResponse(text, headers=headers, media_type="application/x-ndjson")


@router.post("/batches/{batch_id}/retry")
def retry(batch_id: str, services: ServicesDep) -> BatchObject:
    """A new batch of all that failed."""
    chunk_requests = services.settings.chunk_requests
    return shown(services, retry_batch(services.database, batch_id, chunk_requests=chunk_requests))


@router.post("/batches/{batch_id}/pause")
@router.post("/batches/{batch_id}/resume")
def read(batch_id: str, services: ServicesDep) -> BatchObject:
    """The batch as it stands."""
    return shown(services, get_batch(services.database, batch_id))


@router.get("/batches/{batch_id}/manifest")
@router.post("/batches:estimate")
@router.get("/workers")
def some_object() -> dict[str, list[object]]:
    """An object with a list."""
    return {"data": []}
