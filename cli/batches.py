"""`nightshift cancel`, `retry`, `pause` and `resume`: change the course of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from cli import options
from cli.job_store import open_job_store
from cli.submit import print_batch
from models.errors import InputError, StateError


def cancel(context: typer.Context, batch: options.BatchId, as_json: options.AsJson = False) -> None:
    """Cancel a batch; what is finished stays and is delivered."""
    with open_job_store(context) as store:
        try:
            cancelled = store.cancel(batch)
        except StateError as exc:
            state = store.batch(batch)["status"]
            raise InputError(f"batch {batch} is {state}; nothing is left to cancel") from exc
    print_batch(cancelled, as_json=as_json)


def retry(context: typer.Context, batch: options.BatchId, as_json: options.AsJson = False) -> None:
    """Submit the failed requests of a batch again and print the new batch's id."""
    with open_job_store(context) as store, _mistaken_state():
        fresh = store.retry(batch)
    print_batch(fresh, as_json=as_json)


def pause(context: typer.Context, batch: options.BatchId, as_json: options.AsJson = False) -> None:
    """Start nothing more of a batch until it is resumed; what runs is finished."""
    with open_job_store(context) as store, _mistaken_state():
        paused = store.pause(batch)
    print_batch(paused, as_json=as_json)


def resume(context: typer.Context, batch: options.BatchId, as_json: options.AsJson = False) -> None:
    """Go on with a paused batch."""
    with open_job_store(context) as store, _mistaken_state():
        resumed = store.resume(batch)
    print_batch(resumed, as_json=as_json)


@contextmanager
def _mistaken_state() -> Iterator[None]:
    """The batch is not where it would have to be: the caller's mistake, not a failure."""
    try:
        yield
    except StateError as exc:
        raise InputError(str(exc)) from exc
