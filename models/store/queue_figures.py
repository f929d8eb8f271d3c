"""How much there is of everything, counted over all tenants: what monitoring asks again and again.

Each query reads rows in proportion to the batches, to the chunks that are not done, or to what
went wrong; none reads requests or results.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, Row, Text, bindparam, func, select

from models.clock import db_now
from models.database import Database
from models.model_key import ModelKey, Weights
from models.states import AttemptOutcome, BatchState, ChunkState
from models.tables import attempts, batches, chunks, deliveries

COUNTED_CHUNKS: Final = (
    ChunkState.PENDING,
    ChunkState.DISPATCHED,
    ChunkState.LEASED,
    ChunkState.QUARANTINED,
)
FAILED_ATTEMPTS: Final = (AttemptOutcome.LOST, AttemptOutcome.CRASHED)
_WAITING_CHUNKS: Final = (ChunkState.PENDING, ChunkState.DISPATCHED)
_OPEN_BATCHES: Final = (BatchState.VALIDATING, BatchState.IN_PROGRESS)
_SUMMED: Final = (
    *("n_total", "n_completed", "n_failed"),
    *("prompt_tokens", "cached_prompt_tokens", "output_tokens"),
)
_MODEL: Final = (batches.c.model_name, batches.c.weights)


@dataclass(slots=True)
class ModelFigures:
    """What there is of one model."""

    batches: dict[BatchState, int] = field(default_factory=dict)
    chunks: dict[ChunkState, int] = field(default_factory=dict)
    remaining: int = 0  # requests of open batches without a result
    running: int = 0  # of them, those that workers hold
    completed: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    output_tokens: int = 0
    oldest_waiting_s: float = 0.0  # age of the oldest request that no worker holds

    @property
    def waiting(self) -> int:
        """Requests of open batches that no worker holds."""
        return max(0, self.remaining - self.running)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueFigures:
    """All of it; the model is None for batches that no line has named one for."""

    models: Mapping[ModelKey | None, ModelFigures]
    failed_attempts: Mapping[AttemptOutcome, int]
    waiting_deliveries: int


def queue_figures(database: Database) -> QueueFigures:
    """Count everything once."""
    models: dict[ModelKey | None, ModelFigures] = defaultdict(ModelFigures)
    with database.read() as connection:
        _count_batches(connection, models)
        _count_chunks(connection, models)
        _count_running(connection, models)
        failed_attempts = _count_failed_attempts(connection)
        waiting = select(func.count()).where(deliveries.c.ended_at.is_(None))
        waiting_deliveries: int = connection.execute(waiting).scalar_one()
    return QueueFigures(
        models=models, failed_attempts=failed_attempts, waiting_deliveries=waiting_deliveries
    )


def _count_batches(connection: Connection, models: dict[ModelKey | None, ModelFigures]) -> None:
    statement = select(
        *_MODEL,
        batches.c.state,
        func.count().label("n_batches"),
        *(func.sum(batches.c[name]).label(name) for name in _SUMMED),
    ).group_by(*_MODEL, batches.c.state)
    for row in connection.execute(statement):
        figures, state = models[_model(row)], BatchState(row.state)
        figures.batches[state] = row.n_batches
        figures.completed += row.n_completed
        figures.failed += row.n_failed
        figures.prompt_tokens += int(row.prompt_tokens)
        figures.cached_prompt_tokens += int(row.cached_prompt_tokens)
        figures.output_tokens += int(row.output_tokens)
        if state in _OPEN_BATCHES:
            figures.remaining += row.n_total - row.n_completed - row.n_failed


def _count_chunks(connection: Connection, models: dict[ModelKey | None, ModelFigures]) -> None:
    waits = chunks.c.state.in_(_WAITING_CHUNKS) & batches.c.paused_at.is_(None)
    statement = (
        select(
            *_MODEL,
            chunks.c.state,
            func.count().label("n_chunks"),
            (db_now() - func.min(chunks.c.created_at).filter(waits)).label("waits_s"),
        )
        .join(batches, batches.c.id == chunks.c.batch_id)
        .where(chunks.c.state.in_(COUNTED_CHUNKS))
        .group_by(*_MODEL, chunks.c.state)
    )
    for row in connection.execute(statement):
        figures = models[_model(row)]
        figures.chunks[ChunkState(row.state)] = row.n_chunks
        figures.oldest_waiting_s = max(figures.oldest_waiting_s, row.waits_s or 0.0)


def _count_running(connection: Connection, models: dict[ModelKey | None, ModelFigures]) -> None:
    """Requests in leased chunks, less those that one of the chunk's attempts has finished."""
    done = (
        select(func.coalesce(func.sum(attempts.c.n_done), 0))
        .where(attempts.c.chunk_id == chunks.c.id)
        .scalar_subquery()
    )
    statement = (
        select(*_MODEL, func.sum(chunks.c.n_requests - done).label("n_running"))
        .join(batches, batches.c.id == chunks.c.batch_id)
        .where(chunks.c.state == str(ChunkState.LEASED))
        .where(batches.c.state == str(BatchState.IN_PROGRESS))
        .group_by(*_MODEL)
    )
    for row in connection.execute(statement):
        models[_model(row)].running = int(row.n_running)


def _count_failed_attempts(connection: Connection) -> dict[AttemptOutcome, int]:
    # Written out, because SQLite compares the condition of an index with the query's text.
    outcomes = bindparam(
        "outcomes", FAILED_ATTEMPTS, type_=Text(), expanding=True, literal_execute=True
    )
    statement = (
        select(attempts.c.outcome, func.count().label("n_attempts"))
        .where(attempts.c.outcome.in_(outcomes))
        .group_by(attempts.c.outcome)
    )
    return {AttemptOutcome(row.outcome): row.n_attempts for row in connection.execute(statement)}


def _model(row: Row[*tuple[Any, ...]]) -> ModelKey | None:
    return ModelKey(row.model_name, Weights(row.weights)) if row.model_name else None
