"""How a worker is told that a chunk waits: inside the process or by a Celery message.

A ring carries ids and no meaning. Losing one costs seconds, doubling one costs nothing: what is
to be done stands in the database. Must not know leases or engines.
"""

from __future__ import annotations

import queue
import time
from typing import Protocol

import redis
from celery import Celery
from kombu.exceptions import KombuError, OperationalError

from models.errors import BrokerUnavailable
from models.model_key import ModelKey
from models.store.views import Ring
from worker.celery_config import CHUNK_TASK, model_queue

_OFFER_PAUSE_S = 0.05
_CAPACITY = 1024  # far above any window; a full bell means that nobody listens


class Doorbell(Protocol):
    """Where dispatched chunks are announced."""

    def ring(self, ring: Ring) -> None:
        """Announce one chunk; raises BrokerUnavailable when that cannot be done now."""


class InProcessDoorbell:
    """Rings and listens inside one process; any thread may do either."""

    def __init__(self, capacity: int = _CAPACITY) -> None:
        self._rings: queue.Queue[Ring] = queue.Queue(capacity)

    def ring(self, ring: Ring) -> None:
        try:
            self._rings.put_nowait(ring)
        except queue.Full as exc:
            raise BrokerUnavailable("the worker does not take chunks; restart it") from exc

    def offer(self, ring: Ring, timeout_s: float) -> bool:
        """Put the ring where the listener finds it next; False while an earlier one waits there.

        For a listener that shall not be given more than it works on.
        """
        deadline = time.monotonic() + timeout_s
        while not self._rings.empty():
            if time.monotonic() >= deadline:
                return False
            time.sleep(_OFFER_PAUSE_S)
        self.ring(ring)
        return True

    def wait(self, timeout_s: float) -> Ring | None:
        """The next ring, or None when there was none within the time (0: do not wait)."""
        try:
            if timeout_s <= 0:
                return self._rings.get_nowait()
            return self._rings.get(timeout=timeout_s)
        except queue.Empty:
            return None


class CeleryDoorbell:
    """Rings by one small message on the model's own queue."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def ring(self, ring: Ring) -> None:
        message = {"v": 1, "chunk": ring.chunk_id, "batch": ring.batch_id, "n": ring.n}
        try:
            self._app.send_task(
                CHUNK_TASK,
                args=(message,),
                queue=model_queue(ring.model),
                declare=[],  # a list in Redis needs no declaration, and none survives FLUSHALL
                ignore_result=True,
            )
        except (KombuError, OperationalError, redis.RedisError, OSError) as exc:
            raise _unreachable(self._app) from exc

    def waiting(self, model: ModelKey) -> int:
        """Messages that wait on the model's queue; raises BrokerUnavailable."""
        try:
            with self._app.connection_for_read() as connection:
                channel = connection.default_channel
                return int(channel._size(model.queue))
        except (KombuError, OperationalError, redis.RedisError, OSError) as exc:
            raise _unreachable(self._app) from exc

    def check(self) -> None:
        """Raise BrokerUnavailable unless the broker answers."""
        try:
            with self._app.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, interval_start=0.2)
        except (KombuError, OperationalError, redis.RedisError, OSError) as exc:
            raise _unreachable(self._app) from exc


def _unreachable(app: Celery) -> BrokerUnavailable:
    address = app.connection_for_write().as_uri()  # as_uri leaves the password out
    return BrokerUnavailable(
        f"the broker {address} cannot be reached; start Redis or correct NIGHTSHIFT_BROKER_URL"
    )
