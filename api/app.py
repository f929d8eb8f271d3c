"""The application put together: endpoints, errors, and the work beside them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import Depends, FastAPI
from prometheus_client import CollectorRegistry
from starlette.concurrency import run_in_threadpool

from api.addresses import refuse_nul
from api.background import Background
from api.deliverer import Deliverer
from api.estimator import Estimator
from api.gate import LOOPBACK, Gate
from api.http_metrics import CountRequests, HttpMetrics
from api.outgoing import Outgoing
from api.problems import add_problem_handlers
from api.request_ids import RequestIds
from api.routes import (
    batches,
    canaries,
    course,
    estimate,
    events,
    files,
    health,
    manifest,
    metrics,
    models,
    results,
    webhooks,
    workers,
)
from api.services import Services
from api.shapes import ErrorEnvelope
from api.site.mounting import add_site
from api.store_metrics import StoreCollector
from api.validator import Validator
from api.watchers import Watchers
from models.database import Database
from models.disk_space import DiskSpace
from models.settings import Settings
from models.store.files import drop_stale_files


def create_app(settings: Settings, database: Database, *, host: str = LOOPBACK) -> FastAPI:
    """The ASGI application over an open database, which stays the caller's to close.

    `host`: where it listens, which decides whether keys are needed. Raises SettingsError.
    """
    gate = Gate(database, settings, host=host)
    validator = Validator(database, settings)
    background = Background(
        (validator.validate_all, lambda: drop_stale_files(database), gate.note_uses)
    )
    beside = (background, *_deliveries(settings, database))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        for work in beside:
            work.start()
        yield
        for work in beside:
            await run_in_threadpool(work.stop)

    app = FastAPI(
        title="Nightshift",
        version=version("nightshift"),
        lifespan=lifespan,
        dependencies=[Depends(refuse_nul)],
        responses={"default": {"model": ErrorEnvelope, "description": "Any error"}},
        redoc_url=None,
    )
    app.state.services = Services(
        settings=settings,
        database=database,
        space=DiskSpace(database, settings.min_free_disk_bytes),
        gate=gate,
        wake=background.wake,
        watchers=Watchers(database),
        estimator=Estimator(database, settings),
    )
    routers = (files, batches, course, results, events, manifest, estimate, models, workers)
    for routes in (*routers, canaries, webhooks, health, metrics):
        app.include_router(routes.router)
    add_site(app)
    add_problem_handlers(app)
    app.state.metrics = registry = CollectorRegistry()
    registry.register(StoreCollector(database))
    app.add_middleware(CountRequests, metrics=HttpMetrics(registry))
    app.add_middleware(RequestIds)
    return app


def _deliveries(settings: Settings, database: Database) -> tuple[Background, ...]:
    """A thread of its own for webhooks, when they are switched on."""
    if not settings.webhooks:
        return ()
    outgoing = Outgoing(private_addresses=settings.webhook_private_addresses)
    deliverer = Deliverer(database, settings, outgoing)
    work = Background((lambda: deliverer.deliver_due(lambda: work.is_stopping),), name="deliveries")
    return (work,)
