"""How fast a model's workers were lately, and what waits for them: for telling how long work takes.

From the log of commits: cheap whatever the size of the batches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Final

from sqlalchemy import func, select

from models.clock import moment
from models.database import Database
from models.model_key import ModelKey
from models.states import BatchState
from models.store.batches import wants_results
from models.store.fair_share import IN_ORDER, is_of
from models.store.workers import live_workers
from models.tables import batches, commits

_LATELY_S: Final = 24 * 3600.0
_JUST_NOW_S: Final = 600.0
_LATEST_COMMITS: Final = 500
_PAUSE_S: Final = 30.0  # between commits; what is longer, nothing was to do


@dataclass(frozen=True, slots=True)
class ModelSpeed:
    """Of a model's workers while they worked; tokens are those of prompts and answers."""

    tokens_per_second: float  # of all workers together
    worker_tokens_per_second: float  # of one of them
    tokens_per_request: float
    output_tokens_per_request: float


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a model has to work with."""

    n_workers: int = 0  # that are live
    speed: ModelSpeed | None = None


def model_capacity(database: Database, model: ModelKey, *, within_s: float = _LATELY_S) -> Capacity:
    """The model's workers now, and its speed lately; read before a transaction that writes."""
    speed = model_speed(database, model, within_s=within_s)
    return Capacity(len(live_workers(database, model)), speed)


def times_left(database: Database, model: ModelKey) -> Mapping[str, float]:
    """Seconds until each batch that runs or waits for the model will end, by id.

    If as many workers as now go on as they did just now; without workers or speed of none.
    """
    # What waits, waits for workers that are busy. Looking further back takes too long for a page.
    capacity = model_capacity(database, model, within_s=_JUST_NOW_S)
    if capacity.speed is None or capacity.n_workers == 0:
        return {}
    speed = capacity.speed
    request_s = speed.tokens_per_request / (speed.worker_tokens_per_second * capacity.n_workers)
    left = (batches.c.n_total - batches.c.n_completed - batches.c.n_failed).label("left")
    waiting = (
        select(batches.c.id, batches.c.tenant_id, left)
        .where(is_of(model), wants_results(), left > 0)
        .order_by(*IN_ORDER)
    )
    with database.read() as connection:
        rows = connection.execute(waiting).all()
    return {id: n_requests * request_s for id, n_requests in _until_done(rows).items()}


def model_speed(
    database: Database, model: ModelKey, *, within_s: float = _LATELY_S
) -> ModelSpeed | None:
    """From the newest commits of the last day, or of that time; None when there are too few."""
    latest = (
        select(
            commits.c.worker_id,
            commits.c.committed_at,
            commits.c.prompt_tokens,
            commits.c.output_tokens,
            func.json_array_length(commits.c.idxs).label("requests"),
        )
        .join(batches, batches.c.id == commits.c.batch_id)
        .where(commits.c.committed_at > moment() - within_s, commits.c.worker_id.is_not(None))
        .where(is_of(model))
        .order_by(commits.c.committed_at.desc())
        .limit(_LATEST_COMMITS)
    )
    with database.read() as connection:
        return _speed(connection.execute(latest).all()[::-1])


def queued_requests(database: Database, model: ModelKey) -> int:
    """Requests of all tenants that run or wait for workers of the model."""
    left = batches.c.n_total - batches.c.n_completed - batches.c.n_failed
    counting = (
        select(func.coalesce(func.sum(left), 0))
        .where(batches.c.state == str(BatchState.IN_PROGRESS), batches.c.paused_at.is_(None))
        .where(is_of(model))
    )
    with database.read() as connection:
        return int(connection.execute(counting).scalar_one())


def _until_done(rows: Sequence[Any]) -> Mapping[str, int]:
    """Requests that are answered until each batch is done, if tenants take turns by the request."""
    n_all, n_tenants = sum(row.left for row in rows), len({row.tenant_id for row in rows})
    of_tenant: Counter[str] = Counter()
    until: dict[str, int] = {}
    for row in rows:
        of_tenant[row.tenant_id] += row.left
        until[row.id] = min(n_all, of_tenant[row.tenant_id] * n_tenants)
    return until


def _speed(rows: Sequence[Any]) -> ModelSpeed | None:
    """Of commits in their order; the first one only tells when the second was begun."""
    pauses = (
        min(_PAUSE_S, later.committed_at - earlier.committed_at)
        for earlier, later in pairwise(rows)
    )
    elapsed_s = list(accumulate(pauses, initial=0.0))
    worker_tokens_per_second = _worker_speed(rows, elapsed_s)
    output_tokens = sum(row.output_tokens for row in rows[1:])
    n_tokens = output_tokens + sum(row.prompt_tokens for row in rows[1:])
    n_requests = sum(row.requests for row in rows[1:])
    if worker_tokens_per_second is None or n_tokens == 0:
        return None
    return ModelSpeed(
        tokens_per_second=n_tokens / elapsed_s[-1],
        worker_tokens_per_second=worker_tokens_per_second,
        tokens_per_request=n_tokens / n_requests,
        output_tokens_per_request=output_tokens / n_requests,
    )


def _worker_speed(rows: Sequence[Any], elapsed_s: Sequence[float]) -> float | None:
    """Tokens a second of one worker, each counted from its first commit to its last."""
    began_s: dict[str, float] = {}
    worked_s: dict[str, float] = {}
    n_tokens = 0
    for row, at_s in zip(rows, elapsed_s, strict=False):
        if row.worker_id in began_s:
            n_tokens += row.prompt_tokens + row.output_tokens
            worked_s[row.worker_id] = at_s - began_s[row.worker_id]
        else:
            began_s[row.worker_id] = at_s
    seconds = sum(worked_s.values())
    return n_tokens / seconds if seconds > 0 else None
