"""How fast a batch goes, from the log of its commits: cheap whatever the size of the batch.

Before it has a speed of its own, its time left is told by its model's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, func, select

from models.database import Database
from models.model_key import ModelKey
from models.states import BatchState
from models.store.forecast import times_left
from models.store.views import Batch
from models.tables import attempts, batches, chunks, commits

_LATEST_COMMITS: Final = 200  # what a running batch's speed is taken from


@dataclass(frozen=True, slots=True)
class BatchSpeed:
    """No speed where nothing was generated yet; no time left unless the batch runs or waits."""

    tokens_per_second: float | None = None
    eta_s: float | None = None


def batch_speeds(database: Database, found: Sequence[Batch]) -> dict[str, BatchSpeed]:
    """The speeds of several batches, by id; of those that ended in one query.

    Output tokens a second: lately while a batch runs, from its first lease when it is over.
    """
    worked_on = [batch for batch in found if batch.completed or batch.failed]
    speeds = {batch.id: BatchSpeed() for batch in found}
    with database.read() as connection:
        ended = [batch for batch in worked_on if batch.state != BatchState.IN_PROGRESS]
        speeds |= {id: BatchSpeed(rate) for id, rate in _overall(connection, ended).items()}
        for batch in worked_on:
            if batch.state == BatchState.IN_PROGRESS:
                speeds[batch.id] = _lately(connection, batch)
    speeds |= _expected(database, found, speeds)
    return speeds


def first_lease_at(batch_id: ColumnElement[str]) -> Select[Any]:
    """When work on the batch began."""
    leases = select(func.min(attempts.c.started_at)).select_from(attempts.join(chunks))
    return leases.where(chunks.c.batch_id == batch_id)


def last_commit_at(batch_id: ColumnElement[str]) -> Select[Any]:
    """When a worker last gave results of the batch."""
    latest = select(commits.c.committed_at).where(commits.c.worker_id.is_not(None))
    return latest.where(commits.c.batch_id == batch_id).order_by(commits.c.position.desc()).limit(1)


def _expected(
    database: Database, found: Sequence[Batch], speeds: Mapping[str, BatchSpeed]
) -> Mapping[str, BatchSpeed]:
    """Those without a time left that their model can tell it for."""
    models: defaultdict[ModelKey, list[str]] = defaultdict(list)
    for batch in found:
        if batch.state == BatchState.IN_PROGRESS and speeds[batch.id].eta_s is None:
            models[batch.known_model].append(batch.id)
    expected: dict[str, BatchSpeed] = {}
    for model, ids in models.items():
        left_s = times_left(database, model)
        expected |= {id: replace(speeds[id], eta_s=left_s[id]) for id in ids if id in left_s}
    return expected


def _overall(connection: Connection, found: Sequence[Batch]) -> Mapping[str, float]:
    """Those that nothing was generated of are left out."""
    n_tokens = {batch.id: batch.output_tokens for batch in found}
    spans = select(
        batches.c.id,
        first_lease_at(batches.c.id).scalar_subquery().label("first"),
        last_commit_at(batches.c.id).scalar_subquery().label("last"),
    ).where(batches.c.id.in_(n_tokens))
    rows = connection.execute(spans).all() if found else ()
    return {
        row.id: float(n_tokens[row.id] / (row.last - row.first))
        for row in rows
        if row.first is not None and row.last is not None and row.last > row.first
    }


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
        return BatchSpeed(_overall(connection, [batch]).get(batch.id))
    eta_s = batch.remaining * seconds / n_requests
    return BatchSpeed(n_tokens / seconds, None if batch.paused_at is not None else eta_s)
