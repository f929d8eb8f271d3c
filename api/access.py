"""Who calls: the tenant behind the API key of a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends

from models.store.views import DEFAULT_TENANT


@dataclass(frozen=True, slots=True)
class Caller:
    """The tenant whose rows a request may see."""

    tenant_id: str


def _caller() -> Caller:
    return Caller(DEFAULT_TENANT)


CallerDep = Annotated[Caller, Depends(_caller)]
