"""`/health` and `/ready`: for load balancers and supervisors, without a key."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from api.services import ServicesDep
from models.store.results import database_time

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """All is well."""

    status: Literal["ok"] = "ok"


@router.get("/health")
async def health() -> Health:
    """The process answers."""
    return Health()  # without a thread: all of them may wait for the database


@router.get("/ready")
def ready(services: ServicesDep) -> Health:
    """The database answers too; 503 while it does not."""
    database_time(services.database)
    return Health()
