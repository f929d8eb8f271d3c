"""The commands' job store over a database, with no server in between."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from cli.context import open_registry
from cli.model_choice import split_name
from cli.submission import InputOptions, submit_input
from models.database import Database
from models.errors import NotFoundError
from models.model_key import ModelKey, Weights
from models.projections import describe_batch, describe_batches, describe_canary
from models.settings import Settings
from models.states import ResultStatus
from models.store.batches import cancel_batch, finalize_batch, get_batch, list_batches
from models.store.canaries import canary_figures
from models.store.commit_log import follow_results
from models.store.pauses import pause_batch, resume_batch
from models.store.results import stream_records
from models.store.retry import retry_batch
from models.store.views import Batch as StoredBatch
from models.store.workers import find_model
from models.wire.output import Json, result_line

if TYPE_CHECKING:
    from cli.job_store import SubmitOrder
    from nightshift import Batch

POLL_S = 1.0


class DatabaseStore:
    """A JobStore; the database stays the caller's to close."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database

    def batch(self, batch_id: str) -> Batch:
        """The batch as it stands."""
        return shown(self._database, get_batch(self._database, batch_id))

    def newest(self, limit: int) -> list[Batch]:
        """The newest batches, newest first."""
        found = list_batches(self._database, limit=limit)
        return cast("list[Batch]", describe_batches(self._database, found))

    def canaries(self) -> list[Json]:
        """Every model's newest canary, by name."""
        return [describe_canary(figures) for figures in canary_figures(self._database)]

    def await_end(self, batch_id: str, timeout_s: float | None) -> Batch:
        """Poll until the batch has ended or the time is up."""
        end_s = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        while not (batch := get_batch(self._database, batch_id)).is_terminal:
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                break
            time.sleep(min(POLL_S, left_s))
        return shown(self._database, batch)

    def submit(self, given: InputOptions, order: SubmitOrder) -> Batch:
        """Store the file as a batch and ring for it."""
        digest = given.digest()
        submitted = submit_input(
            self._database,
            self._settings,
            given,
            model=self._find_key(order.model, order.weights),
            digest=digest,
            idempotency_key=order.idempotency_key,
            priority=order.priority,
        )
        self._ring_for(submitted.batch)
        return shown(self._database, submitted.batch)

    def lines(self, batch: Batch, status: ResultStatus) -> Iterator[Json]:
        """What is there, in the order of the input."""
        return batch_lines(self._database, get_batch(self._database, batch["id"]), status)

    def follow(self, batch: Batch, status: ResultStatus) -> Iterator[Json]:
        """The log of commits, read again until the batch has ended."""
        after = 0
        while True:
            found = get_batch(self._database, batch["id"])
            for position, record in follow_results(self._database, found.id, after=after):
                after = position
                if record.status == status:
                    yield result_line(record, found)
            if found.is_terminal:
                return
            time.sleep(POLL_S)

    def cancel(self, batch_id: str) -> Batch:
        """Cancel, and close what nobody else would close."""
        from worker.dead_leases import release_leases_of_the_dead

        cancelled = cancel_batch(self._database, batch_id)
        if not cancelled.is_terminal:
            # A killed run may have been the last process that would have closed the batch.
            release_leases_of_the_dead(self._database, batch_id)
            cancelled = finalize_batch(self._database, batch_id)
        return shown(self._database, cancelled)

    def retry(self, batch_id: str) -> Batch:
        """Store the failed requests as a new batch and ring for it."""
        chunk_requests = self._settings.chunk_requests
        fresh = retry_batch(self._database, batch_id, chunk_requests=chunk_requests)
        self._ring_for(fresh)
        return shown(self._database, fresh)

    def pause(self, batch_id: str) -> Batch:
        """Mark it."""
        return shown(self._database, pause_batch(self._database, batch_id))

    def resume(self, batch_id: str) -> Batch:
        """Mark it, and ring for it."""
        resumed = resume_batch(self._database, batch_id)
        self._ring_for(resumed)
        return shown(self._database, resumed)

    def _find_key(self, name: str, weights: Weights | None) -> ModelKey:
        """The model as the workers registered it in the database, or as this machine has it."""
        name, weights = split_name(name, weights)
        try:
            return find_model(self._database, name, weights).key
        except NotFoundError as exc:
            try:
                return open_registry(self._settings).resolve(name, weights)
            except NotFoundError:
                raise exc from None

    def _ring_for(self, batch: StoredBatch) -> None:
        """Tell waiting workers of the batch; without a broker they look by themselves.

        A broker that is away costs a warning: the workers' dispatchers ring again.
        """
        if self._settings.broker_url is None or batch.model is None or batch.is_terminal:
            return
        from worker.celery_app import create_app
        from worker.dispatcher import Dispatcher
        from worker.doorbell import CeleryDoorbell

        dispatcher = Dispatcher(
            database=self._database,
            doorbell=CeleryDoorbell(create_app(self._settings)),
            settings=self._settings,
            models=[batch.model],
        )
        dispatcher.dispatch()


def shown(database: Database, batch: StoredBatch) -> Batch:
    """The batch in the shape of the API."""
    return cast("Batch", describe_batch(database, batch))


def batch_lines(database: Database, batch: StoredBatch, status: ResultStatus) -> Iterator[Json]:
    """The lines of all requests that ended with `status` so far, in input order."""
    for record in stream_records(database, batch.id, status=status):
        yield result_line(record, batch)
