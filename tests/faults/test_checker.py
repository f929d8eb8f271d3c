"""The checker finds every kind of damage; a run that it passes means something only then."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from models.database import Database, upgrade
from models.store.batches import finalize_batch
from models.store.leases import claim_next, release_lease
from tests.faults.checker import violations
from tests.store.builders import MODEL, TTL_S, claim, finish, submit, work_off


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with upgrade(f"sqlite:///{tmp_path / 'jobs.db'}") as made:
        yield made


def expected(prompt: str, _seed: int, _n_tokens: int) -> str:
    return prompt.replace("prompt", "answer")


def finished_batch(database: Database) -> str:
    """Three chunks of 8, one of which was handed back once."""
    batch_id = submit(database, 24).id
    lease = claim(database)
    release_lease(database, lease, crashed=False, reason="drained")
    finish(database, claim(database))
    work_off(database)
    finalize_batch(database, batch_id)
    return batch_id


def test_a_good_batch_has_no_violation(database: Database) -> None:
    assert violations(database, finished_batch(database), expected=expected) == []


def test_a_batch_that_runs_is_unfinished(database: Database) -> None:
    batch_id = submit(database, 8).id
    assert claim_next(database, MODEL, "w", ttl_s=TTL_S) is not None
    said = violations(database, batch_id, expected=expected)
    assert "the batch is in_progress" in said
    assert "request 0 has no result" in said
    assert any("still leased" in sentence for sentence in said)
    assert any("never ended" in sentence for sentence in said)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("DELETE FROM results WHERE idx = 3", "request 3 has no result"),
        ("UPDATE results SET text = 'answer 4' WHERE idx = 3", "request 3 has another"),
        (
            "UPDATE results SET status = 'error', error_code = 'worker_lost', "
            "error_message = '' WHERE idx = 3",
            "request 3 failed with worker_lost",
        ),
        ("UPDATE batches SET n_completed = 23", "n_completed 23, and its rows 24"),
        ("UPDATE batches SET output_tokens = 1", "the batch says output_tokens"),
        ("UPDATE chunks SET epoch = 5 WHERE number = 0", "has gaps in its epochs"),
        ("UPDATE attempts SET ended_at = NULL WHERE chunk_id = 1 AND epoch = 2", "never ended"),
        ("UPDATE attempts SET ended_at = 9e9 WHERE epoch = 1", "had two holders"),
        ("UPDATE attempts SET n_done = 7 WHERE chunk_id = 2", "counts 7 results"),
        ("UPDATE results SET epoch = 9 WHERE idx = 3", "in an epoch that nobody held"),
        ("UPDATE results SET created_at = 9e9 WHERE idx = 3", "outside of its lease"),
        ("UPDATE results SET worker_id = 'w9' WHERE idx = 3", "another worker than the holder"),
        ("DELETE FROM commits WHERE position = 8", "the log of commits goes from 8 to 16"),
        ("UPDATE commits SET idxs = '[0,0,0,0,0,0,0,0]' WHERE position = 0", "every result once"),
    ],
)
def test_damage_is_found(database: Database, damage: str, sentence: str) -> None:
    batch_id = finished_batch(database)
    with database.begin() as connection:
        assert connection.execute(text(damage)).rowcount > 0
    said = violations(database, batch_id, expected=expected)
    assert any(sentence in found for found in said), said
