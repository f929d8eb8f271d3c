"""What the page's forms do, by the same code as the API's endpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.responses import RedirectResponse, Response

from api.bodies import Body
from api.problems import Problem
from api.routes import batches, course
from api.routes.course import RetryBatch
from api.services import ServicesDep
from api.shapes import CreateBatch
from api.site.failing import PageRoute
from api.site.forms import FormFields
from api.site.session import OwnPage, PageCaller
from api.uploads import receive_file

Change = Literal["cancel", "pause", "resume"]
_CHANGES = {"cancel": batches.cancel, "pause": course.pause, "resume": course.resume}

router = APIRouter(route_class=PageRoute, include_in_schema=False, dependencies=[OwnPage])


@router.post("/files")
async def upload(request: Request, services: ServicesDep, caller: PageCaller) -> Response:
    """Store a file while it arrives, then offer to make a batch of it."""
    file = await receive_file(request, services, caller)
    return _go_to(f"/?file={file.id}#create")


@router.post("/batches")
def create(
    request: Request, services: ServicesDep, caller: PageCaller, fields: FormFields
) -> Response:
    """Make a batch of an uploaded file."""
    body = _checked(CreateBatch, fields)
    created = batches.create(request=request, services=services, caller=caller, body=body)
    return _go_to(f"/batches/{created.id}")


@router.post("/batches/{batch_id}/retry")
def retry(
    batch_id: str, request: Request, services: ServicesDep, caller: PageCaller, fields: FormFields
) -> Response:
    """Run what failed again, all or what failed for one reason, as a new batch."""
    wanted = {"error_codes": [fields["reason"]]} if "reason" in fields else {}
    fresh = course.retry(batch_id, request, services, caller, _checked(RetryBatch, wanted))
    return _go_to(f"/batches/{fresh.id}")


@router.post("/batches/{batch_id}/{change}")
def change(
    batch_id: str,
    change: Change,
    services: ServicesDep,
    caller: PageCaller,
    back: Literal["list", "batch"] = "batch",
) -> Response:
    """Stop a batch, pause it or go on with it."""
    _CHANGES[change](batch_id, services, caller)
    return _go_to("/" if back == "list" else f"/batches/{batch_id}")


def _checked(kind: type[Body], fields: Mapping[str, object]) -> Body:
    try:
        return kind.model_validate(fields)
    except ValidationError as exc:
        field = exc.errors(include_url=False)[0]["loc"][:1]  # empty: it is about several
        message = f"{field[0] if field else 'the form'} cannot be used: choose another"
        raise Problem(400, message, "invalid_value") from exc


def _go_to(address: str) -> Response:
    return RedirectResponse(address, status_code=303)
