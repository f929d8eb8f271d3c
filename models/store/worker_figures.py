"""Workers as they are watched: how fast they are, what they hold, whether they are still there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, RowMapping, and_, func, select

from models.clock import db_now
from models.database import Database
from models.states import ChunkState
from models.store.views import Worker
from models.store.workers import LIVE_FOR_S, worker_view
from models.tables import batches, chunks, commits, workers

SPEED_OVER_S: Final = 300.0
SHOWN_FOR_S: Final = 3600.0  # a worker that fell silent without leaving


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFigures:
    """A worker that has not left; `batch_ids` are of the tenant that asks."""

    worker: Worker
    is_silent: bool
    prompt_tokens_per_second: float
    output_tokens_per_second: float
    leased_chunks: int
    batch_ids: tuple[str, ...]

    @property
    def is_live(self) -> bool:
        """Whether it takes new chunks."""
        return not (self.is_silent or self.worker.draining)


@dataclass(slots=True)
class _Held:
    """What a worker holds at present."""

    n_chunks: int
    batch_ids: list[str]


def worker_figures(database: Database, tenant_id: str | None = None) -> list[WorkerFigures]:
    """Every worker that beat within the last hour and has not left, oldest first.

    Workers serve all tenants: batches are named for `tenant_id` alone, for None not at all.
    """
    with database.read() as connection:
        now: float = connection.execute(select(db_now())).scalar_one()
        rows = _read_workers(connection, now)
        speeds = _read_speeds(connection, now)
        held = _read_held(connection, now, tenant_id)
    return [_figures(row, now, speeds, held.get(row["id"])) for row in rows]


def _read_workers(connection: Connection, now: float) -> list[RowMapping]:
    is_shown = and_(workers.c.left_at.is_(None), workers.c.beat_at > now - SHOWN_FOR_S)
    statement = select(workers).where(is_shown).order_by(workers.c.started_at, workers.c.id)
    return list(connection.execute(statement).mappings())


def _read_speeds(connection: Connection, now: float) -> dict[str, tuple[int, int]]:
    """Prompt and output tokens of each worker within the last minutes."""
    # The time is a value here: for an index PostgreSQL needs one that cannot change on the way.
    summed = (
        select(
            commits.c.worker_id,
            func.sum(commits.c.prompt_tokens).label("prompt_tokens"),
            func.sum(commits.c.output_tokens).label("output_tokens"),
        )
        .where(commits.c.committed_at > now - SPEED_OVER_S, commits.c.worker_id.is_not(None))
        .group_by(commits.c.worker_id)
    )
    rows = connection.execute(summed)
    return {row.worker_id: (int(row.prompt_tokens), int(row.output_tokens)) for row in rows}


def _read_held(connection: Connection, now: float, tenant_id: str | None) -> dict[str, _Held]:
    statement = (
        select(
            chunks.c.worker_id,
            chunks.c.batch_id,
            batches.c.tenant_id,
            func.count().label("n_chunks"),
        )
        .join(batches, batches.c.id == chunks.c.batch_id)
        .where(chunks.c.state == str(ChunkState.LEASED), chunks.c.lease_until > now)
        .group_by(chunks.c.worker_id, chunks.c.batch_id, batches.c.tenant_id)
        .order_by(chunks.c.batch_id)
    )
    held: dict[str, _Held] = defaultdict(lambda: _Held(0, []))
    for row in connection.execute(statement):
        held[row.worker_id].n_chunks += row.n_chunks
        if row.tenant_id == tenant_id:
            held[row.worker_id].batch_ids.append(row.batch_id)
    return held


def _figures(
    row: RowMapping, now: float, speeds: Mapping[str, tuple[int, int]], held: _Held | None
) -> WorkerFigures:
    n_prompt, n_output = speeds.get(row["id"], (0, 0))
    seconds = max(1.0, min(SPEED_OVER_S, now - row["started_at"]))
    return WorkerFigures(
        worker=worker_view(row),
        is_silent=row["beat_at"] <= now - LIVE_FOR_S,
        prompt_tokens_per_second=n_prompt / seconds,
        output_tokens_per_second=n_output / seconds,
        leased_chunks=held.n_chunks if held else 0,
        batch_ids=tuple(held.batch_ids) if held else (),
    )
