"""Redis forgets, dies, hangs, lies or is cut off: it is a doorbell, and nothing depends on it."""

from __future__ import annotations

import base64
import json
import shutil
import signal
import time
from pathlib import Path

import pytest
import redis
from kombu.connection import Connection

from models.settings import load_settings
from models.store.batches import get_batch, list_chunks
from models.store.views import Ring
from tests.celery.cluster import wait_for
from tests.faults.batches import plain, submit
from tests.faults.checker import redone
from tests.faults.fake_engine import FAKE_MODEL, Script
from tests.faults.rig import Node, Rig
from tests.faults.watching import charged, check, wait_share
from worker.celery_app import create_app
from worker.celery_config import CHUNK_TASK
from worker.doorbell import CeleryDoorbell

SLOW = Script(step_s=0.01)
UNKNOWN_CHUNK = 10**9
HEARD_WITHIN_S = 60.0
N_DUPLICATES = 100
N_FORGED = 10
BIG_BYTES = 10 * 1024**2
CALL = "[[1], {}, {}]"


def entry(call: str = CALL, **headers: object) -> bytes:
    """What Celery writes into the queue, with these fields as somebody else would have them."""
    properties = {"body_encoding": "base64", "delivery_tag": "forged", "delivery_info": {}}
    message = {
        "body": base64.b64encode(call.encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"task": CHUNK_TASK, "id": "forged", **headers},
        "properties": properties,
    }
    return json.dumps(message).encode()


NO_MESSAGES = (
    *(b"{", b"\xff\xfe", b"7", b"null", b"[]", b"{}", b'{"body": 1, "properties": {}}'),
    b"[" * 100_000,
    b'{"__type__": "decimal", "__value__": "x"}',
)
# Celery counts each of these as received, then fails at it: one left over and it hears no more.
NO_CALLS = (
    *(entry("7"), entry("[1, 2, 3]"), entry("[[1], {}, 7]")),
    *(entry(task=["a list"]), entry(id=["a list"]), entry(id=None), entry(timelimit="short")),
    entry(eta="2999-01-01T00:00:00"),
)


def ring(faults: Rig, chunk_id: int) -> None:
    """Announce a chunk as a dispatcher does."""
    app = create_app(load_settings({}, broker_url=faults.redis.url))
    bell = CeleryDoorbell(app)
    bell.ring(Ring(chunk_id=chunk_id, batch_id="batch_0", model=FAKE_MODEL, n=1))


def hears(node: Node, chunk_id: int) -> bool:
    return any(record["chunk"] == chunk_id for record in node.worker.said("ring heard"))


def wait_hears_again(faults: Rig, node: Node, chunk_id: int = UNKNOWN_CHUNK) -> None:
    """The worker still listens: it is not deaf after what happened."""
    ring(faults, chunk_id)
    wait_for(lambda: hears(node, chunk_id), "the worker hears the bell", timeout_s=HEARD_WITHIN_S)


def nothing_was_disturbed(faults: Rig, batch_id: str) -> None:
    """Every chunk was run once, by its first holder, and nothing was generated twice."""
    check(faults, batch_id)
    assert {chunk.epoch for chunk in list_chunks(faults.database, batch_id)} == {1}
    assert redone([node.worker for node in faults.nodes], batch_id) == 0


@pytest.mark.matrix
def test_connections_that_break_again_and_again_leave_no_worker_deaf(faults: Rig) -> None:
    node = faults.start_workers(1, script=SLOW)[0]
    batch_id = submit(faults.database, plain(600), max_tokens=16)
    with faults.redis.client() as client:
        for number in range(50):
            client.client_kill_filter(_type="normal", skipme=True)
            if number % 10 == 0:
                wait_hears_again(faults, node, UNKNOWN_CHUNK + number)
    nothing_was_disturbed(faults, batch_id)
    wait_hears_again(faults, node, UNKNOWN_CHUNK + 100)


def test_redis_may_forget_everything_while_a_batch_runs(faults: Rig) -> None:
    node = faults.start_workers(1, script=SLOW)[0]
    batch_id = submit(faults.database, plain(600), max_tokens=16)
    for share in (0.1, 0.3, 0.6):
        wait_share(faults, batch_id, share)
        faults.redis.flushall()
    nothing_was_disturbed(faults, batch_id)
    wait_hears_again(faults, node)


@pytest.mark.matrix
def test_redis_may_die_and_come_back_empty(faults: Rig) -> None:
    node = faults.start_workers(1, script=SLOW)[0]
    batch_id = submit(faults.database, plain(600), max_tokens=16)
    wait_share(faults, batch_id, 0.2)
    faults.redis.kill()
    wait_share(faults, batch_id, 0.5)  # it goes on meanwhile
    faults.redis.start()
    nothing_was_disturbed(faults, batch_id)
    wait_hears_again(faults, node)


@pytest.mark.matrix
def test_old_messages_of_a_restored_redis_cost_nothing(faults: Rig) -> None:
    batch_id = submit(faults.database, plain(200), max_tokens=8)
    for chunk in list_chunks(faults.database, batch_id):
        ring(faults, chunk.id)
    with faults.redis.client() as client:
        client.save()
    kept = shutil.copy(faults.redis.folder / "dump.rdb", faults.home)
    node = faults.start_workers(1)[0]
    check(faults, batch_id)
    faults.redis.kill()
    shutil.copy(kept, faults.redis.folder / "dump.rdb")
    faults.redis.start()
    Path(faults.redis.folder / "dump.rdb").unlink()  # only this start shall find it
    wait_hears_again(faults, node)
    wait_for(lambda: _queue_length(faults) == 0, "the old messages are gone")
    nothing_was_disturbed(faults, batch_id)


@pytest.mark.matrix
def test_a_silent_network_to_redis_stops_nothing(faults: Rig) -> None:
    node = faults.start_workers(1, script=SLOW)[0]
    batch_id = submit(faults.database, plain(2000), max_tokens=16)
    wait_share(faults, batch_id, 0.05)
    node.broker.blackhole()
    silent_at = time.monotonic()
    wait_for(
        lambda: (
            time.monotonic() - silent_at > 20
            or get_batch(faults.database, batch_id).completed == 2000
        ),
        "the network was silent for longer than a read waits",
        timeout_s=90,
    )
    node.broker.pass_on()
    nothing_was_disturbed(faults, batch_id)
    wait_hears_again(faults, node)


@pytest.mark.matrix
def test_a_redis_that_takes_no_writes_stops_nothing(faults: Rig) -> None:
    node = faults.start_workers(1, script=SLOW)[0]
    with faults.redis.client() as client:
        client.config_set("maxmemory", "1")
        try:
            with pytest.raises(redis.OutOfMemoryError):
                client.set("key", "value")
            batch_id = submit(faults.database, plain(200), max_tokens=8)
            nothing_was_disturbed(faults, batch_id)
        finally:
            client.config_set("maxmemory", "0")
    wait_hears_again(faults, node)


@pytest.mark.matrix
def test_a_redis_that_hangs_stops_nothing(faults: Rig) -> None:
    node = faults.start_workers(1, script=SLOW)[0]
    faults.redis.send_signal(signal.SIGSTOP)
    try:
        batch_id = submit(faults.database, plain(200), max_tokens=8)
        nothing_was_disturbed(faults, batch_id)
    finally:
        faults.redis.send_signal(signal.SIGCONT)
    wait_hears_again(faults, node)


@pytest.mark.matrix
def test_doubled_forged_and_huge_messages_are_harmless(faults: Rig) -> None:
    node = faults.start_workers(1, script=SLOW)[0]
    batch_id = submit(faults.database, plain(40), max_tokens=8, chunk_requests=20)
    first = list_chunks(faults.database, batch_id)[0].id
    app = create_app(load_settings({}, broker_url=faults.redis.url), model=FAKE_MODEL)
    for _ in range(N_DUPLICATES):
        ring(faults, first)
    for number in range(N_FORGED):
        ring(faults, UNKNOWN_CHUNK + number)
    for body in ({"v": 1}, "text", ["x" * BIG_BYTES], {"v": 1, "chunk": -1, "batch": "", "n": 0}):
        app.send_task(CHUNK_TASK, args=(body,))
    app.send_task("somebody.elses.task", args=(1,))
    with Connection(faults.redis.url) as connection:  # type: ignore[no-untyped-call]
        queue = connection.SimpleQueue(FAKE_MODEL.queue)
        queue.put(b"\x80\x04 no message", content_type="application/x-python-serialize")
        queue.put("no task", content_type="text/plain")
    with faults.redis.client() as client:
        for forged in (*NO_MESSAGES, *NO_CALLS):
            client.lpush(FAKE_MODEL.queue, forged)
    wait_hears_again(faults, node, UNKNOWN_CHUNK * 2)
    nothing_was_disturbed(faults, batch_id)
    assert len(node.worker.said("a message was dropped: not a chunk")) == 4
    n_dropped = len(node.worker.said("a message was dropped: not of Celery"))
    assert n_dropped == len(NO_MESSAGES) + len(NO_CALLS) + 2  # those of the simple queue
    assert charged(faults, batch_id) == 0


def _queue_length(faults: Rig) -> int:
    with faults.redis.client() as client:
        return int(client.llen(FAKE_MODEL.queue))
