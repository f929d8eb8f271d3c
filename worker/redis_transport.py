"""kombu's Redis transport, hardened: whatever lies in the queue, the worker lives on and hears.

kombu takes an entry that is not a message of its own for an error of its program, and Celery ends
the worker: one `LPUSH` of a few bytes would stop a node. Where Celery fails at a field of a message
that it has counted as received, it never hears another one. Must not know what messages mean.
"""

from __future__ import annotations

import logging
from queue import Empty
from typing import Annotated, Any, Literal

from kombu.transport import TRANSPORT_ALIASES, virtual
from kombu.transport import redis as kombu_redis
from pydantic import AfterValidator, Base64Bytes, BaseModel, Field, TypeAdapter, ValidationError

_CALL: TypeAdapter[tuple[list[Any], dict[str, Any], dict[str, None]]] = TypeAdapter(
    tuple[list[Any], dict[str, Any], dict[str, None]]
)

_log = logging.getLogger(__name__)


class _Headers(BaseModel, strict=True):
    """No time of its own, no limits, no name but the task's: nobody here sends those."""

    task: str
    id: str
    shadow: None = None
    eta: None = None
    expires: None = None
    timelimit: Annotated[list[None], Field(min_length=2, max_length=2)] | None = None


class _Properties(BaseModel, strict=True):
    body_encoding: Literal["base64"]
    delivery_tag: str
    delivery_info: dict[str, Any]


class _Entry(BaseModel):
    """What Celery writes for a call of a task, as far as Celery relies on it; more may be there."""

    body: Annotated[Base64Bytes, AfterValidator(_CALL.validate_json)]
    headers: _Headers
    properties: _Properties


class QoS(kombu_redis.QoS):
    """Counts a message as handled even where Redis could not be told.

    kombu does not, and with one message at a time such a worker waits for ever: it asks for no
    other message, so it never notices its broken connection either. The entry that stays in Redis
    is announced once more when its visibility timeout is over.
    """

    def ack(self, delivery_tag: str) -> None:
        try:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]
        finally:
            virtual.QoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        try:
            super().reject(delivery_tag, requeue=requeue)  # type: ignore[no-untyped-call]
        finally:
            virtual.QoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]


class Channel(kombu_redis.Channel):
    """Drops entries that cannot be read."""

    QoS = QoS

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except Empty:
            raise
        except (
            *(ValueError, TypeError, LookupError, AttributeError),
            *(ArithmeticError, RecursionError),  # a forged decimal, an array in 100,000 others
        ) as exc:
            _log.warning("a message was dropped: not of Celery (%s)", type(exc).__name__)
            return True


class Transport(kombu_redis.Transport):
    """kombu's, with that channel; Celery hears nothing but whole calls of tasks."""

    Channel = Channel

    def _deliver(self, message: object, queue: str) -> None:
        try:
            _Entry.model_validate(message)
        except ValidationError as exc:
            where = ".".join(map(str, exc.errors(include_input=False)[0]["loc"]))
            _log.warning("a message was dropped: not of Celery (%s)", where)
            return
        super()._deliver(message, queue)  # type: ignore[no-untyped-call]


def harden_redis_transport() -> None:
    """From now on `redis://` and `rediss://` mean this transport, in the whole process."""
    name = f"{__name__}:{Transport.__name__}"
    TRANSPORT_ALIASES.update({"redis": name, "rediss": name})
