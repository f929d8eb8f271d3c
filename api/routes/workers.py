"""`/v1/workers`: who works, how fast, and what they hold."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import Field

from api.access import CallerDep
from api.pages import page_of
from api.services import ServicesDep
from api.shapes import Page, Shape
from models.store.worker_figures import WorkerFigures, worker_figures

router = APIRouter(prefix="/v1/workers", tags=["workers"])


class WorkerSpeed(Shape):
    """Tokens a second of the results that a worker gave within the last 5 minutes."""

    prompt: float
    output: float


class WorkerObject(Shape):
    """A worker that has not left; one of whom nothing was heard for an hour is forgotten."""

    id: str
    object: Literal["worker"] = "worker"
    model: str = Field(description="`name:weights`")
    host: str
    backend: str
    artifact: str | None
    threads: int | None
    load_s: float | None
    rss_bytes: int | None = Field(description="Memory that its engine holds.")
    peak_rss_bytes: int | None
    live: bool = Field(description="It takes new chunks.")
    draining: bool = Field(description="It ends, and gives back what it does not finish.")
    started_at: int
    beat_at: int
    versions: dict[str, str]
    tokens_per_second: WorkerSpeed
    leased_chunks: int = Field(description="Of all tenants.")
    batch_ids: list[str] = Field(description="Batches of the caller that it holds chunks of.")


@router.get("")
def list_workers(services: ServicesDep, caller: CallerDep) -> Page[WorkerObject]:
    """Every worker, oldest first, with its speed, its memory and what it works on."""
    found = worker_figures(services.database, caller.tenant_id)
    return page_of([_shown(figures) for figures in found], len(found))


def _shown(figures: WorkerFigures) -> WorkerObject:
    worker = figures.worker
    return WorkerObject(
        id=worker.id,
        model=str(worker.model),
        host=worker.host,
        backend=worker.backend,
        artifact=worker.artifact,
        threads=worker.threads,
        load_s=worker.load_s,
        rss_bytes=worker.rss_bytes,
        peak_rss_bytes=worker.peak_rss_bytes,
        live=figures.is_live,
        draining=worker.draining,
        started_at=int(worker.started_at),
        beat_at=int(worker.beat_at),
        versions=dict(worker.versions),
        tokens_per_second=WorkerSpeed(
            prompt=figures.prompt_tokens_per_second, output=figures.output_tokens_per_second
        ),
        leased_chunks=figures.leased_chunks,
        batch_ids=list(figures.batch_ids),
    )
