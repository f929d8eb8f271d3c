"""A model's speed is that of its workers while they worked, together and one by one."""

from __future__ import annotations

import pytest

from models.database import Database
from models.model_key import ModelKey, Weights
from models.store.forecast import model_capacity, model_speed
from models.store.views import Worker
from models.store.workers import register_worker
from tests.store.builders import MODEL, answer_ago

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
