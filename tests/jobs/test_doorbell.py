"""One suite over both doorbells: what is rung is heard, and a bell that is away says so."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from models.errors import BrokerUnavailable
from models.model_key import ModelKey, Weights
from models.settings import load_settings
from models.store.views import Ring
from tests.servers import RedisServer, free_port
from worker.celery_app import create_app
from worker.doorbell import CeleryDoorbell, Doorbell, InProcessDoorbell

MODEL = ModelKey("bell", Weights.INT8)


def ring_for(chunk_id: int, *, n: int = 1) -> Ring:
    return Ring(chunk_id=chunk_id, batch_id="batch_" + "0" * 32, model=MODEL, n=n)


@dataclass
class Installation:
    """A doorbell, a way to hear what it rang, and one that nobody can hear."""

    doorbell: Doorbell
    heard: Callable[[], list[int]]
    broken: Doorbell


def in_process() -> Installation:
    bell = InProcessDoorbell()

    def heard() -> list[int]:
        rings = iter(lambda: bell.wait(0), None)
        return [ring.chunk_id for ring in rings]

    full = InProcessDoorbell(capacity=1)
    full.ring(ring_for(1))
    return Installation(bell, heard, full)


def over_redis(server: RedisServer) -> Installation:
    server.flushall()

    def heard() -> list[int]:
        with server.client() as client:
            messages = [json.loads(item) for item in client.lrange(MODEL.queue, 0, -1)]
            client.delete(MODEL.queue)
        bodies = [json.loads(base64.b64decode(message["body"])) for message in messages]
        return [body[0][0]["chunk"] for body in reversed(bodies)]

    bell = CeleryDoorbell(create_app(load_settings({}, broker_url=server.url)))
    nobody = CeleryDoorbell(
        create_app(load_settings({}, broker_url=f"redis://127.0.0.1:{free_port()}/0"))
    )
    return Installation(bell, heard, nobody)


@pytest.fixture(params=["in-process", "celery"])
def installation(
    request: pytest.FixtureRequest, redis_server: RedisServer
) -> Iterator[Installation]:
    yield in_process() if request.param == "in-process" else over_redis(redis_server)


def test_rings_are_heard_in_order(installation: Installation) -> None:
    for chunk_id in (3, 1, 2):
        installation.doorbell.ring(ring_for(chunk_id))
    assert installation.heard() == [3, 1, 2]
    assert installation.heard() == []


def test_ringing_twice_is_heard_twice_and_harms_nobody(installation: Installation) -> None:
    installation.doorbell.ring(ring_for(7))
    installation.doorbell.ring(ring_for(7, n=2))
    assert installation.heard() == [7, 7]


def test_a_bell_that_nobody_can_hear_says_so(installation: Installation) -> None:
    with pytest.raises(BrokerUnavailable):
        installation.broken.ring(ring_for(1))


def test_the_message_holds_ids_only(redis_server: RedisServer) -> None:
    redis_server.flushall()
    CeleryDoorbell(create_app(load_settings({}, broker_url=redis_server.url))).ring(
        ring_for(12, n=3)
    )
    with redis_server.client() as client:
        (raw,) = client.lrange(MODEL.queue, 0, -1)
    body = base64.b64decode(json.loads(raw)["body"])
    assert json.loads(body)[0] == [{"v": 1, "chunk": 12, "batch": "batch_" + "0" * 32, "n": 3}]
    assert len(raw) < 1500


def test_a_broker_that_is_away_is_named_without_its_password() -> None:
    url = f"redis://user:secret@127.0.0.1:{free_port()}/0"
    bell = CeleryDoorbell(create_app(load_settings({}, broker_url=url)))
    with pytest.raises(BrokerUnavailable, match="start Redis") as caught:
        bell.check()
    assert "secret" not in str(caught.value)


def test_waiting_counts_messages(redis_server: RedisServer) -> None:
    redis_server.flushall()
    bell = CeleryDoorbell(create_app(load_settings({}, broker_url=redis_server.url)))
    assert bell.waiting(MODEL) == 0
    bell.ring(ring_for(1))
    bell.ring(ring_for(2))
    assert bell.waiting(MODEL) == 2


def test_an_offer_waits_for_the_one_before_it() -> None:
    bell = InProcessDoorbell()
    assert bell.offer(ring_for(1), 0)
    assert not bell.offer(ring_for(2), 0.1)
    bell.wait(0)
    assert bell.offer(ring_for(2), 0.1)
