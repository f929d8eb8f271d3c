"""`nightshift status` and `wait`: where batches stand, for people and for scripts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.context import load, open_database
from cli.display import emit, emit_json, format_seconds, format_time, print_pairs, print_table, say
from cli.progress import progress_display
from models.errors import BatchNotCompleted
from models.states import BatchState

if TYPE_CHECKING:
    from models.database import Database
    from models.store.views import Batch

POLL_S = 1.0
LISTED = 100


def status(
    context: typer.Context,
    batch: Annotated[
        str | None, typer.Argument(metavar="BATCH", help="Without it, the newest batches.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on until the batch has ended.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Show where a batch stands, or list the newest batches."""
    from models.store.batches import get_batch

    if watch and batch is None:
        raise typer.BadParameter("--watch needs the id of a batch")
    with open_database(load(context)) as database:
        if batch is None:
            _list(database, as_json=as_json)
        elif watch:
            _watch(database, batch, as_json=as_json)
        else:
            _show(database, get_batch(database, batch), as_json=as_json)


def wait(
    context: typer.Context,
    batch: options.BatchId,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Give up after this; default: never.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Wait until a batch has ended; exit 0 when it is completed and 6 otherwise."""
    with open_database(load(context)) as database:
        ended = await_end(database, batch, timeout_s=timeout)
        if as_json:
            emit_json(_as_dict(database, ended))
    raise_unless_completed(ended)


def await_end(database: Database, batch_id: str, *, timeout_s: float | None = None) -> Batch:
    """Poll until the batch is terminal; raises BatchNotCompleted after the timeout."""
    from models.store.batches import get_batch

    give_up_s = None if timeout_s is None else time.monotonic() + timeout_s
    while not (batch := get_batch(database, batch_id)).is_terminal:
        left_s = POLL_S if give_up_s is None else give_up_s - time.monotonic()
        if left_s <= 0:
            raise BatchNotCompleted(
                f"batch {batch.id} is still {batch.state} after {timeout_s:g} s "
                f"({batch.completed + batch.failed} of {batch.total} requests); wait again, or see "
                "that a worker of its model runs"
            )
        time.sleep(min(POLL_S, left_s))
    return batch


def raise_unless_completed(batch: Batch) -> None:
    """Raise BatchNotCompleted for a batch that ended in any other state."""
    if batch.state == BatchState.COMPLETED:
        return
    reason = f": {batch.errors[0].message}" if batch.errors else ""
    raise BatchNotCompleted(
        f"batch {batch.id} ended as {batch.state}{reason}; `nightshift results {batch.id}` prints "
        "what was finished"
    )


def _list(database: Database, *, as_json: bool) -> None:
    from models.store.batches import list_batches

    batches = list_batches(database, limit=LISTED)
    if as_json:
        emit_json([_as_dict(database, batch) for batch in batches])
    elif batches:
        columns = ("BATCH", "STATE", "MODEL", "DONE", "TOTAL", "FAILED", "CREATED")
        print_table(columns, [_row(batch) for batch in batches])
    else:
        say("no batch yet; `nightshift submit` or `nightshift run` makes one")


def _row(batch: Batch) -> tuple[str, ...]:
    done = batch.completed + batch.failed
    counts = (str(done), str(batch.total), str(batch.failed))
    created = format_time(batch.created_at)
    return (batch.id, str(batch.state), _model(batch), *counts, created)


def _model(batch: Batch) -> str:
    return "-" if batch.model is None else str(batch.model)


def _show(database: Database, batch: Batch, *, as_json: bool) -> None:
    if as_json:
        emit_json(_as_dict(database, batch))
        return
    from models.store.speed import batch_speed

    done = batch.completed + batch.failed
    speed = batch_speed(database, batch)
    rate = "-" if speed.tokens_per_second is None else f"{speed.tokens_per_second:.1f}"
    left = "-" if speed.eta_s is None else f"about {format_seconds(speed.eta_s)}"
    print_pairs(
        [
            ("batch", batch.id),
            ("state", str(batch.state)),
            ("model", _model(batch)),
            ("requests", f"{done} of {batch.total}, {batch.failed} failed"),
            ("tokens", f"{batch.prompt_tokens} prompt, {batch.output_tokens} output"),
            ("tokens/s", rate),
            ("left", left),
            ("created", format_time(batch.created_at)),
            ("ended", format_time(_ended_at(batch))),
            *((f"error line {error.line}", error.message) for error in batch.errors),
        ]
    )


def _watch(database: Database, batch_id: str, *, as_json: bool) -> None:
    """Follow a batch: JSON lines at every change, or a progress display."""
    from models.store.batches import get_batch

    batch = get_batch(database, batch_id)
    if as_json:
        _watch_as_json(database, batch)
        return
    with progress_display() as display:
        while True:
            display.update(
                done=batch.completed + batch.failed,
                total=batch.total,
                output_tokens=batch.output_tokens,
                stage=str(batch.state),
            )
            if batch.is_terminal:
                break
            time.sleep(POLL_S)
            batch = get_batch(database, batch_id)
    emit(str(batch.state))


def _watch_as_json(database: Database, batch: Batch) -> None:
    from models.store.batches import get_batch

    told: Batch | None = None
    while True:
        if batch != told:
            emit_json(_as_dict(database, batch), indent=None)
            told = batch
        if batch.is_terminal:
            return
        time.sleep(POLL_S)
        batch = get_batch(database, batch.id)


def _as_dict(database: Database, batch: Batch) -> dict[str, object]:
    from models.store.speed import batch_speed
    from models.wire.output import batch_object

    speed = batch_speed(database, batch)
    return batch_object(batch, eta_s=speed.eta_s, tokens_per_second=speed.tokens_per_second)


def _ended_at(batch: Batch) -> float | None:
    times = (batch.completed_at, batch.failed_at, batch.cancelled_at, batch.expired_at)
    return next((at for at in times if at is not None), None)
