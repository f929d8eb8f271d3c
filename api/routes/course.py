"""`/v1/batches/{id}/retry`, `pause`, `resume`: change the course of a batch, as OpenAI cannot."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import Field

from api.access import CallerDep
from api.bodies import body_schema, json_body
from api.problems import Problem
from api.repeats import idempotency_key, is_repeat
from api.routes.batches import shown
from api.services import ServicesDep
from api.shapes import BatchObject, Shape
from models.store.batches import get_batch
from models.store.pauses import pause_batch, resume_batch
from models.store.retry import retry_batch

router = APIRouter(prefix="/v1/batches", tags=["batches"])

ErrorCode = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,64}$")]


class RetryBatch(Shape):
    """Which of the failed requests to run again; without `error_codes` all."""

    error_codes: Annotated[list[ErrorCode], Field(min_length=1, max_length=100)] | None = None


@router.post("/{batch_id}/retry", openapi_extra=body_schema(RetryBatch))
def retry(
    batch_id: str,
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    body: Annotated[RetryBatch, Depends(json_body(RetryBatch))],
) -> BatchObject:
    """Make a new batch of an ended one's requests that failed, but not of lines that were refused.

    Its metadata name the old batch as `retry_of`.
    """
    old = get_batch(services.database, batch_id, caller.tenant_id)
    if not old.is_terminal:
        message = f"batch {batch_id} is {old.state}: wait for its end or cancel it first"
        raise Problem(409, message, "invalid_state")
    services.space.check()
    fresh = retry_batch(
        services.database,
        batch_id,
        caller.tenant_id,
        error_codes=body.error_codes,
        chunk_requests=services.settings.chunk_requests,
        idempotency_key=idempotency_key(request),
        is_repeat=is_repeat(request),
        limits=caller.limits,
    )
    return shown(services, fresh)


@router.post("/{batch_id}/pause")
def pause(batch_id: str, services: ServicesDep, caller: CallerDep) -> BatchObject:
    """Start nothing more of a batch; what runs is finished, and its completion window goes on."""
    return shown(services, pause_batch(services.database, batch_id, caller.tenant_id))


@router.post("/{batch_id}/resume")
def resume(batch_id: str, services: ServicesDep, caller: CallerDep) -> BatchObject:
    """Go on with a paused batch."""
    return shown(services, resume_batch(services.database, batch_id, caller.tenant_id))
