"""Fills a database as users and workers would have left it: batches, and results of most of them.

Batches come in through the store. Results, commits and attempts of finished chunks are written by
bulk SQL, which takes seconds instead of minutes; the rows are like those that workers write.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from sqlalchemy import JSON, Connection, func, insert, literal, select, update

from models.clock import db_now
from models.database import Database
from models.generation import (
    ChatMessage,
    ChatPrompt,
    Choice,
    Generation,
    Prompt,
    Timings,
)
from models.model_key import ModelKey, Weights
from models.params import DecodingParams
from models.states import AttemptOutcome, ChunkState, ResultStatus
from models.store.joins import whole_batch_join
from models.store.submit import submit_batch
from models.store.views import Batch, Submission
from models.tables import attempts, batches, chunks, commits, requests, results
from models.wire.endpoints import Endpoint
from models.wire.lines import AcceptedLine

MODEL = ModelKey("demo-model", Weights.INT8)
WORKER_ID = "worker-of-the-benchmark"
MICRO_BATCH = 32
ANSWER_TOKENS = 80
PROMPT_TOKENS = 100
_TIMINGS = Timings(
    tokenize_s=0.001,
    queue_s=4.2,
    prefill_s=0.31,
    time_to_first_token_s=4.5,
    decode_s=6.1,
    total_s=10.6,
)
_SYSTEM = "You answer questions about reviews of a shop in one short paragraph. " * 2
_TEXT = (
    "the shop delivers quickly but parcel was open and one of three items missing from it when "
    "courier left letter says refund takes days while customer wants answer today"
)


def new_submission(number: int, n_requests: int) -> Submission:
    """What a user sends, in chunks of the usual size."""
    return Submission(
        model=MODEL,
        endpoint=Endpoint.CHAT,
        file_name=f"reviews-{number}.jsonl",
        file_bytes=500 * n_requests,
        body_sha256="0" * 64,
    )


def new_lines(number: int, n_requests: int) -> Iterator[AcceptedLine]:
    """Requests with a common system message, some 400 characters of prompt each."""
    chance, words = random.Random(number), _TEXT.split()
    params = DecodingParams(max_tokens=ANSWER_TOKENS, temperature=0.0)
    for n in range(n_requests):
        text = " ".join(chance.choices(words, k=chance.randint(30, 65)))
        yield AcceptedLine(n + 1, f"review-{n}", _prompt(text), params, Endpoint.CHAT)


def queue_batch(database: Database, number: int, n_requests: int) -> Batch:
    """Submit one batch through the store."""
    lines = new_lines(number, n_requests)
    return submit_batch(database, new_submission(number, n_requests), lines).batch


def new_answer(text: str) -> Generation:
    """An answer of realistic size."""
    return Generation(
        choices=(Choice(index=0, text=text, finish_reason="stop"),),
        prompt_tokens=PROMPT_TOKENS,
        cached_prompt_tokens=40,
        output_tokens=ANSWER_TOKENS,
        timings=_TIMINGS,
    )


def answer_text() -> str:
    """Some 300 characters, as 80 tokens are."""
    return " ".join(random.Random(0).choices(_TEXT.split(), k=50))


def finish_chunks(database: Database, batch_id: str, share: float) -> None:
    """The first `share` of the chunks of a batch that nobody has worked on is done."""
    with database.begin() as connection:
        n_chunks = connection.execute(
            select(func.count()).where(chunks.c.batch_id == batch_id)
        ).scalar_one()
        last = round(n_chunks * share)
        with whole_batch_join(connection):
            _insert_results(connection, batch_id, last)
            n_done = _insert_commits(connection, batch_id, last)
        _end_chunks(connection, batch_id, last)
        sums = {"n_completed": n_done, "output_tokens": n_done * ANSWER_TOKENS}
        connection.execute(update(batches).where(batches.c.id == batch_id).values(sums))


def _prompt(text: str) -> Prompt:
    turns = (ChatMessage(role="system", content=_SYSTEM), ChatMessage(role="user", content=text))
    return ChatPrompt(messages=turns)


def _insert_results(connection: Connection, batch_id: str, last: int) -> None:
    answer = new_answer(answer_text())
    choices = [choice.model_dump(mode="json", exclude_none=True) for choice in answer.choices]
    columns = {
        "batch_id": requests.c.batch_id,
        "idx": requests.c.idx,
        "status": literal(str(ResultStatus.OK)),
        "text": literal(answer.choices[0].text),
        "finish_reason": literal("stop"),
        "choices": literal(choices, JSON()),
        "prompt_tokens": literal(answer.prompt_tokens),
        "cached_prompt_tokens": literal(answer.cached_prompt_tokens),
        "output_tokens": literal(answer.output_tokens),
        **{name: literal(value) for name, value in answer.timings.model_dump().items()},
        "epoch": literal(1),
        "attempt": literal(1),
        "worker_id": literal(WORKER_ID),
        "artifact": literal("0" * 64),
        "created_at": db_now(),
    }
    rows = (
        select(*columns.values())
        .join(chunks, chunks.c.id == requests.c.chunk_id)
        .where(requests.c.batch_id == batch_id, chunks.c.number < last)
    )
    connection.execute(insert(results).from_select(list(columns), rows))


def _insert_commits(connection: Connection, batch_id: str, last: int) -> int:
    """One commit for every micro-batch, chunk after chunk."""
    done = (
        select(requests.c.idx)
        .join(chunks, chunks.c.id == requests.c.chunk_id)
        .where(requests.c.batch_id == batch_id, chunks.c.number < last)
        .order_by(requests.c.chunk_id, requests.c.idx)
    )
    idxs = list(connection.execute(done).scalars())
    rows = [
        {
            "batch_id": batch_id,
            "position": position,
            "idxs": (group := idxs[position : position + MICRO_BATCH]),
            "prompt_tokens": PROMPT_TOKENS * len(group),
            "output_tokens": ANSWER_TOKENS * len(group),
            "worker_id": WORKER_ID,
        }
        for position in range(0, len(idxs), MICRO_BATCH)
    ]
    connection.execute(insert(commits).values(committed_at=db_now()), rows)
    return len(idxs)


def _end_chunks(connection: Connection, batch_id: str, last: int) -> None:
    is_done = (chunks.c.batch_id == batch_id, chunks.c.number < last)
    columns = {
        "chunk_id": chunks.c.id,
        "epoch": literal(1),
        "worker_id": literal(WORKER_ID),
        "started_at": db_now() - 60.0,
        "ended_at": db_now(),
        "outcome": literal(str(AttemptOutcome.DONE)),
        "n_done": chunks.c.n_requests,
    }
    leases = select(*columns.values()).where(*is_done)
    connection.execute(insert(attempts).from_select(list(columns), leases))
    ended = {"state": str(ChunkState.DONE), "epoch": 1, "attempts": 1}
    connection.execute(update(chunks).where(*is_done).values(ended))
