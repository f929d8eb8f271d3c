"""`/v1/batches/{id}/events`: a batch's changes as Server-Sent Events."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from api.access import Caller, CallerDep
from api.services import Services, ServicesDep
from api.watchers import Sight
from models.projections import describe_batch
from models.states import BatchState
from models.store.batches import get_batch
from models.store.views import Batch
from models.wire.json_lines import json_line

router = APIRouter(prefix="/v1/batches", tags=["batches"])

MEDIA_TYPE: Final = "text/event-stream"
PING_S: Final = 15.0  # proxies cut connections on which nothing moves
_PING: Final = ": ping\n\n"
_HEADERS: Final = {"cache-control": "no-store", "x-accel-buffering": "no"}
_EVENT: Final = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {"const": "batch"},
        "id": {"type": "string"},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": "#/components/schemas/BatchObject"},
        },
    },
}
_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Events `batch`, with the batch as their data",
        "content": {MEDIA_TYPE: {"schema": _EVENT}},
    },
    204: {"description": "The batch has ended, and `last-event-id` is that of its end"},
}


@router.get("/{batch_id}/events", response_class=Response, responses=_ANSWERS)
async def follow(
    batch_id: str,
    services: ServicesDep,
    caller: CallerDep,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """The batch now, then at every change, at most once a second, until it has ended.

    Every event holds the whole batch, so whoever comes back has missed nothing. Its `id` is the
    cursor of the newest result, for `results?after=`.
    """
    sight = await run_in_threadpool(_see, services, batch_id, caller.tenant_id)
    if sight.batch.is_terminal and last_event_id == str(_cursor(sight.batch)):
        return Response(status_code=204)  # a browser would come back for ever otherwise
    events = _events(services, caller, sight)
    return StreamingResponse(events, headers=_HEADERS, media_type=MEDIA_TYPE)


async def _events(services: Services, caller: Caller, sight: Sight) -> AsyncIterator[str]:
    check_at = time.monotonic() + PING_S
    with services.watchers.watch(sight.batch) as watch:
        yield _event(sight)
        while not sight.batch.is_terminal and not watch.is_over:
            newer = await watch.next(PING_S)
            if time.monotonic() >= check_at:  # batches outlive keys
                if not await run_in_threadpool(services.gate.still_admits, caller):
                    return
                check_at = time.monotonic() + PING_S
            if newer is not None:
                sight = newer
                yield _event(sight)
            elif not watch.is_over:
                yield _PING


def _see(services: Services, batch_id: str, tenant_id: str) -> Sight:
    batch = get_batch(services.database, batch_id, tenant_id)
    return Sight(batch, json_line(describe_batch(services.database, batch)))


def _event(sight: Sight) -> str:
    return f"event: batch\n{_id_line(sight.batch)}data: {sight.shown}\n\n"


def _id_line(batch: Batch) -> str:
    """No id where only the end is left to tell: with its id a client says that it knows the end."""
    is_settled = batch.state is not BatchState.VALIDATING and batch.remaining
    return f"id: {_cursor(batch)}\n" if is_settled or batch.is_terminal else ""


def _cursor(batch: Batch) -> int:
    return batch.completed + batch.failed
