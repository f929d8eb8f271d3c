"""A commit writes all or nothing, once, and only under a lease that is held."""

from __future__ import annotations

import pytest

from models.database import Database
from models.errors import LeaseLost
from models.generation import Choice, Refusal, TokenLogprob
from models.states import AttemptOutcome, BatchState, ChunkState, ResultStatus
from models.store.batches import cancel_batch, finalize_batch, get_batch
from models.store.commit import commit_outcomes
from models.store.leases import claim_next, missing_requests, release_lease, renew_lease
from models.store.results import stream_records
from models.store.views import Outcome
from models.tables import results
from tests.store.builders import (
    MODEL,
    TTL_S,
    answer,
    answers,
    attempts_of,
    check_counters,
    chunk_of,
    claim,
    claim_expired,
    count,
    finish,
    generation,
    lose_a_reply,
    rows,
    submit,
    work_off,
)


def test_the_last_commit_ends_the_chunk_and_its_attempt(database: Database) -> None:
    batch = submit(database, 8)
    lease = claim(database)
    missing = missing_requests(database, lease)
    first = commit_outcomes(database, lease, answers(missing[:5]), ttl_s=TTL_S)
    assert (first.chunk_done, first.inserted, first.cancelled) == (False, 5, False)
    last = commit_outcomes(database, lease, answers(missing[5:]), ttl_s=TTL_S)
    assert (last.chunk_done, last.inserted) == (True, 3)
    chunk = chunk_of(database, lease)
    assert (chunk.state, chunk.worker_id, chunk.lease_until) == (ChunkState.DONE, None, None)
    (attempt,) = attempts_of(database, lease)
    assert (attempt["outcome"], attempt["n_done"]) == (AttemptOutcome.DONE, 8)
    stored = get_batch(database, batch.id)
    assert (stored.completed, stored.output_tokens, stored.cached_prompt_tokens) == (8, 16, 8)
    check_counters(database, batch.id)


def test_a_generation_comes_out_as_it_was_committed(database: Database) -> None:
    batch = submit(database, 8)
    lease = claim(database)
    token = TokenLogprob(token="é", logprob=-0.125, bytes=(195, 169))
    told = generation("x").model_copy(
        update={
            "choices": (
                Choice(index=0, text="é", finish_reason="stop", token_ids=(5,), logprobs=(token,)),
                Choice(index=1, text="zwei", finish_reason="length"),
            ),
            "prompt_token_ids": (1, 2, 3),
        }
    )
    commit_outcomes(database, lease, [Outcome(idx=4, generation=told)], ttl_s=TTL_S)
    (record,) = stream_records(database, batch.id)
    assert (record.status, record.generation, record.refusal) == (ResultStatus.OK, told, None)
    assert (record.epoch, record.attempt, record.worker_id) == (1, 1, "w1")
    (row,) = rows(database, results)
    assert (row["text"], row["finish_reason"], row["decode_s"]) == ("é", "stop", 2.0)


def test_a_refusal_while_running_is_an_error_result(database: Database) -> None:
    batch = submit(database, 8)
    lease = claim(database)
    refusal = Refusal(code="context_length_exceeded", message="too long", param="messages")
    receipt = commit_outcomes(database, lease, [Outcome(idx=0, refusal=refusal)], ttl_s=TTL_S)
    assert receipt.inserted == 1
    (record,) = stream_records(database, batch.id, status=ResultStatus.ERROR)
    assert (record.refusal, record.generation) == (refusal, None)
    assert get_batch(database, batch.id).failed == 1
    check_counters(database, batch.id)


def test_text_that_a_database_cannot_store_is_replaced(database: Database) -> None:
    batch = submit(database, 8)
    told = generation("a\0b\ud800c")
    commit_outcomes(database, claim(database), [Outcome(idx=0, generation=told)], ttl_s=TTL_S)
    (record,) = stream_records(database, batch.id)
    assert record.generation is not None
    assert record.generation.choices[0].text == "a\ufffdb?c"


def test_a_commit_under_a_lost_lease_writes_nothing(database: Database) -> None:
    batch = submit(database, 8)
    old = claim_expired(database, "w1")
    new = claim(database, "w2")
    with pytest.raises(LeaseLost):
        commit_outcomes(database, old, [answer(0)], ttl_s=TTL_S)
    assert count(database, results) == 0
    commit_outcomes(database, new, answers(missing_requests(database, new)[:4]), ttl_s=TTL_S)
    with pytest.raises(LeaseLost):
        commit_outcomes(database, old, [answer(n) for n in range(8)], ttl_s=TTL_S)
    assert {row["epoch"] for row in rows(database, results)} == {2}
    assert get_batch(database, batch.id).completed == 4
    finish(database, new)
    with pytest.raises(LeaseLost):
        commit_outcomes(database, old, [answer(0)], ttl_s=TTL_S)
    assert {row["worker_id"] for row in rows(database, results)} == {"w2"}
    check_counters(database, batch.id)


def test_a_commit_after_releasing_writes_nothing(database: Database) -> None:
    submit(database, 8)
    lease = claim(database)
    release_lease(database, lease, crashed=False, reason="drained")
    with pytest.raises(LeaseLost):
        commit_outcomes(database, lease, [answer(0)], ttl_s=TTL_S)
    assert count(database, results) == 0


def test_repeating_a_commit_adds_nothing(database: Database) -> None:
    batch = submit(database, 8)
    lease = claim(database)
    some, rest = [answer(0), answer(1)], [answer(n) for n in range(8)]
    assert commit_outcomes(database, lease, some, ttl_s=TTL_S).inserted == 2
    assert commit_outcomes(database, lease, some, ttl_s=TTL_S).inserted == 0
    assert commit_outcomes(database, lease, rest, ttl_s=TTL_S).inserted == 6
    replay = commit_outcomes(database, lease, rest, ttl_s=TTL_S)
    assert (replay.chunk_done, replay.inserted) == (True, 0)
    (attempt,) = attempts_of(database, lease)
    assert attempt["n_done"] == 8
    assert get_batch(database, batch.id).completed == 8
    check_counters(database, batch.id)


def test_a_result_is_never_replaced(database: Database) -> None:
    batch = submit(database, 8)
    lease = claim(database)
    commit_outcomes(database, lease, [answer(0)], ttl_s=TTL_S)
    other = Outcome(idx=0, generation=generation("something else"))
    assert commit_outcomes(database, lease, [other, answer(1)], ttl_s=TTL_S).inserted == 1
    texts = [record.generation for record in stream_records(database, batch.id)]
    assert texts == [answer(0).generation, answer(1).generation]


def test_an_empty_commit_ends_a_chunk_that_is_complete(database: Database) -> None:
    submit(database, 8)
    first = claim(database)
    finish(database, first)
    submit(database, 8)
    second = claim(database)
    assert not commit_outcomes(database, second, [], ttl_s=TTL_S).chunk_done
    finish(database, second)
    assert commit_outcomes(database, second, [], ttl_s=TTL_S).chunk_done


def test_a_commit_tells_of_a_cancelled_batch_and_keeps_the_results(database: Database) -> None:
    batch = submit(database, 16)
    lease = claim(database)
    cancel_batch(database, batch.id)
    receipt = commit_outcomes(database, lease, [answer(0)], ttl_s=TTL_S)
    assert (receipt.cancelled, receipt.inserted) == (True, 1)
    assert get_batch(database, batch.id).completed == 1


def test_a_lost_reply_to_commit_is_replayed_without_a_second_row(
    postgres_database: Database,
) -> None:
    """The transaction commits, the connection breaks before the worker hears of it."""
    database = postgres_database
    batch = submit(database, 8)
    lease = claim(database)
    broken = lose_a_reply(database)
    receipt = commit_outcomes(database, lease, [answer(n) for n in range(8)], ttl_s=TTL_S)
    assert (len(broken), receipt.chunk_done, receipt.inserted) == (1, True, 0)
    assert get_batch(database, batch.id).completed == 8
    check_counters(database, batch.id)


def test_the_full_life_of_a_batch(database: Database) -> None:
    batch = submit(database, 30)
    states = [batch.state]
    while (lease := claim_next(database, MODEL, "w1", ttl_s=TTL_S)) is not None:
        renew_lease(database, lease, TTL_S)
        finish(database, lease)
        states.append(finalize_batch(database, batch.id).state)
    assert states == [BatchState.IN_PROGRESS] * 4 + [BatchState.COMPLETED]
    final = get_batch(database, batch.id)
    assert (final.completed, final.failed, final.remaining) == (30, 0, 0)
    assert (final.prompt_tokens, final.output_tokens) == (90, 60)
    times = (final.created_at, final.in_progress_at, final.finalizing_at, final.completed_at)
    assert list(times) == sorted(time for time in times if time is not None)
    records = list(stream_records(database, batch.id))
    assert [record.generation for record in records] == [answer(n).generation for n in range(30)]
    assert work_off(database) == 0
