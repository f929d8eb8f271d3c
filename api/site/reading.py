"""The pages themselves: batches, one batch, workers, downloads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse

from api.access import Caller
from api.contents import MEDIA_TYPE, content_response
from api.services import Services, ServicesDep
from api.site.failing import PageRoute
from api.site.lines import BatchLine, RecordLine, UploadLimit
from api.site.plot import plot_of
from api.site.quantities import size
from api.site.rendering import RendererDep
from api.site.session import PageCaller
from models.database import Database
from models.projections import OutputFile, OutputKind, describe_output, read_output
from models.states import ResultStatus
from models.store.batches import get_batch, list_batches
from models.store.charts import latest_timings, token_series
from models.store.failures import failures_by_reason, with_retryable
from models.store.files import file_names, files_with_content
from models.store.keys import Scope
from models.store.queue_room import room_bytes
from models.store.record_pages import record_page
from models.store.results import database_time
from models.store.speed import batch_speeds
from models.store.views import Batch
from models.store.worker_figures import worker_figures
from models.store.workers import list_models
from models.wire.endpoints import Endpoint

BATCHES_PER_PAGE = 50
RECORDS_PER_PAGE = 25
_FILES_TO_CHOOSE_FROM = 20
WINDOWS = ("24h", "1h", "6h", "3d", "7d", "30d")

router = APIRouter(route_class=PageRoute, include_in_schema=False)

Status = Literal["answered", "failed"]
_STATUSES = {"answered": ResultStatus.OK, "failed": ResultStatus.ERROR}


@router.get("/")
def show_batches(
    request: Request,
    services: ServicesDep,
    caller: PageCaller,
    renderer: RendererDep,
    after: str | None = None,
    file: str | None = None,
) -> Response:
    """The batches, newest first; `file` is the one that was just uploaded."""
    database, tenant_id = services.database, caller.tenant_id
    found = list_batches(database, tenant_id=tenant_id, limit=BATCHES_PER_PAGE + 1, after=after)
    lines = _lines(database, found[:BATCHES_PER_PAGE], caller)
    workers = worker_figures(database)
    return renderer.page(
        request,
        "batches.html",
        lines=lines,
        next_after=lines[-1].batch.id if len(found) > BATCHES_PER_PAGE else None,
        is_first_page=after is None,
        n_workers=len(workers),
        tokens_per_second=sum(figures.output_tokens_per_second for figures in workers),
        files=files_with_content(database, tenant_id, limit=_FILES_TO_CHOOSE_FROM),
        chosen_file=file,
        may_write=caller.may(Scope.WRITE),
        upload_limit=_upload_limit(services, caller),
        endpoints=tuple(Endpoint),
        windows=WINDOWS,
    )


@router.get("/batches/{batch_id}")
def show_batch(
    batch_id: str,
    request: Request,
    services: ServicesDep,
    caller: PageCaller,
    renderer: RendererDep,
    after: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0,
    status: Status | None = None,
    reason: str | None = None,
) -> Response:
    """One batch, with a page of its requests."""
    database = services.database
    batch = get_batch(database, batch_id, caller.tenant_id)
    series = token_series(database, batch)
    page = record_page(
        database,
        batch,
        limit=RECORDS_PER_PAGE,
        after=after,
        status=None if status is None else _STATUSES[status],
        error_code=reason if status == "failed" else None,
    )
    return renderer.page(
        request,
        "batch.html",
        line=_lines(database, [batch], caller)[0],
        plot=None if series is None else plot_of(series),
        timings=latest_timings(database, batch.id),
        failures=failures_by_reason(database, batch.id) if batch.failed else (),
        records=[RecordLine(record) for record in page.records],
        next_after=page.next_after,
        after=after,
        chosen_status=status,
        chosen_reason=reason,
    )


@router.get("/batches/{batch_id}/{kind}.jsonl")
def download(
    batch_id: str, kind: OutputKind, request: Request, services: ServicesDep, caller: PageCaller
) -> Response:
    """The output or error file; while the batch runs, what there is of it."""
    database = services.database
    batch, file = get_batch(database, batch_id, caller.tenant_id), OutputFile(batch_id, kind)
    if not batch.is_terminal:
        name = {"content-disposition": f'attachment; filename="partial_{file.name}"'}
        return StreamingResponse(
            read_output(database, batch, kind), headers=name, media_type=MEDIA_TYPE
        )
    return content_response(
        request,
        describe_output(database, caller.tenant_id, file),
        lambda start, stop: read_output(database, batch, kind, start=start, stop=stop),
    )


@router.get("/workers")
def show_workers(
    request: Request, services: ServicesDep, _caller: PageCaller, renderer: RendererDep
) -> Response:
    """Who works, and what they serve."""
    database = services.database
    return renderer.page(
        request,
        "workers.html",
        workers=worker_figures(database),
        models=list_models(database),
        now=database_time(database),
    )


def _upload_limit(services: Services, caller: Caller) -> UploadLimit:
    """The server's own limit, or what the key leaves of it."""
    most = services.settings.max_file_bytes
    room = room_bytes(services.database, caller.tenant_id, caller.limits)
    if room is None or room >= most:
        return UploadLimit(most, "the file is too large: split it")
    return UploadLimit(
        room,
        f"this key may store {size(room)} more: make a smaller file, or wait until a batch has "
        "ended",
    )


def _lines(database: Database, batches: Sequence[Batch], caller: Caller) -> list[BatchLine]:
    names = file_names(database, {batch.file_id for batch in batches})
    speeds, now = batch_speeds(database, batches), database_time(database)
    ended_badly = [batch.id for batch in batches if batch.is_terminal and batch.failed]
    may_change = caller.may(Scope.WRITE)
    retryable = with_retryable(database, ended_badly) if ended_badly and may_change else set()
    return [
        BatchLine(
            batch=batch,
            name=names.get(batch.file_id) or batch.id,
            speed=speeds[batch.id],
            now=now,
            may_change=may_change,
            can_retry=batch.id in retryable,
        )
        for batch in batches
    ]
