"""Who calls: the holder of the API key of a request.

A route with a `CallerDep` asks for a key with the scope of its method. GET and HEAD read, all else
writes.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.gate import Caller, is_local_name
from api.problems import Problem
from api.services import Services, ServicesDep
from models.store.keys import Scope

__all__ = ["Caller", "CallerDep", "caller_for", "caller_of_token"]

_bearer = HTTPBearer(auto_error=False, description="A key made by `nightshift key create`.")


def caller_of_token(services: Services, token: str | None) -> Caller:
    """Who holds the token, whatever they may do; raises Problem 401 or 429."""
    return services.gate.admit(token)


def caller_for(request: Request, services: Services, token: str | None) -> Caller:
    """Who holds the token and may do what the request's method does; raises Problem."""
    if services.gate.is_open:
        _refuse_other_sites(request)
    caller = caller_of_token(services, token)
    caller.require(Scope.READ if request.method in {"GET", "HEAD"} else Scope.WRITE)
    return caller


def _refuse_other_sites(request: Request) -> None:
    """Without keys, being on this machine is the permission: a web page seen there has it not.

    Its requests name its own site, as their origin or, when its name was made to mean this machine,
    as the host that they are for.
    """
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    if not is_local_name(_name(f"//{host}")) or (
        origin is not None and not is_local_name(_name(origin))
    ):
        message = "without keys only this machine is served, by the name localhost or 127.0.0.1"
        raise Problem(403, message, "not_local")


def _name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _caller(
    request: Request,
    services: ServicesDep,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Caller:
    return caller_for(request, services, None if bearer is None else bearer.credentials)


CallerDep = Annotated[Caller, Depends(_caller)]
