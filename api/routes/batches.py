"""`/v1/batches`: create, list, read, wait for, cancel."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.concurrency import run_in_threadpool

from api.access import Caller, CallerDep
from api.bodies import body_schema, json_body
from api.inline import inline_file
from api.pages import page_of
from api.problems import Problem
from api.repeats import idempotency_key, is_repeat
from api.services import Services, ServicesDep
from api.shapes import BatchObject, CreateBatch, Page
from models.database import Database
from models.errors import NotFoundError
from models.projections import describe_batch, describe_batches
from models.store.batches import cancel_batch, get_batch, list_batches
from models.store.creation import NewBatch, create_batch
from models.store.files import StoredFile, delete_file, get_file
from models.store.views import Batch, Submitted

router = APIRouter(prefix="/v1/batches", tags=["batches"])

MAX_WAIT_S = 60


@router.post("", openapi_extra=body_schema(CreateBatch))
def create(
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    body: Annotated[CreateBatch, Depends(json_body(CreateBatch))],
) -> BatchObject:
    """Create a batch of an uploaded file or of requests given here.

    It is `validating` until every line is checked.
    """
    submitted = _create(request, services, caller, body)
    services.wake()
    return shown(services, submitted.batch)


@router.get("")
def list_all(
    services: ServicesDep,
    caller: CallerDep,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Page[BatchObject]:
    """The batches, newest first."""
    found = list_batches(
        services.database, tenant_id=caller.tenant_id, limit=limit + 1, after=after
    )
    described = describe_batches(services.database, found)
    return page_of([BatchObject.model_validate(batch) for batch in described], limit)


@router.get("/{batch_id}")
async def read(
    batch_id: str,
    services: ServicesDep,
    caller: CallerDep,
    wait: Annotated[float, Query(ge=0, le=MAX_WAIT_S)] = 0,
) -> BatchObject:
    """One batch as it stands; with `wait` when it has ended, or after that many seconds."""
    if wait:
        batch = await run_in_threadpool(get_batch, services.database, batch_id, caller.tenant_id)
        await services.watchers.until_ended(batch, wait)
    return await run_in_threadpool(_read, services, batch_id, caller.tenant_id)


@router.post("/{batch_id}/cancel")
def cancel(batch_id: str, services: ServicesDep, caller: CallerDep) -> BatchObject:
    """Stop a batch; what is finished is kept and delivered."""
    return shown(services, cancel_batch(services.database, batch_id, caller.tenant_id))


def shown(services: Services, batch: Batch) -> BatchObject:
    """The batch as the API shows it."""
    return BatchObject.model_validate(describe_batch(services.database, batch))


def window_s(text: str) -> float | None:
    """`24h` or `3d` in seconds; None for `none`."""
    if text == "none":
        return None
    return int(text[:-1]) * (3600.0 if text.endswith("h") else 86400.0)


def require_file(database: Database, tenant_id: str, file_id: str) -> StoredFile:
    """The input file; raises Problem."""
    try:
        return get_file(database, tenant_id, file_id)
    except NotFoundError as exc:
        raise Problem(404, str(exc), "not_found", "input_file_id") from exc


def _read(services: Services, batch_id: str, tenant_id: str) -> BatchObject:
    return shown(services, get_batch(services.database, batch_id, tenant_id))


def _create(request: Request, services: Services, caller: Caller, body: CreateBatch) -> Submitted:
    """The batch; the file made of inline requests goes again when no new batch needs it."""
    services.space.check()
    if body.input_file_id is not None:
        file = require_file(services.database, caller.tenant_id, body.input_file_id)
        return create_batch(services.database, _new(request, caller, body, file))
    file = inline_file(services, caller.tenant_id, body.requests or [])
    created = False
    try:
        submitted = create_batch(services.database, _new(request, caller, body, file))
        created = submitted.created
        return submitted
    finally:
        if not created:
            delete_file(services.database, caller.tenant_id, file.id)


def _new(request: Request, caller: Caller, body: CreateBatch, file: StoredFile) -> NewBatch:
    key = idempotency_key(request)
    asked = body.model_dump(mode="json")
    if key is not None:  # whoever sends it again may have uploaded the file again
        asked["input_file_id"] = file.sha256
    return NewBatch(
        tenant_id=caller.tenant_id,
        file_id=file.id,
        endpoint=str(body.endpoint),
        body_sha256=hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest(),
        completion_window_s=window_s(body.completion_window),
        metadata=body.metadata or {},
        priority=body.priority,
        idempotency_key=key,
        is_repeat=is_repeat(request),
        limits=caller.limits,
    )
