"""Cancelling, retrying, pausing and resuming over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from models.generation import Refusal
from models.store.batches import finalize_batch
from models.store.commit import commit_outcomes
from models.store.leases import claim_next
from models.store.views import Batch, Outcome
from tests.api.running import Json, Served, error_of
from tests.store.builders import MODEL, TTL_S, answer, finish, submit

REPEAT = {"x-stainless-retry-count": "1"}


@pytest.fixture
def failed(served: Served) -> Batch:
    """An ended batch with an answer, a timeout and two requests whose worker was lost."""
    batch = submit(served.database, 4)
    lease = claim_next(served.database, MODEL, "w1", ttl_s=TTL_S, only_batch=batch.id)
    assert lease is not None
    codes = ("request_timeout", "worker_lost", "worker_lost")
    refusals = [
        Outcome(idx=idx, refusal=Refusal(code=code, message="no", http_status=None))
        for idx, code in enumerate(codes, 1)
    ]
    commit_outcomes(served.database, lease, [answer(0), *refusals], ttl_s=TTL_S)
    return finalize_batch(served.database, batch.id)


def retry(
    served: Served, batch: Batch, body: Json | None = None, headers: Mapping[str, str] | None = None
) -> Json:
    answer = served.post(f"/v1/batches/{batch.id}/retry", body or {}, **(headers or {}))
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_everything_that_failed_is_retried(served: Served, failed: Batch) -> None:
    fresh = retry(served, failed)
    assert (fresh["status"], fresh["request_counts"]["total"]) == ("in_progress", 3)
    assert fresh["metadata"] == {"retry_of": failed.id}


def test_what_failed_for_a_reason_is_retried(served: Served, failed: Batch) -> None:
    assert retry(served, failed, {"error_codes": ["worker_lost"]})["request_counts"]["total"] == 2
    path = f"/v1/batches/{failed.id}/retry"
    nothing = served.post(path, {"error_codes": ["batch_expired"]})
    assert error_of(nothing) == (400, "invalid_value", None)


def test_a_repeat_by_the_client_makes_one_batch(served: Served, failed: Batch) -> None:
    calls: list[dict[str, str]] = [{}, REPEAT, REPEAT]
    with ThreadPoolExecutor(len(calls)) as threads:
        made = list(threads.map(lambda headers: retry(served, failed, headers=headers), calls))
    assert len({batch["id"] for batch in made}) == 1
    assert retry(served, failed)["id"] != made[0]["id"]


def test_an_idempotency_key_makes_one_batch(served: Served, failed: Batch) -> None:
    key = {"idempotency-key": f"again-{failed.id}"}
    assert retry(served, failed, headers=key)["id"] == retry(served, failed, headers=key)["id"]
    path = f"/v1/batches/{failed.id}/retry"
    conflict = served.post(path, {"error_codes": ["worker_lost"]}, **key)
    assert error_of(conflict) == (409, "idempotency_conflict", None)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"error_codes": []}, "error_codes"),
        ({"error_codes": "worker_lost"}, "error_codes"),
        ({"error_codes": ["Worker Lost"]}, "error_codes.0"),
        ({"codes": []}, "codes"),
    ],
)
def test_a_bad_retry_is_refused(served: Served, failed: Batch, body: Json, param: str) -> None:
    answer = served.post(f"/v1/batches/{failed.id}/retry", body)
    assert error_of(answer) == (400, "invalid_value", param)


def test_a_running_batch_is_not_retried(served: Served) -> None:
    batch = submit(served.database, 1)
    answer = served.post(f"/v1/batches/{batch.id}/retry", {})
    assert error_of(answer) == (409, "invalid_state", None)


def test_a_batch_is_paused_and_resumed(served: Served) -> None:
    batch = submit(served.database, 8)
    for _ in range(2):
        paused = served.post(f"/v1/batches/{batch.id}/pause").json()
        assert (paused["status"], paused["nightshift"]["paused"]) == ("in_progress", True)
    assert claim_next(served.database, MODEL, "w", ttl_s=TTL_S, only_batch=batch.id) is None
    for _ in range(2):
        resumed = served.post(f"/v1/batches/{batch.id}/resume").json()
        assert not resumed["nightshift"]["paused"]
    served.end(batch.id)
    for change in ("pause", "resume"):
        answer = served.post(f"/v1/batches/{batch.id}/{change}")
        assert error_of(answer) == (409, "invalid_state", None)


def test_a_cancelled_batch_is_cancelled_again(served: Served) -> None:
    batch = submit(served.database, 8)
    first, again = (served.post(f"/v1/batches/{batch.id}/cancel") for _ in range(2))
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json()["status"] == "cancelled"
    assert first.json() == again.json()


def test_a_batch_that_is_being_cancelled_is_cancelled_again(served: Served) -> None:
    batch = submit(served.database, 16)
    lease = claim_next(served.database, MODEL, "w1", ttl_s=TTL_S, only_batch=batch.id)
    assert lease is not None
    for _ in range(2):
        cancelled = served.post(f"/v1/batches/{batch.id}/cancel").json()
        assert cancelled["status"] == "cancelling"
    finish(served.database, lease)
    finalize_batch(served.database, batch.id)
    ended = served.post(f"/v1/batches/{batch.id}/cancel").json()
    assert ended["status"] == "cancelled"
    assert ended["request_counts"] == {"total": 16, "completed": 8, "failed": 8}


def test_a_batch_that_ended_otherwise_is_not_cancelled(served: Served, failed: Batch) -> None:
    answer = served.post(f"/v1/batches/{failed.id}/cancel")
    assert error_of(answer) == (409, "invalid_state", None)


@pytest.mark.parametrize("change", ["cancel", "retry", "pause", "resume"])
def test_an_unknown_batch_has_no_course(served: Served, change: str) -> None:
    answer = served.post(f"/v1/batches/batch_none/{change}", {})
    assert error_of(answer) == (404, "not_found", None)
