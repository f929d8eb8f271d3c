"""`nightshift status` and `wait`: where batches stand, for people and for scripts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.display import emit, emit_json, format_seconds, format_time, print_pairs, print_table, say
from cli.job_store import JobStore, open_job_store
from cli.progress import progress_display
from models.errors import BatchNotCompleted
from models.states import BatchState, is_terminal

if TYPE_CHECKING:
    from nightshift import Batch, Json

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
    """Show where a batch stands, or list the newest batches and every model's newest canary."""
    if watch and batch is None:
        raise typer.BadParameter("--watch needs the id of a batch")
    with open_job_store(context) as store:
        if batch is None:
            _list(store.newest(LISTED), as_json=as_json)
            if not as_json and (canaries := store.canaries()):
                _print_canaries(canaries)
        elif watch:
            _watch(store, batch, as_json=as_json)
        else:
            _show(store.batch(batch), as_json=as_json)


def wait(
    context: typer.Context,
    batch: options.BatchId,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Give up after this; default: never.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Wait until a batch has ended; exit 0 when it is completed and 6 otherwise."""
    with open_job_store(context) as store:
        ended = store.await_end(batch, timeout)
    if not has_ended(ended):
        raise BatchNotCompleted(
            f"batch {batch} is still {ended['status']} after {timeout:g} s ({_done(ended)} of "
            f"{ended['request_counts']['total']} requests); wait again, or see that a worker of "
            "its model runs"
        )
    if as_json:
        emit_json(ended)
    raise_unless_completed(ended)


def has_ended(batch: Batch) -> bool:
    """Whether nothing about the batch will change any more."""
    return is_terminal(BatchState(batch["status"]))


def raise_unless_completed(batch: Batch) -> None:
    """Raise BatchNotCompleted for a batch that ended in any other state."""
    state = batch["status"]
    if state == BatchState.COMPLETED:
        return
    reason = f": {errors[0]['message']}" if (errors := _errors(batch)) else ""
    raise BatchNotCompleted(
        f"batch {batch['id']} ended as {state}{reason}; `nightshift results {batch['id']}` prints "
        "what was finished"
    )


def _list(batches: list[Batch], *, as_json: bool) -> None:
    if as_json:
        emit_json(batches)
    elif batches:
        columns = ("BATCH", "STATE", "MODEL", "DONE", "TOTAL", "FAILED", "CREATED")
        print_table(columns, [_row(batch) for batch in batches])
    else:
        say("no batch yet; `nightshift submit` or `nightshift run` makes one")


def _print_canaries(canaries: list[Json]) -> None:
    emit("")
    columns = ("CANARY", "EXACT", "BEFORE", "TOKENS/S", "BEFORE", "MEASURED")
    rows = [
        (
            each["id"],
            _percent(each["exact"] / each["expected"]),
            _percent(each["earlier_exact_ratio"]),
            _speed(each["tokens_per_second"]),
            _speed(each["earlier_tokens_per_second"]),
            format_time(each["measured_at"]),
        )
        for each in canaries
    ]
    print_table(columns, rows)


def _percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.1%}"


def _speed(tokens_per_second: float | None) -> str:
    return "-" if tokens_per_second is None else f"{tokens_per_second:.1f}"


def _row(batch: Batch) -> tuple[str, ...]:
    counts = batch["request_counts"]
    numbers = (str(_done(batch)), str(counts["total"]), str(counts["failed"]))
    created = format_time(batch["created_at"])
    return (batch["id"], _state(batch), _model(batch), *numbers, created)


def _state(batch: Batch) -> str:
    return f"{batch['status']}, paused" if batch["nightshift"]["paused"] else batch["status"]


def _done(batch: Batch) -> int:
    return batch["request_counts"]["completed"] + batch["request_counts"]["failed"]


def _model(batch: Batch) -> str:
    return "-" if batch["model"] is None else f"{batch['model']}:{batch['nightshift']['weights']}"


def _errors(batch: Batch) -> list[Json]:
    return [] if batch["errors"] is None else batch["errors"]["data"]


def _show(batch: Batch, *, as_json: bool) -> None:
    if as_json:
        emit_json(batch)
        return
    counts, usage, more = batch["request_counts"], batch["usage"], batch["nightshift"]
    speed, eta_s = more["tokens_per_second"], more["eta_seconds"]
    print_pairs(
        [
            ("batch", batch["id"]),
            ("state", _state(batch)),
            ("model", _model(batch)),
            ("requests", f"{_done(batch)} of {counts['total']}, {counts['failed']} failed"),
            ("tokens", f"{usage['input_tokens']} prompt, {usage['output_tokens']} output"),
            ("tokens/s", _speed(speed)),
            ("left", "-" if eta_s is None else f"about {format_seconds(eta_s)}"),
            ("created", format_time(batch["created_at"])),
            ("ended", format_time(_ended_at(batch))),
            *((f"error line {error['line']}", error["message"]) for error in _errors(batch)),
        ]
    )


def _watch(store: JobStore, batch_id: str, *, as_json: bool) -> None:
    """Follow a batch: JSON lines at every change, or a progress display."""
    batch = store.batch(batch_id)
    if as_json:
        _watch_as_json(store, batch)
        return
    with progress_display() as display:
        while True:
            display.update(
                done=_done(batch),
                total=batch["request_counts"]["total"],
                output_tokens=batch["usage"]["output_tokens"],
                stage=batch["status"],
            )
            if has_ended(batch):
                break
            time.sleep(POLL_S)
            batch = store.batch(batch_id)
    emit(batch["status"])


def _watch_as_json(store: JobStore, batch: Batch) -> None:
    told: Batch | None = None
    while True:
        if batch != told:
            emit_json(batch, indent=None)
            told = batch
        if has_ended(batch):
            return
        time.sleep(POLL_S)
        batch = store.batch(batch["id"])


def _ended_at(batch: Batch) -> float | None:
    times = (
        batch["completed_at"], batch["failed_at"], batch["cancelled_at"], batch["expired_at"]
    )  # fmt: skip
    return next((at for at in times if at is not None), None)
