"""What Redis holds grows with the workers that are there, never with the requests that wait."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.protocol_fill import new_lines, new_submission
from benchmarks.redis_memory import Redis
from models.database import upgrade
from models.states import ChunkState
from models.store.batches import list_chunks
from models.store.submit import submit_batch
from tests.servers import RedisServer

N_REQUESTS = 20_000
BYTES_PER_WORKER = 1_000_000 / 100
CONNECTION_BYTES = 256 << 10  # of the dispatcher: there is one, however many workers there are


@pytest.mark.parametrize("n_workers", [10, 100])
def test_redis_holds_a_window_per_worker_whatever_waits(
    tmp_path: Path, redis_server: RedisServer, n_workers: int
) -> None:
    with upgrade(f"sqlite:///{tmp_path / 'nightshift.db'}") as database:
        # In chunks so small that far more of them wait than any window holds.
        submission = replace(new_submission(0, N_REQUESTS), chunk_requests=16)
        batch = submit_batch(database, submission, new_lines(0, N_REQUESTS)).batch
        redis = Redis(redis_server, database)
        held = redis.held_for(n_workers)
        states = [chunk.state for chunk in list_chunks(database, batch.id)]
    assert held.n_messages == redis.settings.window_per_worker * n_workers
    assert states.count(ChunkState.DISPATCHED) == held.n_messages
    assert states.count(ChunkState.PENDING) > held.n_messages
    assert held.n_keys == 1
    assert held.keys_bytes <= BYTES_PER_WORKER * n_workers
    assert held.used_bytes <= BYTES_PER_WORKER * n_workers + CONNECTION_BYTES
