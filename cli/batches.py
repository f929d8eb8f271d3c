"""`nightshift cancel` and `nightshift retry`: change the course of a batch."""

from __future__ import annotations

import typer

from cli import options
from cli.context import load, open_database
from cli.submit import print_batch, ring_for
from models.errors import InputError, StateError


def cancel(context: typer.Context, batch: options.BatchId, as_json: options.AsJson = False) -> None:
    """Cancel a batch; what is finished stays and is delivered."""
    from models.store.batches import cancel_batch, finalize_batch, get_batch
    from worker.dead_leases import release_leases_of_the_dead

    with open_database(load(context)) as database:
        try:
            cancelled = cancel_batch(database, batch)
        except StateError as exc:
            ended = get_batch(database, batch)
            raise InputError(f"batch {batch} is {ended.state}; nothing is left to cancel") from exc
        if not cancelled.is_terminal:
            # A killed run may have been the last process that would have closed the batch.
            release_leases_of_the_dead(database, batch)
            cancelled = finalize_batch(database, batch)
    print_batch(cancelled, as_json=as_json)


def retry(context: typer.Context, batch: options.BatchId, as_json: options.AsJson = False) -> None:
    """Submit the failed requests of a batch again and print the new batch's id."""
    from models.store.retry import retry_batch

    settings = load(context)
    with open_database(settings) as database:
        fresh = retry_batch(database, batch, chunk_requests=settings.chunk_requests)
        ring_for(settings, database, fresh)
    print_batch(fresh, as_json=as_json)
