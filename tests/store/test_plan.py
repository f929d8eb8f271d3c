"""The planner cuts batches so that prefixes stay together and workers can share."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from models.database import Database
from models.generation import TextPrompt, TokenPrompt
from models.params import DecodingParams
from models.store.batches import cancel_batch, list_chunks
from models.store.leases import missing_requests
from models.store.plan import chunk_size
from models.store.prompts import prefix_key
from models.store.retry import retry_batch
from models.store.submit import submit_batch
from models.store.views import Batch, Worker
from models.store.workers import register_worker
from tests.store.builders import (
    MODEL,
    accepted,
    answer_ago,
    chat,
    claim,
    refused,
    submission,
    submit,
)


@pytest.mark.parametrize(
    ("n_requests", "limit", "size"),
    [(1, 64, 8), (64, 64, 8), (100, 64, 13), (512, 64, 64), (50_000, 64, 64), (100, 4, 4)],
)
def test_a_batch_is_cut_into_eight_or_into_full_chunks(
    n_requests: int, limit: int, size: int
) -> None:
    assert chunk_size(n_requests, limit) == size


@pytest.mark.parametrize(
    ("n_requests", "n_workers", "worker_requests_per_second", "size"),
    [
        (50_000, 1, 0.5, 90),  # three minutes
        (50_000, 1, 5.0, 128),
        (50_000, 1, 0.01, 48),
        (50_000, 100, 0.5, 90),
        (400, 1, 0.5, 50),  # an eighth
        (400, 4, 0.5, 50),
        (400, 8, 0.5, 25),
        (400, 20, 0.5, 10),
        (400, 20, 0.01, 10),
        (400, 100, 0.5, 8),
        (400, 8, None, 25),
    ],
)
def test_a_chunk_is_what_a_worker_does_in_minutes_or_its_share_of_the_batch(
    n_requests: int, n_workers: int, worker_requests_per_second: float | None, size: int
) -> None:
    measured = {"n_workers": n_workers, "worker_requests_per_second": worker_requests_per_second}
    assert chunk_size(n_requests, 128, **measured) == size  # type: ignore[arg-type]


def measure(database: Database) -> None:
    """Let two workers do a bit more than 2 tokens a second each."""
    answer_ago(database, *[[14.96, 12.47, 9.98, 7.49, 5.0]] * 2)


def sizes(database: Database, batch: Batch) -> list[int]:
    return [chunk.n_requests for chunk in list_chunks(database, batch.id)]


def big_submission(database: Database, prompt: str, params: DecodingParams) -> Batch:
    prompted = (accepted(n, TextPrompt(text=prompt)) for n in range(800))
    lines = (replace(line, params=params) for line in prompted)
    return submit_batch(database, submission(chunk_requests=100), lines).batch


@pytest.mark.parametrize(
    ("prompt", "params", "size"),
    [  # of the 360 tokens of three minutes
        ("p" * 16, {"max_tokens": 5}, 60),  # 4 of prompt and 2 of answer, as lately
        ("p" * 16, {}, 60),
        ("p" * 16, {"max_tokens": 1}, 72),
        ("p" * 16, {"max_tokens": 1, "n": 2}, 60),
        ("p" * 16, {"max_tokens": 2**31 - 1, "n": 128}, 60),
        ("p" * 8, {}, 90),
        ("p" * 4000, {}, 48),
    ],
)
def test_chunks_follow_the_measured_speed_and_the_length_of_the_requests(
    database: Database, prompt: str, params: dict[str, int], size: int
) -> None:
    measure(database)
    batch = big_submission(database, prompt, DecodingParams.model_validate(params))
    assert sizes(database, batch)[0] == size


def test_a_live_fleet_gets_a_chunk_for_each_hand(database: Database) -> None:
    for number in range(10):
        register_worker(database, Worker(id=f"w{number}", model=MODEL, host="node", pid=1))
    batch = submit(database, 400, chunk_requests=128)
    assert sizes(database, batch) == [20] * 20


def test_a_retry_is_cut_by_the_measured_speed_too(database: Database) -> None:
    cancelled = big_submission(database, "p" * 16, DecodingParams())
    cancel_batch(database, cancelled.id)
    measure(database)
    assert sizes(database, retry_batch(database, cancelled.id, chunk_requests=100))[0] == 60


def test_requests_of_one_prefix_lie_together_and_by_length(database: Database) -> None:
    systems = ["Translate.", "Summarize.", "Sort."]
    lines = [accepted(n, chat("x" * (60 - n), systems[n % 3])) for n in range(60)]
    batch = submit_batch(database, submission(chunk_requests=10), lines).batch
    planned = []
    for _ in list_chunks(database, batch.id):
        planned += missing_requests(database, claim(database))
    assert len(planned) == 60
    groups = [request.idx % 3 for request in planned]
    assert sum(left != right for left, right in itertools.pairwise(groups)) == 2
    for group in set(groups):
        lengths = [60 - request.idx for request in planned if request.idx % 3 == group]
        assert lengths == sorted(lengths)


def test_requests_without_a_common_prefix_are_ordered_by_length(database: Database) -> None:
    lines = [accepted(n, TextPrompt(text=f"{n} " + "y" * (n * 37 % 41) * 20)) for n in range(41)]
    batch = submit_batch(database, submission(), lines).batch
    longest = []
    for _ in list_chunks(database, batch.id):
        queued = missing_requests(database, claim(database))
        longest.append([len(str(request.prompt)) for request in queued])
    for shorter, longer in itertools.pairwise(longest):
        assert max(shorter) <= min(longer)


def test_refused_lines_are_in_no_chunk(database: Database) -> None:
    lines = [accepted(n) if n % 2 else refused(n) for n in range(20)]
    batch = submit_batch(database, submission(), lines).batch
    assert [chunk.n_requests for chunk in list_chunks(database, batch.id)] == [8, 2]


def test_the_prefix_is_the_system_message_or_the_first_characters() -> None:
    assert prefix_key(chat("a", "Be brief.")) == prefix_key(chat("b", "Be brief."))
    assert prefix_key(chat("a", "Be brief.")) != prefix_key(chat("a", "Be long."))
    assert prefix_key(TextPrompt(text="p" * 512 + "a")) == prefix_key(
        TextPrompt(text="p" * 512 + "b")
    )
    assert prefix_key(TextPrompt(text="a")) != prefix_key(TextPrompt(text="b"))
    many = tuple(range(128))
    assert prefix_key(TokenPrompt(token_ids=(*many, 1))) == prefix_key(
        TokenPrompt(token_ids=(*many, 2))
    )
