"""`nightshift cancel` and `nightshift retry`: change the course of a batch."""

from __future__ import annotations

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
    with open_job_store(context) as store:
        try:
            fresh = store.retry(batch)
        except StateError as exc:
            raise InputError(str(exc)) from exc
    print_batch(fresh, as_json=as_json)
