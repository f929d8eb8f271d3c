"""Who calls: the tenant behind the API key of a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends

from api.services import Services, ServicesDep
from models.store.views import DEFAULT_TENANT


@dataclass(frozen=True, slots=True)
class Caller:
    """The tenant whose rows a request may see."""

    tenant_id: str


def caller_of_token(_services: Services, _token: str | None) -> Caller:
    """Who holds the token; everybody is the same tenant as long as there are no keys."""
    return Caller(DEFAULT_TENANT)


def _caller(services: ServicesDep) -> Caller:
    return caller_of_token(services, None)


CallerDep = Annotated[Caller, Depends(_caller)]
