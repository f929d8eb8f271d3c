"""How fast a batch goes, from the log of its commits: cheap whatever the size of the batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, func, select

from models.database import Database
from models.states import BatchState
from models.store.views import Batch
from models.tables import attempts, chunks, commits

_LATEST_COMMITS: Final = 200  # what a running batch's speed is taken from


@dataclass(frozen=True, slots=True)
class BatchSpeed:
    """None where nothing was generated yet; no time left is told unless the batch runs."""

    tokens_per_second: float | None = None
    eta_s: float | None = None


def batch_speed(database: Database, batch: Batch) -> BatchSpeed:
    """Output tokens a second: lately while the batch runs, from its first lease when it is over."""
    with database.read() as connection:
        if batch.state != BatchState.IN_PROGRESS:
            return BatchSpeed(_overall(connection, batch))
        return _lately(connection, batch)


def _overall(connection: Connection, batch: Batch) -> float | None:
    started = (
        select(func.min(attempts.c.started_at))
        .select_from(attempts.join(chunks))
        .where(chunks.c.batch_id == batch.id)
    )
    ended = select(func.max(commits.c.committed_at)).where(
        commits.c.batch_id == batch.id, commits.c.worker_id.is_not(None)
    )
    first, last = connection.execute(started).scalar(), connection.execute(ended).scalar()
    if first is None or last is None or last <= first:
        return None
    return float(batch.output_tokens / (last - first))


def _lately(connection: Connection, batch: Batch) -> BatchSpeed:
    latest = (
        select(commits.c.position, commits.c.output_tokens, commits.c.committed_at)
        .where(commits.c.batch_id == batch.id, commits.c.worker_id.is_not(None))
        .order_by(commits.c.position.desc())
        .limit(_LATEST_COMMITS)
    )
    rows = connection.execute(latest).all()
    if not rows:
        return BatchSpeed()
    oldest_at = rows[-1].committed_at
    seconds, n_tokens = (
        rows[0].committed_at - oldest_at,
        sum(row.output_tokens for row in rows[:-1]),
    )
    n_requests = rows[0].position - rows[-1].position
    if seconds <= 0 or n_requests <= 0:
        return BatchSpeed(_overall(connection, batch))
    eta_s = batch.remaining * seconds / n_requests
    return BatchSpeed(n_tokens / seconds, None if batch.paused_at is not None else eta_s)
