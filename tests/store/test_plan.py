"""The planner cuts batches so that prefixes stay together and workers can share."""

from __future__ import annotations

import itertools

import pytest

from models.database import Database
from models.generation import TextPrompt, TokenPrompt
from models.store.batches import list_chunks
from models.store.leases import missing_requests
from models.store.plan import chunk_size
from models.store.prompts import prefix_key
from models.store.submit import submit_batch
from tests.store.builders import accepted, chat, claim, refused, submission


@pytest.mark.parametrize(
    ("n_requests", "limit", "size"),
    [(1, 64, 8), (64, 64, 8), (100, 64, 13), (512, 64, 64), (50_000, 64, 64), (100, 4, 4)],
)
def test_a_batch_is_cut_into_eight_or_into_full_chunks(
    n_requests: int, limit: int, size: int
) -> None:
    assert chunk_size(n_requests, limit) == size


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
