"""Leases: claim a chunk, renew, release, and read what is left of it.

The protocol: a claim raises the chunk's epoch; every later write names that epoch and fails when
somebody else has claimed since. Only the database's clock decides whether a lease ran out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    RowMapping,
    Select,
    and_,
    bindparam,
    insert,
    or_,
    select,
    update,
)

from models.clock import db_now
from models.database import Database
from models.errors import LeaseLost
from models.model_key import ModelKey
from models.states import AttemptOutcome, BatchState, ChunkState
from models.store.batches import wants_results
from models.store.endings import close_attempt, has_result, lose_lease, quarantine, unlease
from models.store.fair_share import IS_OPEN, fair_order, is_of, shares, waiting_batches
from models.store.rows import chunk_view, model_key, queued_request
from models.store.transitions import move_chunks
from models.store.views import Chunk, Lease, QueuedRequest, RenewReceipt
from models.tables import attempts, batches, chunks, requests, workers

DEFAULT_MAX_CRASHES: Final = 3
FIRST_BACK_OFF_S: Final = 5.0
MAX_BACK_OFF_S: Final = 600.0
_JITTER: Final = 0.2  # of the back-off, either way: chunks do not come back all at once

# What runs with every commit is put together once: that takes longer than SQLite takes to run it.
# `lease_parameters` fills in the parameters.
IS_HELD: Final = and_(
    chunks.c.id == bindparam("of_chunk"),
    chunks.c.epoch == bindparam("of_epoch"),
    chunks.c.state == str(ChunkState.LEASED),
)
_PROLONG: Final = (
    update(chunks).where(IS_HELD).values(lease_until=db_now() + bindparam("ttl_s", type_=Double()))
)
_BATCH_STATE: Final = select(batches.c.state).where(batches.c.id == bindparam("of_batch"))


@dataclass(frozen=True, slots=True)
class _Claimer:
    """Who claims and on which terms."""

    worker_id: str
    ttl_s: float
    max_crashes: int


def claim_chunk(
    database: Database,
    chunk_id: int,
    worker_id: str,
    *,
    ttl_s: float,
    model: ModelKey | None = None,
    only_batch: str | None = None,
    max_crashes: int = DEFAULT_MAX_CRASHES,
) -> Lease | None:
    """Lease this chunk, or None when it is held, finished, waiting or of a stopped batch.

    Also None when it is of another model than `model`, because ids come from messages.
    A claim over a lease that ran out books that attempt as lost and charges the chunk a crash;
    at `max_crashes` the chunk is quarantined instead.
    """
    named = _claimable(only_batch, model).where(chunks.c.id == chunk_id)
    claimer = _Claimer(worker_id, ttl_s, max_crashes)
    return _claim(database, lambda connection: _first(connection, named), claimer)


def claim_next(
    database: Database,
    model: ModelKey,
    worker_id: str,
    *,
    ttl_s: float,
    only_batch: str | None = None,
    max_crashes: int = DEFAULT_MAX_CRASHES,
) -> Lease | None:
    """Lease the next chunk for this model, of the tenant that holds the fewest of its chunks.

    Which of the tenant's chunks that is says `models.store.fair_share`.
    """
    claimer = _Claimer(worker_id, ttl_s, max_crashes)
    return _claim(database, lambda connection: _next(connection, model, only_batch), claimer)


def renew_lease(database: Database, lease: Lease, ttl_s: float) -> RenewReceipt:
    """Prolong the lease; raises LeaseLost when it is not held any more."""

    def renew(connection: Connection) -> RenewReceipt:
        hold_lease(connection, lease, ttl_s)
        return RenewReceipt(cancelled=not is_wanted(connection, lease.batch_id))

    return database.transact(renew, replayable=True)


def release_lease(
    database: Database,
    lease: Lease,
    *,
    crashed: bool,
    reason: str,
    max_crashes: int = DEFAULT_MAX_CRASHES,
) -> bool:
    """Give the chunk back before it is done; False when the lease was not held any more.

    Interrupted (`crashed` false): the attempt is not counted and the chunk can be claimed at once.
    Crashed: it waits longer each time, and at `max_crashes` it is quarantined.
    """

    def release(connection: Connection) -> bool:
        chunk = _lock_held(connection, lease)
        if chunk is None:
            return False
        if not crashed:
            _hand_back(connection, chunk, reason)
            return True
        close_attempt(connection, chunk, AttemptOutcome.CRASHED, reason)
        if not is_wanted(connection, lease.batch_id):
            unlease(connection, chunk, ChunkState.CANCELLED)
        elif chunk.crashes + 1 < max_crashes:
            _back_off(connection, chunk)
        else:
            quarantine(connection, chunk, chunk.crashes + 1, reason)
        return True

    return database.transact(release, replayable=True)


def release_unknown(
    database: Database, worker_id: str, known: Collection[tuple[int, int]], *, reason: str
) -> list[int]:
    """Give back, uncharged, what the worker holds by the database and not by its own books.

    `known`: chunk and epoch of the leases that it knows. Returns the chunks that were given back.
    """
    held = (
        select(chunks)
        .where(chunks.c.state == str(ChunkState.LEASED), chunks.c.worker_id == worker_id)
        .order_by(chunks.c.id)
        .with_for_update()
    )

    def release(connection: Connection) -> list[int]:
        found = [chunk_view(row) for row in connection.execute(held).mappings()]
        unknown = [chunk for chunk in found if (chunk.id, chunk.epoch) not in known]
        for chunk in unknown:
            _hand_back(connection, chunk, reason)
        return [chunk.id for chunk in unknown]

    return database.transact(release, replayable=True)


def note_running(database: Database, lease: Lease, idx: int) -> None:
    """Say which request alone runs from now on; raises LeaseLost when the lease is not held.

    When the lease is lost then, this request is to blame and not the whole chunk.
    """
    noting = update(chunks).where(IS_HELD).values(running_idx=idx)

    def note(connection: Connection) -> None:
        if connection.execute(noting, lease_parameters(lease)).rowcount != 1:
            raise _lost(lease)

    database.transact(note, replayable=True)


def missing_requests(database: Database, lease: Lease) -> list[QueuedRequest]:
    """The chunk's requests that have no result yet, in planned order."""
    statement = (
        select(requests)
        .where(requests.c.chunk_id == lease.chunk_id, ~has_result())
        .order_by(requests.c.prefix_key, requests.c.prompt_chars, requests.c.idx)
    )
    seed = select(batches.c.seed).where(batches.c.id == lease.batch_id)
    with database.read() as connection:
        batch_seed = connection.execute(seed).scalar_one()
        rows = connection.execute(statement).mappings().all()
    return [queued_request(row, lease, batch_seed) for row in rows]


def hold_lease(connection: Connection, lease: Lease, ttl_s: float) -> None:
    """The fence: prolong the lease and lock its chunk, or raise LeaseLost."""
    if connection.execute(_PROLONG, {**lease_parameters(lease), "ttl_s": ttl_s}).rowcount != 1:
        raise _lost(lease)


def lease_parameters(lease: Lease) -> dict[str, int]:
    """The parameters of `IS_HELD`: whether the chunk is still under exactly this lease."""
    return {"of_chunk": lease.chunk_id, "of_epoch": lease.epoch}


def is_wanted(connection: Connection, batch_id: str) -> bool:
    """Whether results of the batch are still wanted; read after the chunk is locked."""
    state: str = connection.execute(_BATCH_STATE, {"of_batch": batch_id}).scalar_one()
    return state == BatchState.IN_PROGRESS


def back_off_s(crashes: int) -> float:
    """Seconds to wait after that many crashes: doubling, bounded, blurred."""
    wait_s: float = min(FIRST_BACK_OFF_S * 2 ** (crashes - 1), MAX_BACK_OFF_S)
    return wait_s * random.uniform(1 - _JITTER, 1 + _JITTER)


def _is_claimable() -> ColumnElement[bool]:
    """Whether the chunk of the enclosing query is free, or its lease ran out."""
    ran_out = and_(chunks.c.state == str(ChunkState.LEASED), chunks.c.lease_until < db_now())
    free = chunks.c.state.in_((ChunkState.PENDING, ChunkState.DISPATCHED))
    return and_(chunks.c.not_before <= db_now(), or_(free, ran_out))


def _claimable(only_batch: str | None, model: ModelKey | None) -> Select[Any]:
    statement = (
        select(chunks, batches.c.model_name, batches.c.weights)
        .join(batches, batches.c.id == chunks.c.batch_id)
        .where(wants_results(), _is_claimable())
    )
    if model is not None:
        statement = statement.where(is_of(model))
    return statement if only_batch is None else statement.where(chunks.c.batch_id == only_batch)


def _next(connection: Connection, model: ModelKey, only_batch: str | None) -> RowMapping | None:
    """The next chunk of the model, locked; chunks that somebody else has locked are passed over."""
    waiting = waiting_batches(connection, model, _is_claimable(), only_batch=only_batch)
    # A chunk that is only rung for is no share yet: nobody may ever come for it.
    held = shares(connection, model, (ChunkState.LEASED,), waiting)
    for batch in fair_order(waiting, held):
        in_order = _claimable(batch.id, model).where(IS_OPEN).order_by(chunks.c.number).limit(1)
        if (row := _first(connection, in_order, skip_locked=True)) is not None:
            return row
    return None


def _first(
    connection: Connection, candidates: Select[Any], *, skip_locked: bool = False
) -> RowMapping | None:
    locking = candidates.with_for_update(of=chunks, skip_locked=skip_locked)
    return connection.execute(locking).mappings().first()


def _claim(
    database: Database,
    find: Callable[[Connection], RowMapping | None],
    claimer: _Claimer,
) -> Lease | None:
    """Try candidates until one is leased; each is a transaction, so that batch locks are single."""

    def claim_one(connection: Connection) -> Lease | bool:
        row = find(connection)
        if row is None:
            return False
        chunk = chunk_view(row)
        crashes: int | None = chunk.crashes
        if chunk.state is ChunkState.LEASED:
            crashes = lose_lease(connection, chunk, max_crashes=claimer.max_crashes)
        if crashes is None:
            return True
        return _lease(connection, chunk, model_key(row), claimer=claimer, crashes=crashes)

    while not isinstance(claimed := database.transact(claim_one), Lease):
        if not claimed:
            return None
    return claimed


def _lease(
    connection: Connection,
    chunk: Chunk,
    model: ModelKey,
    *,
    claimer: _Claimer,
    crashes: int,
) -> Lease:
    epoch, attempt = chunk.epoch + 1, chunk.attempts + 1
    values = {"epoch": epoch, "attempts": attempt, "crashes": crashes}
    lease_until = connection.execute(
        move_chunks(ChunkState.LEASED)
        .where(chunks.c.id == chunk.id, chunks.c.epoch == chunk.epoch)
        .values(worker_id=claimer.worker_id, lease_until=db_now() + claimer.ttl_s, **values)
        .values(running_idx=None, dispatched_at=None)
        .returning(chunks.c.lease_until)
    ).scalar_one()
    started = {"chunk_id": chunk.id, "epoch": epoch, "worker_id": claimer.worker_id, "n_done": 0}
    connection.execute(insert(attempts).values(started_at=db_now(), **started))
    artifact = select(workers.c.artifact).where(workers.c.id == claimer.worker_id)
    return Lease(
        chunk_id=chunk.id,
        batch_id=chunk.batch_id,
        epoch=epoch,
        worker_id=claimer.worker_id,
        model=model,
        attempt=attempt,
        n_requests=chunk.n_requests,
        lease_until=lease_until,
        artifact=connection.execute(artifact).scalar(),
    )


def _lost(lease: Lease) -> LeaseLost:
    return LeaseLost(
        f"worker {lease.worker_id} lost its lease {lease.epoch} on chunk {lease.chunk_id}: "
        "nothing was written"
    )


def _lock_held(connection: Connection, lease: Lease) -> Chunk | None:
    statement = select(chunks).where(IS_HELD).with_for_update()
    row = connection.execute(statement, lease_parameters(lease)).mappings().first()
    return None if row is None else chunk_view(row)


def _hand_back(connection: Connection, chunk: Chunk, reason: str) -> None:
    """End the lease uncharged; the chunk can be claimed at once."""
    close_attempt(connection, chunk, AttemptOutcome.RELEASED, reason)
    if is_wanted(connection, chunk.batch_id):
        unlease(connection, chunk, ChunkState.PENDING, attempts=chunk.attempts - 1)
    else:
        unlease(connection, chunk, ChunkState.CANCELLED)


def _back_off(connection: Connection, chunk: Chunk) -> None:
    crashes = chunk.crashes + 1
    not_before = db_now() + back_off_s(crashes)
    unlease(connection, chunk, ChunkState.PENDING, crashes=crashes, not_before=not_before)
