"""A model's speed is that of its workers while they worked, together and one by one."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from models.database import Database
from models.model_key import ModelKey, Weights
from models.store.creation import NewBatch, create_batch
from models.store.forecast import model_capacity, model_speed
from models.store.pauses import pause_batch
from models.store.speed import batch_speeds
from models.store.views import Batch, Worker
from models.store.workers import register_worker
from models.tables import batches
from tests.store.builders import CHAT, MODEL, answer_ago, submit
from tests.store.test_files import TENANT, upload

OTHER = ModelKey("other", Weights.INT8)
REQUEST_TOKENS = 5


@pytest.mark.parametrize(
    ("done_ago_s", "together", "one"),
    [
        ([[20, 18, 16]], 1 / 2, 1 / 2),
        ([[20, 18, 16], [19, 17, 15]], 1, 1 / 2),  # at once
        ([[40, 38, 36], [34, 32, 30]], 1 / 2, 1 / 2),  # one after the other
        ([[20, 16, 12], [20, 18, 16, 14, 12]], 7 / 8, 6 / 16),  # one is faster
        ([[2000, 1998, 1000, 998]], 3 / 34, 3 / 34),  # of a pause 30 s count
    ],
)
def test_the_speed_of_one_worker_is_told_apart_from_that_of_all(
    database: Database, done_ago_s: list[list[float]], together: float, one: float
) -> None:
    answer_ago(database, *done_ago_s)
    speed = model_speed(database, MODEL)
    assert speed is not None
    assert speed.tokens_per_second == pytest.approx(together * REQUEST_TOKENS)
    assert speed.worker_tokens_per_second == pytest.approx(one * REQUEST_TOKENS)
    assert (speed.tokens_per_request, speed.output_tokens_per_request) == (REQUEST_TOKENS, 2)


def test_no_speed_is_told_of_too_few_answers(database: Database) -> None:
    assert model_speed(database, MODEL) is None
    answer_ago(database, [10], [5])
    assert model_speed(database, MODEL) is None


def test_a_models_capacity_is_its_own(database: Database) -> None:
    for number, model in enumerate((MODEL, MODEL, OTHER)):
        register_worker(database, Worker(id=f"w{number}", model=model, host="node", pid=1))
    answer_ago(database, [10, 5])
    capacity = model_capacity(database, MODEL)
    assert (capacity.n_workers, capacity.speed) == (2, model_speed(database, MODEL))
    other = model_capacity(database, OTHER)
    assert (other.n_workers, other.speed) == (1, None)


def time_left(database: Database, batch: Batch) -> float | None:
    return batch_speeds(database, [batch])[batch.id].eta_s


def start_workers(database: Database, n: int) -> None:
    for number in range(n):
        register_worker(database, Worker(id=f"w{number}", model=MODEL, host="node", pid=1))


def test_a_waiting_batch_has_its_time_by_the_speed_and_the_number_of_workers(
    database: Database,
) -> None:
    answer_ago(database, [20, 18, 16])
    batch = submit(database, 30)
    assert time_left(database, batch) is None  # nobody works
    start_workers(database, 1)
    assert time_left(database, batch) == pytest.approx(60)
    start_workers(database, 3)
    assert time_left(database, batch) == pytest.approx(20)
    assert time_left(database, pause_batch(database, batch.id)) is None


def test_no_time_is_told_by_a_speed_of_hours_ago(database: Database) -> None:
    start_workers(database, 1)
    answer_ago(database, [7200, 7198, 7196])
    assert time_left(database, submit(database, 30)) is None


def test_what_is_done_before_counts_for_the_time_left(database: Database) -> None:
    start_workers(database, 2)
    answer_ago(database, [20, 18, 16])  # a second for a request
    second, third = submit(database, 20), submit(database, 10)
    first = submit(database, 5, priority=1)
    mine = [first, second, third]
    assert [time_left(database, batch) for batch in mine] == pytest.approx([5, 25, 35])
    other = submit(database, 4, tenant_id="other")  # every second request is theirs
    assert [time_left(database, batch) for batch in [*mine, other]] == pytest.approx(
        [10, 39, 39, 8]
    )
    paused = pause_batch(database, second.id)
    speeds = batch_speeds(database, [first, paused, third, other])
    assert [speed.eta_s for speed in speeds.values()] == pytest.approx([10, None, 19, 8])
    with database.begin() as connection:
        answered = {"n_completed": batches.c.n_total}
        connection.execute(update(batches).where(batches.c.id == other.id).values(answered))
    assert time_left(database, first) == pytest.approx(5)


def test_a_batch_that_is_validated_has_no_time_yet(database: Database) -> None:
    file = upload(database, b"{}")
    new = NewBatch(tenant_id=TENANT, file_id=file.id, endpoint=CHAT, body_sha256="a" * 64)
    assert time_left(database, create_batch(database, new).batch) is None
