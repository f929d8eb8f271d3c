"""Signed in or not: the API key in a cookie that no script and no other site can use.

The key itself is the session, so that nothing has to be stored here and revoking it ends it.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from fastapi import Depends, Request
from starlette.responses import Response

from api import access
from api.access import Caller
from api.problems import Problem
from api.services import ServicesDep

COOKIE = "nightshift_key"


def is_signed_in(request: Request) -> bool:
    """Whether the browser sent a key; it may have been revoked."""
    return COOKIE in request.cookies


def start_session(request: Request, response: Response, token: str) -> None:
    """Let the browser send the key with every request, until it is closed."""
    response.set_cookie(
        COOKIE, token, httponly=True, samesite="strict", secure=_is_encrypted(request)
    )


def end_session(request: Request, response: Response) -> None:
    """Let the browser forget the key."""
    response.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=_is_encrypted(request))


def _is_encrypted(request: Request) -> bool:
    """Whether the browser came over https, also when a proxy took that off."""
    return "https" in (_origin(request).scheme, request.url.scheme)


def require_own_page(request: Request) -> None:
    """Raise Problem 403 unless a form of this very site sent the request."""
    host = _origin(request).netloc
    if not host or host != request.headers.get("host"):
        raise Problem(403, "this did not come from Nightshift's own page: open it anew", "origin")


def _origin(request: Request) -> SplitResult:
    """Where the browser says that the request comes from; empty when it says nothing of use."""
    try:
        return urlsplit(request.headers.get("origin", ""))
    except ValueError:  # a bracket that is never closed
        return urlsplit("")


def _page_caller(request: Request, services: ServicesDep) -> Caller:
    return access.caller_for(request, services, request.cookies.get(COOKIE))


PageCaller = Annotated[Caller, Depends(_page_caller)]
OwnPage = Depends(require_own_page)
