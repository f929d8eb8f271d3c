"""`/v1/canaries`: whether answers and speed of the workers are what they were."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import Field

from api.access import CallerDep
from api.pages import page_of
from api.services import ServicesDep
from api.shapes import Page, Shape
from models.projections import describe_canary
from models.store.canaries import canary_figures

router = APIRouter(prefix="/v1/canaries", tags=["workers"])


class CanaryObject(Shape):
    """What came of a model's newest canary; `earlier` are medians of the 20 before it."""

    id: str = Field(description="The model, `name:weights`.")
    object: Literal["canary"] = "canary"
    measured_at: int
    expected: int = Field(description="Answers that were expected.")
    exact: int = Field(description="Of them, those that came.")
    tokens_per_second: float | None
    earlier_exact_ratio: float | None
    earlier_tokens_per_second: float | None


@router.get("")
def list_canaries(services: ServicesDep, _caller: CallerDep) -> Page[CanaryObject]:
    """The newest canary of every model, beside what was usual before."""
    found = [describe_canary(figures) for figures in canary_figures(services.database)]
    return page_of([CanaryObject.model_validate(each) for each in found], len(found))
