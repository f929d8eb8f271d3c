"""A job store in a file, batches in it, and a runner over a scripted engine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from models.database import Database, connect_database, upgrade
from models.generation import TextPrompt
from models.model_key import ModelKey, Weights
from models.params import DecodingParams
from models.settings import Settings, load_settings
from models.store.batches import get_batch, list_chunks
from models.store.results import stream_records
from models.store.submit import submit_batch
from models.store.views import Batch, Chunk, Submission
from models.wire.lines import AcceptedLine
from tests.jobs.scripted_engine import Script
from worker.jobs.runner import ChunkRunner

MODEL = ModelKey("scripted", Weights.FP32)
CHUNK_REQUESTS = 8


@dataclass
class JobStore:
    """A database with shorthands for what the tests look at."""

    database: Database
    settings: Settings
    batch_ids: list[str] = field(default_factory=list)

    def submit(self, n_requests: int, *, model: ModelKey = MODEL) -> str:
        """A batch of text prompts `0` … `n-1`, padded so that idx order is length order."""
        lines = [
            AcceptedLine(
                line_number=idx + 1,
                custom_id=f"r{idx}",
                prompt=TextPrompt(text=f"prompt {idx:04}"),
                params=DecodingParams(),
                endpoint="/v1/completions",
            )
            for idx in range(n_requests)
        ]
        submission = Submission(
            model=model,
            endpoint="/v1/completions",
            file_name="prompts.jsonl",
            file_bytes=1,
            body_sha256="0" * 64,
            chunk_requests=CHUNK_REQUESTS,
        )
        return submit_batch(self.database, submission, lines).batch.id

    def batch(self, batch_id: str) -> Batch:
        return get_batch(self.database, batch_id)

    def chunks(self, batch_id: str) -> list[Chunk]:
        return list_chunks(self.database, batch_id)

    def texts(self, batch_id: str) -> dict[int, str]:
        """The answers by idx; refused requests are left out."""
        return {
            record.idx: record.generation.choices[0].text
            for record in stream_records(self.database, batch_id)
            if record.generation is not None
        }

    def errors(self, batch_id: str) -> dict[int, str]:
        """The error codes by idx."""
        return {
            record.idx: record.refusal.code
            for record in stream_records(self.database, batch_id)
            if record.refusal is not None
        }


def expected_texts(n_requests: int) -> dict[int, str]:
    """What the scripted engine answers to a submitted batch."""
    return {idx: f"prompt {idx:04}"[::-1] for idx in range(n_requests)}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(
        {},
        home=tmp_path,
        lease_ttl_s=30,
        renew_period_s=5,
        sweep_period_s=0.2,
        micro_batch_requests=4,
        micro_batch_s=0.05,
        max_sequences=8,
        drain_timeout_s=10,
    )


@pytest.fixture
def store(settings: Settings) -> Iterator[JobStore]:
    with upgrade(settings.resolved_database_url) as database:
        yield JobStore(database, settings)


@pytest.fixture
def script() -> Script:
    return Script()


MakeRunner = Callable[..., ChunkRunner]


@pytest.fixture
def make_runner(store: JobStore, script: Script) -> Iterator[MakeRunner]:
    """Runners that are started and closed; keyword arguments change the settings."""
    runners: list[ChunkRunner] = []
    keepers: list[Database] = []

    def make(worker_id: str = "worker-a", **changes: object) -> ChunkRunner:
        settings = store.settings.model_copy(update=changes)
        keeper = connect_database(settings.resolved_database_url)
        keepers.append(keeper)
        runner = ChunkRunner(
            database=store.database,
            keeper_database=keeper,
            settings=settings,
            model=MODEL,
            worker_id=worker_id,
            spawn=script.spawn,
        )
        runners.append(runner)
        runner.start()
        return runner

    yield make
    for runner in runners:
        runner.close()
    for keeper in keepers:
        keeper.close()


class Later:
    """A condition that becomes true after a number of looks; thread-safe."""

    def __init__(self, looks: int) -> None:
        self._left = looks
        self._lock = threading.Lock()

    def __call__(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left < 0
