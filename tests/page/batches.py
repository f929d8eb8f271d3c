"""Batches for the pages' tests, made as the store's own tests make them."""

from __future__ import annotations

from models.database import Database
from models.store.batches import finalize_batch
from models.store.submit import submit_batch
from models.store.views import Batch, ServedModel
from models.store.workers import register_model
from models.wire.lines import Line
from tests.store.builders import MODEL, accepted, claim, commit, refused, submission

CONTEXT, LOST = "context_length_exceeded", "worker_lost"


def serve_model(database: Database) -> None:
    """Let batches name the model `demo`."""
    served = ServedModel(
        key=MODEL, artifact="a" * 64, architecture="LlamaForCausalLM", context_tokens=2048
    )
    register_model(database, served)


def batch_with_failures(database: Database) -> Batch:
    """Ended: 3 answers, 2 requests too long, 2 lost, and a line that was refused when read."""
    lines: list[Line] = [accepted(0), refused(1), *(accepted(n) for n in range(2, 8))]
    batch = submit_batch(database, submission(file_name="mixed.jsonl"), lines).batch
    lease = claim(database)
    commit(database, lease, [0, 2, 3])
    commit(database, lease, [4, 5], CONTEXT)
    commit(database, lease, [6, 7], LOST)
    return finalize_batch(database, batch.id)
