"""What the page's forms do, by the same code as the API's endpoints."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.responses import RedirectResponse, Response

from api.problems import Problem
from api.routes import batches
from api.services import ServicesDep
from api.shapes import CreateBatch
from api.site.failing import PageRoute
from api.site.forms import FormFields
from api.site.session import OwnPage, PageCaller
from api.uploads import receive_file
from models.store.retry import retry_batch

router = APIRouter(route_class=PageRoute, include_in_schema=False, dependencies=[OwnPage])


@router.post("/files")
async def upload(request: Request, services: ServicesDep, caller: PageCaller) -> Response:
    """Store a file while it arrives, then offer to make a batch of it."""
    file = await receive_file(request, services, caller.tenant_id)
    return _go_to(f"/?file={file.id}#create")


@router.post("/batches")
def create(
    request: Request, services: ServicesDep, caller: PageCaller, fields: FormFields
) -> Response:
    """Make a batch of an uploaded file."""
    try:
        body = CreateBatch.model_validate(fields)
    except ValidationError as exc:
        field = str(exc.errors(include_url=False)[0]["loc"][0])
        raise Problem(400, f"{field} cannot be used: choose another", "invalid_value") from exc
    created = batches.create(request=request, services=services, caller=caller, body=body)
    return _go_to(f"/batches/{created.id}")


@router.post("/batches/{batch_id}/cancel")
def cancel(
    batch_id: str,
    services: ServicesDep,
    caller: PageCaller,
    back: Literal["list", "batch"] = "batch",
) -> Response:
    """Stop a batch."""
    batches.cancel(batch_id, services, caller)
    return _go_to("/" if back == "list" else f"/batches/{batch_id}")


@router.post("/batches/{batch_id}/retry")
def retry(batch_id: str, services: ServicesDep, caller: PageCaller, fields: FormFields) -> Response:
    """Run what failed again, all or what failed for one reason, as a new batch."""
    reason = fields.get("reason")
    fresh = retry_batch(
        services.database,
        batch_id,
        caller.tenant_id,
        error_codes=None if reason is None else [reason],
        chunk_requests=services.settings.chunk_requests,
    )
    return _go_to(f"/batches/{fresh.id}")


def _go_to(address: str) -> Response:
    return RedirectResponse(address, status_code=303)
