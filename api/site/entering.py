"""Signing in with an API key, and out."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from api import access
from api.problems import Problem
from api.services import ServicesDep
from api.site.failing import PageRoute
from api.site.forms import FormFields
from api.site.rendering import RendererDep
from api.site.session import OwnPage, end_session, start_session
from models.store.keys import Scope

_UNUSABLE = "this key is wrong, expired or revoked: give another"

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/sign-in")
def ask(request: Request, renderer: RendererDep) -> Response:
    """The form."""
    return renderer.page(request, "sign_in.html", problem=None)


@router.post("/sign-in", dependencies=[OwnPage])
def sign_in(
    request: Request, services: ServicesDep, renderer: RendererDep, fields: FormFields
) -> Response:
    """Look at the key and let the browser keep it."""
    key = fields.get("key", "").strip()
    try:
        access.caller_of_token(services, key).require(Scope.READ)
    except Problem as problem:
        message = _UNUSABLE if problem.status == 401 else problem.message
        return renderer.page(request, "sign_in.html", status=problem.status, problem=message)
    answer = RedirectResponse("/", status_code=303)
    if not services.gate.is_open:
        start_session(request, answer, key)
    return answer


@router.post("/sign-out", dependencies=[OwnPage])
def sign_out(request: Request) -> Response:
    """Forget the key."""
    answer = RedirectResponse("/sign-in", status_code=303)
    end_session(request, answer)
    return answer
