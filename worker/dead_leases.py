"""Leases of processes of this machine that are gone: given back at once, not after their time.

Only with SQLite, where all workers are on one machine; a wrong guess is harmless, because the
lease's epoch fences its holder off. Must not know engines.
"""

from __future__ import annotations

import os
import socket

from models.database import Database
from models.model_key import ModelKey
from models.states import ChunkState
from models.store.batches import get_batch, list_chunks
from models.store.leases import release_lease
from models.store.views import Chunk, Lease
from worker.worker_id import maker_of


def release_leases_of_the_dead(database: Database, batch_id: str) -> None:
    """Give back what killed processes held of the batch; nobody is charged with a crash."""
    if database.dialect != "sqlite":
        return
    model = get_batch(database, batch_id).model
    if model is None:  # still validated: it has no chunks
        return
    for chunk in list_chunks(database, batch_id):
        if chunk.state is ChunkState.LEASED and _is_dead_here(chunk.worker_id):
            lease = _lease_of(chunk, model)
            release_lease(database, lease, crashed=False, reason="its process was gone")


def _lease_of(chunk: Chunk, model: ModelKey) -> Lease:
    return Lease(
        chunk_id=chunk.id,
        batch_id=chunk.batch_id,
        epoch=chunk.epoch,
        worker_id=chunk.worker_id or "",
        model=model,
        attempt=chunk.attempts,
        n_requests=chunk.n_requests,
        lease_until=chunk.lease_until or 0.0,
        artifact=None,
    )


def _is_dead_here(worker_id: str | None) -> bool:
    """Whether the worker ran on this machine and its process has ended."""
    host, pid = maker_of(worker_id or "")
    if host != socket.gethostname() or pid is None:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
