"""Counting a batch again from its rows: what proves that nothing was lost or done twice.

Reads every row's key of the batch, so it is for batches that have ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, and_, exists, func, select

from models.database import Database
from models.states import ResultStatus
from models.store.endings import has_result
from models.store.joins import whole_batch_join
from models.tables import requests, results


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What the rows of a batch say, without its counters.

    A request is known by its number, because refused lines may have no id or another line's.
    """

    requests: int
    answered: int
    failed: int
    missing: int  # requests without a result
    unknown: int  # results without a request
    repeated_ids: int  # accepted requests whose custom_id an earlier one has
    artifacts: Mapping[str, int]  # answers by the artifact that gave them

    @property
    def is_whole(self) -> bool:
        """Whether every request has exactly one result, and nothing else has one."""
        n_results = self.answered + self.failed
        return not self.missing and not self.unknown and self.requests == n_results


def audit_batch(database: Database, batch_id: str) -> Audit:
    """Count everything in one transaction."""
    with database.read() as connection, whole_batch_join(connection):
        return Audit(
            **_count_requests(connection, batch_id),
            **_count_results(connection, batch_id),
            artifacts=_count_artifacts(connection, batch_id),
        )


def _count_requests(connection: Connection, batch_id: str) -> dict[str, int]:
    n_accepted = func.count().filter(requests.c.accepted)
    n_ids = func.count(requests.c.custom_id.distinct()).filter(requests.c.accepted)
    counting = select(
        func.count().label("requests"),
        func.count().filter(~has_result()).label("missing"),
        (n_accepted - n_ids).label("repeated_ids"),
    ).where(requests.c.batch_id == batch_id)
    return dict(connection.execute(counting).mappings().one())


def _count_results(connection: Connection, batch_id: str) -> dict[str, int]:
    is_ok = results.c.status == str(ResultStatus.OK)
    same = and_(requests.c.batch_id == results.c.batch_id, requests.c.idx == results.c.idx)
    counting = select(
        func.count().filter(is_ok).label("answered"),
        func.count().filter(~is_ok).label("failed"),
        func.count().filter(~exists().where(same).correlate(results)).label("unknown"),
    ).where(results.c.batch_id == batch_id)
    return dict(connection.execute(counting).mappings().one())


def _count_artifacts(connection: Connection, batch_id: str) -> dict[str, int]:
    counting = (
        select(results.c.artifact, func.count().label("answers"))
        .where(results.c.batch_id == batch_id, results.c.artifact.is_not(None))
        .group_by(results.c.artifact)
        .order_by(results.c.artifact)
    )
    return {row.artifact: row.answers for row in connection.execute(counting)}
