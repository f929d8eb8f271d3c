"""The hardened transport on a real Redis that goes away at the worst moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from kombu.message import Message

from models.settings import load_settings
from models.store.views import Ring
from tests.celery.cluster import MODEL
from tests.servers import RedisServer, started
from worker.celery_app import create_app
from worker.celery_config import model_queue
from worker.doorbell import CeleryDoorbell


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis of the test's own, because it is killed."""
    with started(RedisServer()) as own:
        yield own


@pytest.mark.parametrize(
    "settle", [Message.ack, Message.reject, Message.requeue], ids=["ack", "reject", "requeue"]
)
def test_a_message_settled_without_redis_leaves_room_for_the_next(
    server: RedisServer, settle: Callable[[Message], None]
) -> None:
    app = create_app(load_settings({}, broker_url=server.url))
    CeleryDoorbell(app).ring(Ring(chunk_id=1, batch_id="batch_0", model=MODEL, n=1))
    with app.connection_for_read() as connection:
        with connection.SimpleQueue(model_queue(MODEL)) as queue:
            message = queue.get(timeout=10)
        qos = message.channel.qos
        qos.prefetch_count = 1
        assert not qos.can_consume()
        server.kill()
        with pytest.raises(connection.connection_errors):
            settle(message)
        assert qos.can_consume()
