"""Who is alive, and which models batches may name."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import update

from models.database import Database
from models.errors import InputError, NotFoundError
from models.model_key import ModelKey, Weights
from models.store.views import ServedModel, Worker
from models.store.workers import (
    LIVE_FOR_S,
    beat,
    find_model,
    leave,
    list_models,
    live_workers,
    register_model,
    register_worker,
)
from models.tables import workers
from tests.store.builders import MODEL

OTHER = ModelKey("demo", Weights.INT4)


def worker(name: str, model: ModelKey = MODEL) -> Worker:
    return Worker(id=name, model=model, host="node-1", pid=42, versions={"torch": "2.13.0"})


def served(key: ModelKey, artifact: str = "sha") -> ServedModel:
    return ServedModel(key=key, artifact=artifact, architecture="llama", context_tokens=512)


def test_a_worker_is_live_from_registering_to_leaving(database: Database) -> None:
    register_worker(database, worker("w1"))
    register_worker(database, worker("w2", OTHER))
    (live,) = live_workers(database, MODEL)
    assert (live.id, live.host, live.versions) == ("w1", "node-1", {"torch": "2.13.0"})
    assert [found.id for found in live_workers(database)] == ["w1", "w2"]
    assert leave(database, "w1")
    assert live_workers(database, MODEL) == []
    register_worker(database, worker("w1"))
    assert len(live_workers(database, MODEL)) == 1


def test_workers_that_start_together_register_the_same_model(database: Database) -> None:
    keys = [ModelKey(f"model-{number}", Weights.INT8) for number in range(10)]
    together = threading.Barrier(4, timeout=20)

    def start() -> None:
        for key in keys:
            together.wait()
            register_model(database, served(key))

    with ThreadPoolExecutor(4) as pool:
        for started in [pool.submit(start) for _ in range(4)]:
            started.result()
    assert {model.key for model in list_models(database)} == set(keys)


def test_a_worker_without_a_sign_of_life_is_not_live(database: Database) -> None:
    register_worker(database, worker("w1"))
    with database.begin() as connection:
        connection.execute(update(workers).values(beat_at=workers.c.beat_at - LIVE_FOR_S - 1))
    assert live_workers(database) == []
    assert beat(database, "w1", rss_bytes=10, peak_rss_bytes=20)
    (live,) = live_workers(database)
    assert (live.rss_bytes, live.peak_rss_bytes) == (10, 20)
    assert beat(database, "w1")
    assert live_workers(database)[0].peak_rss_bytes == 20
    assert beat(database, "w1", draining=True)
    assert live_workers(database) == []


def test_an_unknown_worker_cannot_beat_or_leave(database: Database) -> None:
    assert not beat(database, "nobody")
    assert not leave(database, "nobody")


def test_a_model_is_found_by_name_when_it_has_one_variant(database: Database) -> None:
    with pytest.raises(NotFoundError, match="none yet"):
        find_model(database, "demo")
    register_model(database, served(MODEL, "old"))
    register_model(database, served(MODEL, "new"))
    found = find_model(database, "demo")
    assert (found.key, found.artifact, found.context_tokens) == (MODEL, "new", 512)
    register_model(database, served(OTHER))
    with pytest.raises(InputError, match=r"int4\|int8"):
        find_model(database, "demo")
    assert find_model(database, "demo", Weights.INT4).key == OTHER
    with pytest.raises(NotFoundError, match=r"demo:bf16 .*demo:int4, demo:int8"):
        find_model(database, "demo", Weights.BF16)
    assert [model.key for model in list_models(database)] == [OTHER, MODEL]
