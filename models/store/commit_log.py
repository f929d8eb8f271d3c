"""The log of commits: which results of a batch came when, in the order in which they can be seen.

A commit's position is the number of results before it. It is taken from the batch's counters
while their row is locked, so that no reader passes a commit that is not visible yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Select, func, insert, select

from models.clock import db_now
from models.database import Database
from models.store.results import records_of
from models.store.views import RequestRecord
from models.tables import batches, commits

_COMMITS_PER_PAGE: Final = 200
_ROWS_PER_PAGE: Final = 500

# Put together once, as in models.store.leases.
_APPEND: Final = insert(commits).values(committed_at=db_now())


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitEntry:
    """One commit: the requests that became final with it."""

    position: int
    idxs: Sequence[int]
    prompt_tokens: int
    output_tokens: int
    worker_id: str | None
    committed_at: float


def log_commit(
    connection: Connection,
    batch_id: str,
    idxs: Sequence[int],
    *,
    prompt_tokens: int = 0,
    output_tokens: int = 0,
    worker_id: str | None = None,
) -> None:
    """Append results that were inserted and counted before in this transaction."""
    if not idxs:
        return
    counted = select(batches.c.n_completed + batches.c.n_failed).where(batches.c.id == batch_id)
    seen = connection.execute(counted).scalar_one()
    connection.execute(
        _APPEND,
        {
            "batch_id": batch_id,
            "position": seen - len(idxs),
            "idxs": list(idxs),
            "prompt_tokens": prompt_tokens,
            "output_tokens": output_tokens,
            "worker_id": worker_id,
        },
    )


def last_cursor(database: Database, batch_id: str) -> int:
    """How many results of the batch can be followed by now."""
    n_idxs = func.json_array_length(commits.c.idxs)
    newest = (
        select(commits.c.position + n_idxs)
        .where(commits.c.batch_id == batch_id)
        .order_by(commits.c.position.desc())
        .limit(1)
    )
    with database.read() as connection:
        return connection.execute(newest).scalar() or 0


def read_commits(database: Database, batch_id: str, *, after: int = 0) -> Iterator[CommitEntry]:
    """The commits that have results beyond the first `after` ones, in their order."""
    last = _start(database, batch_id, after)
    while page := _read_page(database, _page(batch_id, last)):
        yield from page
        last = page[-1].position + 1


def follow_results(
    database: Database, batch_id: str, *, after: int = 0, limit: int | None = None
) -> Iterator[tuple[int, RequestRecord]]:
    """Results in the order of their commits, each with the number to give as `after` next."""
    left = limit
    for entry in read_commits(database, batch_id, after=after):
        skipped = max(0, after - entry.position)
        wanted = entry.idxs[skipped : None if left is None else skipped + left]
        position = entry.position + skipped
        for start in range(0, len(wanted), _ROWS_PER_PAGE):
            group = wanted[start : start + _ROWS_PER_PAGE]
            found = {record.idx: record for record in records_of(database, batch_id, group)}
            for idx in group:
                position += 1
                yield position, found[idx]
        if left is not None:
            left -= len(wanted)
            if left <= 0:
                return


def _start(database: Database, batch_id: str, after: int) -> int:
    """The position of the commit that holds result number `after`, or of the next one."""
    statement = select(func.max(commits.c.position)).where(
        commits.c.batch_id == batch_id, commits.c.position <= after
    )
    with database.read() as connection:
        return connection.execute(statement).scalar() or 0


def _page(batch_id: str, first: int) -> Select[Any]:
    return (
        select(commits)
        .where(commits.c.batch_id == batch_id, commits.c.position >= first)
        .order_by(commits.c.position)
        .limit(_COMMITS_PER_PAGE)
    )


def _read_page(database: Database, page: Select[Any]) -> list[CommitEntry]:
    with database.read() as connection:
        rows = connection.execute(page).mappings().all()
    return [
        CommitEntry(
            position=row["position"],
            idxs=row["idxs"],
            prompt_tokens=row["prompt_tokens"],
            output_tokens=row["output_tokens"],
            worker_id=row["worker_id"],
            committed_at=row["committed_at"],
        )
        for row in rows
    ]
