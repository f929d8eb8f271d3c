"""A real server whose batches of the demo model a thread answers, as a worker would."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.database import Database
from models.model_key import ModelKey, Weights
from models.store.batches import finalize_batch
from models.store.leases import claim_next
from models.store.model_files import keep_model_files
from models.store.views import ServedModel
from models.store.workers import register_model
from tests.cli.served import Served, serve_home
from tests.store.builders import TTL_S, finish
from worker.llm.registry import Registry
from worker.llm.resolved_tokenizer import kept_files

MODEL = ModelKey("demo-model", Weights.INT8)


@contextmanager
def serve_demo(folder: Path, models_home: Path) -> Iterator[Served]:
    """A new home whose server knows the demo model and its tokenizer; nobody answers yet."""
    artifact = Registry(models_home / "registry").path(MODEL)
    model = ServedModel(
        key=MODEL, artifact="0" * 64, architecture="LlamaForCausalLM", context_tokens=512
    )
    with serve_home(folder) as served:
        keep_model_files(served.database, MODEL, model.artifact, kept_files(artifact))
        register_model(served.database, model)
        yield served


@contextmanager
def answering(database: Database) -> Iterator[None]:
    """Answer whatever is submitted until the block ends."""
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(0.05):
            if (lease := claim_next(database, MODEL, "w", ttl_s=TTL_S)) is not None:
                finish(database, lease)
                finalize_batch(database, lease.batch_id)

    worker = threading.Thread(target=work, name="worker")
    worker.start()
    try:
        yield
    finally:
        ended.set()
        worker.join()
