"""`/v1/batches`: create, list, read, cancel, and follow."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from api.access import CallerDep
from api.bodies import json_body
from api.pages import page_of
from api.problems import Problem
from api.services import Services, ServicesDep
from api.shapes import BatchObject, CreateBatch, Page
from models.database import Database
from models.errors import NotFoundError
from models.projections import describe_batch
from models.store.batches import cancel_batch, get_batch, list_batches
from models.store.creation import NewBatch, create_batch
from models.store.files import StoredFile, get_file
from models.store.views import Batch

router = APIRouter(prefix="/v1/batches", tags=["batches"])

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def body_schema(kind: type[CreateBatch]) -> dict[str, object]:
    """The request body in the OpenAPI document: it is read by `json_body`, not by FastAPI."""
    content = {"application/json": {"schema": kind.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}


@router.post("", openapi_extra=body_schema(CreateBatch))
def create(
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    body: Annotated[CreateBatch, Depends(json_body(CreateBatch))],
) -> BatchObject:
    """Create a batch of an uploaded file; it is `validating` until every line is checked."""
    file = _find_file(services.database, caller.tenant_id, body.input_file_id)
    idempotency_key = _idempotency_key(request)
    asked = body.model_dump(mode="json")
    if idempotency_key is not None:  # whoever sends it again may have uploaded the file again
        asked["input_file_id"] = file.sha256
    submitted = create_batch(
        services.database,
        NewBatch(
            tenant_id=caller.tenant_id,
            file_id=body.input_file_id,
            endpoint=str(body.endpoint),
            body_sha256=hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest(),
            completion_window_s=window_s(body.completion_window),
            metadata=body.metadata or {},
            priority=body.priority,
            idempotency_key=idempotency_key,
            is_repeat=_is_repeat(request),
        ),
    )
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
    return page_of([shown(services, batch) for batch in found], limit)


@router.get("/{batch_id}")
def read(batch_id: str, services: ServicesDep, caller: CallerDep) -> BatchObject:
    """One batch as it stands."""
    return shown(services, get_batch(services.database, batch_id, caller.tenant_id))


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


def _find_file(database: Database, tenant_id: str, file_id: str) -> StoredFile:
    try:
        return get_file(database, tenant_id, file_id)
    except NotFoundError as exc:
        raise Problem(404, str(exc), "not_found", "input_file_id") from exc


def _is_repeat(request: Request) -> bool:
    """Whether the official client says that it sends this again."""
    count = request.headers.get("x-stainless-retry-count", "0")
    return count.isascii() and count.isdigit() and int(count[:9]) > 0


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not _KEY.fullmatch(key):
        message = "idempotency-key should be 1 to 255 printable ASCII characters"
        raise Problem(400, message, "invalid_value", "idempotency-key")
    return key
