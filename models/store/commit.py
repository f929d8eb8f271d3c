"""Committing finished requests: fence, results, counters and the chunk's end in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from sqlalchemy import Connection, bindparam, exists, func, select, update
from sqlalchemy.sql.dml import ReturningInsert

from models.clock import db_now
from models.database import Database
from models.errors import LeaseLost
from models.states import AttemptOutcome, ChunkState, ResultStatus
from models.store.commit_log import log_commit
from models.store.endings import has_result
from models.store.leases import IS_HELD, hold_lease, is_wanted, lease_parameters
from models.store.rows import result_row
from models.store.transitions import insert_new, move_chunks
from models.store.views import CommitReceipt, Lease, Outcome
from models.tables import attempts, batches, chunks, requests, results

_COUNTS: Final = {"n_completed": ResultStatus.OK, "n_failed": ResultStatus.ERROR}
_TOKENS: Final = ("prompt_tokens", "cached_prompt_tokens", "output_tokens")

# Put together once, as in models.store.leases.
_FINISH_CHUNK: Final = (
    move_chunks(ChunkState.DONE)
    .where(IS_HELD, ~exists().where(requests.c.chunk_id == bindparam("of_chunk"), ~has_result()))
    .values(worker_id=None, lease_until=None, running_idx=None)
)
_BOOK_ATTEMPT: Final = (
    update(attempts)
    .where(attempts.c.chunk_id == bindparam("of_chunk"), attempts.c.epoch == bindparam("of_epoch"))
    .values(n_done=attempts.c.n_done + bindparam("more_done"))
)
_END_ATTEMPT: Final = _BOOK_ATTEMPT.values(ended_at=db_now(), outcome=str(AttemptOutcome.DONE))
_COUNT: Final = (
    update(batches)
    .where(batches.c.id == bindparam("of_batch"))
    .values({name: batches.c[name] + bindparam(f"more_{name}") for name in (*_COUNTS, *_TOKENS)})
)


@dataclass(frozen=True, slots=True)
class _Inserted:
    """What one commit added to the results."""

    rows: Sequence[dict[str, Any]]

    def count(self, status: ResultStatus) -> int:
        return sum(row["status"] == str(status) for row in self.rows)

    def total(self, column: str) -> int:
        return sum(int(row[column]) for row in self.rows)


def commit_outcomes(
    database: Database, lease: Lease, outcomes: Sequence[Outcome], *, ttl_s: float
) -> CommitReceipt:
    """Store how these requests of the chunk ended, and prolong the lease by `ttl_s`.

    The chunk is done when all of its requests are final. May be repeated with the same outcomes
    when it is not known whether it happened. Raises LeaseLost when somebody else may hold the
    chunk now; nothing is written then.
    """

    def commit(connection: Connection) -> CommitReceipt:
        try:
            hold_lease(connection, lease, ttl_s)
        except LeaseLost:
            if not _was_committed(connection, lease, outcomes):
                raise
            return CommitReceipt(chunk_done=True, cancelled=False, inserted=0)
        inserted = _insert_results(connection, lease, outcomes)
        done = _finish_chunk(connection, lease)
        _book_attempt(connection, lease, n_done=len(inserted.rows), chunk_done=done)
        _count(connection, lease, inserted)
        _log(connection, lease, inserted)
        cancelled = not is_wanted(connection, lease.batch_id)
        return CommitReceipt(chunk_done=done, cancelled=cancelled, inserted=len(inserted.rows))

    return database.transact(commit, replayable=True)


@cache
def _insert_new_results(dialect: str) -> ReturningInsert[int]:
    inserting = insert_new(dialect, results, ("batch_id", "idx"))
    return inserting.values(created_at=db_now()).returning(results.c.idx)


def _was_committed(connection: Connection, lease: Lease, outcomes: Sequence[Outcome]) -> bool:
    """Whether this very commit was the chunk's last and only its reply was lost."""
    done = select(chunks.c.id).where(
        chunks.c.id == lease.chunk_id,
        chunks.c.epoch == lease.epoch,
        chunks.c.state == str(ChunkState.DONE),
    )
    if connection.execute(done).first() is None:
        return False
    wanted = {outcome.idx for outcome in outcomes}
    present = select(func.count()).where(
        results.c.batch_id == lease.batch_id, results.c.idx.in_(wanted)
    )
    return connection.execute(present).scalar_one() == len(wanted)


def _insert_results(connection: Connection, lease: Lease, outcomes: Sequence[Outcome]) -> _Inserted:
    if not outcomes:
        return _Inserted([])
    rows = {outcome.idx: result_row(outcome, lease) for outcome in outcomes}
    statement = _insert_new_results(connection.dialect.name)
    new = connection.execute(statement, list(rows.values())).scalars()
    return _Inserted([rows[idx] for idx in new])


def _finish_chunk(connection: Connection, lease: Lease) -> bool:
    return connection.execute(_FINISH_CHUNK, lease_parameters(lease)).rowcount == 1


def _book_attempt(connection: Connection, lease: Lease, *, n_done: int, chunk_done: bool) -> None:
    statement = _END_ATTEMPT if chunk_done else _BOOK_ATTEMPT
    connection.execute(statement, {**lease_parameters(lease), "more_done": n_done})


def _count(connection: Connection, lease: Lease, inserted: _Inserted) -> None:
    more = {name: inserted.count(status) for name, status in _COUNTS.items()}
    more |= {name: inserted.total(name) for name in _TOKENS}
    parameters = {f"more_{name}": number for name, number in more.items()}
    connection.execute(_COUNT, {"of_batch": lease.batch_id, **parameters})


def _log(connection: Connection, lease: Lease, inserted: _Inserted) -> None:
    log_commit(
        connection,
        lease.batch_id,
        [row["idx"] for row in inserted.rows],
        prompt_tokens=inserted.total("prompt_tokens"),
        output_tokens=inserted.total("output_tokens"),
        worker_id=lease.worker_id,
    )
