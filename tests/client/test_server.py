"""The client against a real server: every method gives what it promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from models.database import Database
from models.store.batches import finalize_batch
from models.store.leases import claim_next
from models.store.views import Batch, Lease, Worker
from models.store.workers import register_worker
from models.tables import batches
from nightshift import Client, InputError, Json, NotFoundError, StateError
from tests.api.losing import losing
from tests.cli.served import Served
from tests.client.answered import MODEL, answering
from tests.store.builders import CHAT, TTL_S, commit, count, finish, submit


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with Client(served.url) as opened:
        yield opened


def submit_some(database: Database, n: int = 20) -> Batch:
    return submit(database, n, model=MODEL)


def claim(database: Database) -> Lease:
    lease = claim_next(database, MODEL, "w", ttl_s=TTL_S)
    assert lease is not None
    return lease


def half_failed(database: Database) -> Batch:
    """An ended batch with 4 answers, 3 timeouts and one lost worker."""
    batch, lease = submit_some(database, 8), claim(database)
    commit(database, lease, range(4))
    commit(database, lease, range(4, 7), "request_timeout")
    commit(database, lease, [7], "worker_lost")
    return finalize_batch(database, batch.id)


def test_results_are_followed_while_others_are_missing(served: Served, client: Client) -> None:
    batch = submit_some(served.database)
    finish(served.database, claim(served.database))
    first = list(client.follow(batch.id, to_end=False))
    assert [result.cursor for result in first] == list(range(1, 9))
    assert all(result.is_answer for result in first)
    with answering(served.database):
        rest = list(client.follow(batch.id, after=8))
    assert [result.cursor for result in rest] == list(range(9, 21))
    assert {result.custom_id for result in (*first, *rest)} == {f"r{n}" for n in range(20)}
    with pytest.raises(InputError, match="is no cursor"):
        list(client.follow(batch.id, after=21))


def test_waiting_ends_with_the_batch_however_seldom_it_looks(
    served: Served, client: Client
) -> None:
    batch = submit_some(served.database)
    seen: list[str] = []
    with answering(served.database):
        ended = client.wait(
            batch.id, period_s=3600, on_progress=lambda now: seen.append(now["status"])
        )
    assert ended["status"] == seen[-1] == "completed"
    assert ended["request_counts"] == {"total": 20, "completed": 20, "failed": 0}
    assert client.batch(batch.id) == ended


def test_a_batch_is_paused_and_resumed(served: Served, client: Client) -> None:
    batch = submit_some(served.database)
    assert client.pause(batch.id)["nightshift"]["paused"]
    assert claim_next(served.database, MODEL, "w", ttl_s=TTL_S) is None
    assert not client.resume(batch.id)["nightshift"]["paused"]
    with answering(served.database):
        client.wait(batch.id)
    with pytest.raises(StateError, match="completed"):
        client.pause(batch.id)


def test_what_failed_is_retried(served: Served, client: Client) -> None:
    old = half_failed(served.database)
    everything = client.retry(old.id)
    assert everything["metadata"] == {"retry_of": old.id}
    assert everything["request_counts"]["total"] == 4
    assert client.retry(old.id, error_codes=["worker_lost"])["request_counts"]["total"] == 1
    with pytest.raises(InputError, match="no request that failed for batch_expired"):
        client.retry(old.id, error_codes=["batch_expired"])
    with pytest.raises(StateError, match="cancel it first"):
        client.retry(everything["id"])


@pytest.mark.parametrize("delayed", [False, True], ids=["answer-lost", "both-at-once"])
def test_a_retry_that_is_sent_again_makes_one_batch(served: Served, delayed: bool) -> None:
    old = half_failed(served.database)
    path = f"/v1/batches/{old.id}/retry"
    with losing(served.url, path, delayed=delayed) as proxy, Client(proxy.url) as client:
        made = client.retry(old.id)
    assert [answer.json()["id"] for answer in proxy.answers] == [made["id"]] * 2
    assert count(served.database, batches) == 2


def test_a_manifest_accounts_for_an_ended_batch(served: Served, client: Client) -> None:
    old = half_failed(served.database)
    manifest = client.manifest(old.id)
    assert manifest["whole"]
    assert (manifest["counts"]["answered"], manifest["counts"]["failed"]) == (4, 4)
    assert manifest["batch"] == client.batch(old.id)
    with pytest.raises(StateError, match="when it has ended"):
        client.manifest(submit_some(served.database).id)


def request(number: int, **body: object) -> Json:
    messages = [{"role": "user", "content": "What is 3 plus 4?"}]
    whole = {"model": "demo-model", "messages": messages, "max_tokens": 4, **body}
    return {"custom_id": f"r{number}", "method": "POST", "url": CHAT, "body": whole}


def test_an_estimate_counts_and_submits_nothing(served: Served, client: Client) -> None:
    told = client.estimate({"requests": [request(0), request(1), request(2, stream=True)]})
    assert told["model"] == "demo-model:int8"
    assert told["requests"] == {"total": 3, "accepted": 2, "refused": 1, "duplicates": 1}
    assert told["tokens"]["prompt"] > 0
    assert told["time"]["reason"]
    assert count(served.database, batches) == 0
    with pytest.raises(NotFoundError, match="no model other"):
        client.estimate({"requests": [request(0, model="other")]})


def test_workers_are_shown(served: Served, client: Client) -> None:
    assert client.workers() == []
    register_worker(served.database, Worker(id="w", model=MODEL, host="node-1", pid=1))
    submit_some(served.database)
    lease = claim(served.database)
    (worker,) = client.workers()
    assert (worker["id"], worker["model"], worker["live"]) == ("w", "demo-model:int8", True)
    assert (worker["leased_chunks"], worker["batch_ids"]) == (1, [lease.batch_id])


@pytest.mark.parametrize(
    "ask",
    [
        Client.batch,
        Client.wait,
        Client.retry,
        Client.pause,
        Client.resume,
        Client.manifest,
        lambda client, batch_id: list(client.follow(batch_id)),
    ],
)
def test_an_unknown_batch_is_not_found(
    client: Client, ask: Callable[[Client, str], object]
) -> None:
    for batch_id in ("batch_none", "a/b", "ä?#"):
        with pytest.raises(NotFoundError):
            ask(client, batch_id)
