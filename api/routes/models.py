"""`/v1/models`: what batches may name."""

from __future__ import annotations

from fastapi import APIRouter

from api.access import CallerDep
from api.pages import page_of
from api.services import ServicesDep
from api.shapes import ModelObject, Page
from models.errors import NotFoundError
from models.store.views import ServedModel
from models.store.workers import list_models

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("")
def list_served(services: ServicesDep, _caller: CallerDep) -> Page[ModelObject]:
    """Every model that a worker has served, as `name:weights`."""
    found = [_shown(model) for model in list_models(services.database)]
    return page_of(found, len(found))


@router.get("/{model}")
def read_served(model: str, services: ServicesDep, _caller: CallerDep) -> ModelObject:
    """One model, by `name` or `name:weights`."""
    for served in list_models(services.database):
        if model in (str(served.key), served.key.name):
            return _shown(served)
    raise NotFoundError(f"no model {model} is served here: start a worker")


def _shown(model: ServedModel) -> ModelObject:
    return ModelObject(id=str(model.key), created=int(model.registered_at), owned_by="nightshift")
