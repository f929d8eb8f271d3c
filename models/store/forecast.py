"""How fast a model's workers were lately, and what waits for them: for telling how long work takes.

From the log of commits: cheap whatever the size of the batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from sqlalchemy import func, select

from models.clock import moment
from models.database import Database
from models.model_key import ModelKey
from models.states import BatchState
from models.store.fair_share import is_of
from models.tables import batches, commits

_LATELY_S: Final = 24 * 3600.0
_LATEST_COMMITS: Final = 500
_PAUSE_S: Final = 30.0  # between commits; what is longer, nothing was to do


@dataclass(frozen=True, slots=True)
class ModelSpeed:
    """Of all workers of a model together, while they worked."""

    tokens_per_second: float  # of prompts and answers
    tokens_per_request: float
    output_tokens_per_request: float


def model_speed(database: Database, model: ModelKey) -> ModelSpeed | None:
    """From the newest commits of the last day; None when there are too few."""
    latest = (
        select(
            commits.c.committed_at,
            commits.c.prompt_tokens,
            commits.c.output_tokens,
            func.json_array_length(commits.c.idxs).label("requests"),
        )
        .join(batches, batches.c.id == commits.c.batch_id)
        .where(commits.c.committed_at > moment() - _LATELY_S, commits.c.worker_id.is_not(None))
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


def _speed(rows: Sequence[Any]) -> ModelSpeed | None:
    """Of commits in their order; the first one only tells when the second was begun."""
    seconds = sum(
        min(_PAUSE_S, later.committed_at - earlier.committed_at)
        for earlier, later in pairwise(rows)
    )
    output_tokens = sum(row.output_tokens for row in rows[1:])
    n_tokens = output_tokens + sum(row.prompt_tokens for row in rows[1:])
    n_requests = sum(row.requests for row in rows[1:])
    if seconds <= 0 or n_tokens == 0:
        return None
    return ModelSpeed(n_tokens / seconds, n_tokens / n_requests, output_tokens / n_requests)
