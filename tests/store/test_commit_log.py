"""Whoever follows a batch sees every result once, in the order in which they became visible."""

from __future__ import annotations

import pytest

from models.database import Database
from models.store.batches import cancel_batch, get_batch
from models.store.commit import commit_outcomes
from models.store.commit_log import follow_results, read_commits
from models.store.leases import missing_requests
from models.store.speed import batch_speeds
from models.tables import commits
from tests.store.builders import (
    TTL_S,
    answers,
    at_once,
    claim,
    finish,
    rows,
    submit,
    work_off,
)


def cursors(database: Database, batch_id: str, **options: int) -> list[int]:
    return [cursor for cursor, _ in follow_results(database, batch_id, **options)]


def test_every_result_has_one_place(database: Database) -> None:
    batch = submit(database, 20)
    work_off(database)
    followed = list(follow_results(database, batch.id))
    assert [cursor for cursor, _ in followed] == list(range(1, 21))
    assert sorted(record.idx for _, record in followed) == list(range(20))


@pytest.mark.parametrize("after", [0, 1, 7, 8, 19, 20, 21])
def test_following_goes_on_anywhere(database: Database, after: int) -> None:
    batch = submit(database, 20)
    work_off(database)
    assert cursors(database, batch.id, after=after) == list(range(after + 1, 21))
    assert cursors(database, batch.id, after=after, limit=3) == list(range(after + 1, 21))[:3]


def test_results_come_in_the_order_of_their_commits(database: Database) -> None:
    batch = submit(database, 16)
    first, second = claim(database, "w1"), claim(database, "w2")
    last = missing_requests(database, first)[-2:]
    commit_outcomes(database, first, answers(last), ttl_s=TTL_S)
    finish(database, second)
    finish(database, first)
    entries = list(read_commits(database, batch.id))
    assert [entry.position for entry in entries] == [0, 2, 10]
    assert [entry.worker_id for entry in entries] == ["w1", "w2", "w1"]
    assert [entry.output_tokens for entry in entries] == [4, 16, 12]
    assert set(entries[0].idxs) == {outcome.idx for outcome in answers(last)}


def test_commits_at_once_leave_no_gap(database: Database) -> None:
    batch = submit(database, 32)
    leases = [claim(database, f"w{number}") for number in range(4)]
    at_once([lambda lease=lease: finish(database, lease) for lease in leases])  # type: ignore[misc]
    assert cursors(database, batch.id) == list(range(1, 33))


def test_a_repeated_commit_is_logged_once(database: Database) -> None:
    batch = submit(database, 8)
    lease = claim(database)
    done = answers(missing_requests(database, lease)[:4])
    for _ in range(2):
        commit_outcomes(database, lease, done, ttl_s=TTL_S)
    assert len(rows(database, commits, batch_id=batch.id)) == 1


def test_what_never_ran_is_followed_too(database: Database) -> None:
    batch = submit(database, 20)
    finish(database, claim(database))
    cancel_batch(database, batch.id)
    assert cursors(database, batch.id) == list(range(1, 21))


def test_the_speed_is_that_of_the_latest_commits(database: Database) -> None:
    batch = submit(database, 20)
    assert batch_speeds(database, [batch])[batch.id].tokens_per_second is None
    for seconds in (10.0, 14.0):
        finish(database, claim(database))
        newest = rows(database, commits, batch_id=batch.id)[-1]["position"]
        with database.begin() as connection:
            of_newest = commits.update().where(commits.c.position == newest)
            connection.execute(of_newest.values(committed_at=seconds))
    speed = batch_speeds(database, [get_batch(database, batch.id)])[batch.id]
    assert speed.tokens_per_second == 16 / 4.0
    assert speed.eta_s == 4 * (4.0 / 8)
