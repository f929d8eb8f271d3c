"""Retrying: a new batch of the requests that failed in an old one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, and_, func, insert, literal, select, update

from models.database import Database
from models.errors import InputError
from models.states import BatchState, ResultStatus
from models.store.batches import get_batch
from models.store.forecast import model_capacity
from models.store.joins import whole_batch_join
from models.store.keys import UNLIMITED, KeyLimits
from models.store.plan import plan_chunks
from models.store.queue_room import check_room
from models.store.repeats import Call, call_values, find_known
from models.store.submit import batch_row, new_id
from models.store.transitions import move_batches
from models.store.views import DEFAULT_TENANT, Batch, Submission
from models.tables import batches, requests, results

_COPIED = ("line_number", "accepted", "custom_id", "prompt_kind", "prompt", "params")
_PLANNED = ("prefix_key", "prompt_chars")


def retry_batch(
    database: Database,
    batch_id: str,
    tenant_id: str = DEFAULT_TENANT,
    *,
    error_codes: Collection[str] | None = None,
    chunk_requests: int = 64,
    idempotency_key: str | None = None,
    is_repeat: bool = False,
    limits: KeyLimits = UNLIMITED,
) -> Batch:
    """Submit the requests of an ended batch that have no answer, as a new batch.

    `error_codes`: only those that failed for one of these reasons; None: all. Lines that were
    refused when they were read stay behind: they would be refused again. The new batch's metadata
    name the old one as `retry_of`. A repeat of the call gives the batch that the first one made,
    see `Call`. Raises InputError when the batch still runs or nothing can be retried,
    IdempotencyConflict, and QueueFull when the limits leave no room.
    """
    old = get_batch(database, batch_id, tenant_id)
    if not old.is_terminal:
        raise InputError(f"batch {batch_id} is {old.state}: wait for its end or cancel it first")
    new_batch_id = new_id("batch_")
    row = batch_row(_submission(old), new_batch_id, old.file_id)
    capacity = model_capacity(database, old.known_model)
    call = Call(
        tenant_id=tenant_id,
        body_sha256=_digest(batch_id, error_codes),
        idempotency_key=idempotency_key,
        is_repeat=is_repeat,
    )

    def store(connection: Connection) -> str:
        if (known := find_known(connection, call)) is not None:
            return known
        connection.execute(insert(batches).values({**row, **call_values(call)}))
        n_requests = _copy_failed(connection, batch_id, new_batch_id, error_codes)
        if n_requests == 0:
            raise InputError(_nothing_to_retry(batch_id, error_codes))
        plan_chunks(
            connection,
            new_batch_id,
            n_requests=n_requests,
            limit=chunk_requests,
            capacity=capacity,
        )
        of_batch = batches.c.id == new_batch_id
        connection.execute(update(batches).where(of_batch).values(n_total=n_requests))
        connection.execute(move_batches(BatchState.IN_PROGRESS).where(of_batch))
        check_room(connection, tenant_id, limits)
        return new_batch_id

    return get_batch(database, database.transact(store), tenant_id)


def _digest(batch_id: str, error_codes: Collection[str] | None) -> str:
    """Of what is retried: two retries of one batch are not the call that made the batch."""
    asked = ["retry", batch_id, None if error_codes is None else sorted(set(error_codes))]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def _submission(old: Batch) -> Submission:
    return Submission(
        model=old.known_model,
        endpoint=old.endpoint,
        file_name="",  # the file is the old batch's
        file_bytes=0,
        body_sha256=old.body_sha256,
        tenant_id=old.tenant_id,
        priority=old.priority,
        seed=old.seed,
        completion_window_s=old.completion_window_s,
        metadata={**old.metadata, "retry_of": old.id},
    )


def _nothing_to_retry(batch_id: str, error_codes: Collection[str] | None) -> str:
    reason = "" if error_codes is None else f" for {' or '.join(sorted(error_codes))}"
    return f"batch {batch_id} has no request that failed{reason} and could run again"


def _copy_failed(
    connection: Connection, old_id: str, new_id: str, error_codes: Collection[str] | None
) -> int:
    names = [*_COPIED, *_PLANNED]
    columns: list[Any] = [requests.c[name] for name in names]
    idx = func.row_number().over(order_by=requests.c.idx) - 1
    failed = (
        select(literal(new_id), idx, *columns)
        .join(
            results,
            and_(results.c.batch_id == requests.c.batch_id, results.c.idx == requests.c.idx),
        )
        .where(requests.c.batch_id == old_id, requests.c.accepted)
        .where(results.c.status == str(ResultStatus.ERROR))
    )
    if error_codes is not None:
        failed = failed.where(results.c.error_code.in_(error_codes))
    inserting = insert(requests).from_select(["batch_id", "idx", *names], failed)
    counted = inserting.execution_options(preserve_rowcount=True)
    with whole_batch_join(connection):
        return connection.execute(counted).rowcount
