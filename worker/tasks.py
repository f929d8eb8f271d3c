"""The one Celery task: hear that a chunk waits and hand it to the worker.

A message means nothing by itself: a forged one can at most start a chunk that was accepted
anyway, and one that cannot be understood is dropped and counted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Annotated, Literal

from celery import Celery
from pydantic import Field, ValidationError

from models.generation import Frozen
from models.model_key import ModelKey
from models.store.views import Ring
from worker.celery_config import CHUNK_TASK

_log = logging.getLogger(__name__)


class ChunkMessage(Frozen):
    """What a ring is on the wire; `n` counts the rings for this chunk and serves tracing only."""

    v: Literal[1]
    chunk: Annotated[int, Field(ge=1, lt=2**63)]  # what the database's column holds
    batch: Annotated[str, Field(max_length=64)]
    n: Annotated[int, Field(ge=0)]


class ChunkListener:
    """Turns messages into rings for `take`, which may block; `malformed` counts the others."""

    def __init__(self, model: ModelKey, take: Callable[[Ring], None]) -> None:
        self._model = model
        self._take = take
        self.malformed = 0

    def hear(self, *args: object, **kwargs: object) -> None:
        """Handle one message, whatever it holds."""
        ring = None if kwargs or len(args) != 1 else self._ring(args[0])
        if ring is None:
            self.malformed += 1
            _log.warning("a message was dropped: not a chunk", extra={"malformed": self.malformed})
            return
        _log.debug("ring heard", extra={"chunk": ring.chunk_id, "n": ring.n})
        self._take(ring)

    def _ring(self, body: object) -> Ring | None:
        try:
            message = ChunkMessage.model_validate(body, strict=True)
        except ValidationError:
            return None
        return Ring(chunk_id=message.chunk, batch_id=message.batch, model=self._model, n=message.n)


def register_chunk_task(app: Celery, listener: ChunkListener) -> None:
    """Let the app's worker give `nightshift.chunk` messages to the listener."""
    app.task(listener.hear, name=CHUNK_TASK, ignore_result=True)
