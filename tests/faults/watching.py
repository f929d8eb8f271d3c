"""What fault tests wait for and look at, over a rig."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import text

from models.states import BatchState
from models.store.batches import get_batch, list_chunks
from models.store.results import database_time
from tests.celery.cluster import wait_for
from tests.faults.checker import violations
from tests.faults.rig import Node, Rig

END_S = 120.0


def wait_share(faults: Rig, batch_id: str, share: float) -> None:
    """Wait until so much of the batch is done, and see that it still runs."""

    def is_there() -> bool:
        batch = get_batch(faults.database, batch_id)
        assert not batch.is_terminal, "the batch was too quick to be disturbed"
        return batch.completed >= batch.total * share

    wait_for(is_there, f"{share:.0%} of the batch is done")


def is_over(faults: Rig, batch_id: str) -> bool:
    """Whether the batch has ended, or has more results than it can have."""
    batch = get_batch(faults.database, batch_id)
    return batch.is_terminal or batch.completed + batch.failed > batch.total


def check(faults: Rig, batch_id: str, *, may_fail: Collection[str] = ()) -> None:
    """The batch ends completed, and nothing about it is wrong."""
    wait_for(lambda: is_over(faults, batch_id), "the batch has ended", timeout_s=END_S)
    workers = [node.worker for node in faults.nodes]
    found = violations(faults.database, batch_id, may_fail=may_fail, workers=workers)
    assert not found, "\n".join(found)
    assert get_batch(faults.database, batch_id).state is BatchState.COMPLETED


def failed_prompts(faults: Rig, batch_id: str) -> dict[str, str]:
    """The error codes of requests that failed, by prompt."""
    query = text(
        "SELECT prompt #>> '{}' AS prompt, error_code FROM results JOIN requests "
        "USING (batch_id, idx) WHERE batch_id = :id AND status = 'error'"
    )
    with faults.database.read() as connection:
        rows = connection.execute(query, {"id": batch_id}).all()
    return {row.prompt: row.error_code for row in rows}


def crashes(faults: Rig, batch_id: str) -> int:
    """Attempts at the batch that an engine's or a worker's death ended."""
    query = text(
        "SELECT count(*) FROM attempts JOIN chunks ON chunks.id = chunk_id "
        "WHERE batch_id = :id AND outcome IN ('crashed', 'lost')"
    )
    with faults.database.read() as connection:
        return int(connection.execute(query, {"id": batch_id}).scalar_one())


def charged(faults: Rig, batch_id: str) -> int:
    """Crashes that count against chunks of the batch."""
    return sum(chunk.crashes for chunk in list_chunks(faults.database, batch_id))


def held_by(faults: Rig, node: Node) -> list[int]:
    """Chunks that the worker holds, whether or not it is alive."""
    query = text("SELECT id FROM chunks WHERE state = 'leased' AND worker_id = :id")
    with faults.database.read() as connection:
        return list(connection.execute(query, {"id": node.id}).scalars())


def first_claim_after(faults: Rig, since: float) -> float | None:
    """When, by the database's clock, a chunk was claimed after that time; None: not yet."""
    query = text("SELECT min(started_at) FROM attempts WHERE started_at > :since")
    with faults.database.read() as connection:
        found: float | None = connection.execute(query, {"since": since}).scalar_one()
    return found


def now(faults: Rig) -> float:
    """The database's clock."""
    return database_time(faults.database)
