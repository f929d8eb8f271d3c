"""A night's work for screenshots: batches in several states, without any model.

Everything goes through the store as workers do it; afterwards the times are moved into the past,
so that nobody has to wait for them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, select, update

from models.database import Database
from models.generation import ChatMessage, ChatPrompt, Choice, Generation, Refusal, Timings
from models.model_key import ModelKey, Weights
from models.params import DecodingParams
from models.store.batches import cancel_batch, finalize_batch, get_batch
from models.store.commit import commit_outcomes
from models.store.leases import claim_next, missing_requests
from models.store.results import database_time
from models.store.submit import submit_batch
from models.store.uploads import store_content
from models.store.views import (
    DEFAULT_TENANT,
    Batch,
    Lease,
    Outcome,
    QueuedRequest,
    ServedModel,
    Submission,
    Worker,
)
from models.store.workers import register_model, register_worker
from models.tables import attempts, batches, chunks, commits, workers
from models.wire.lines import AcceptedLine, Line, RefusedLine
from tools.demo_tasks import held_out_chats

MODEL = ModelKey("demo-model", Weights.INT8)
_ENDPOINT = "/v1/chat/completions"
_TTL_S = 3600.0
_COMMIT_REQUESTS = 4
_WORKERS = ("node-1:4711", "node-2:902")
_DIGEST = "9c1f4be2d07a" + 52 * "0"
_CONTEXT = Refusal(
    code="context_length_exceeded", message="the prompt has 2210 tokens, the model takes 2048"
)
_LOST = Refusal(
    code="worker_lost",
    message="the chunk was given up after 3 crashes, the last one: the engine ended with signal 9",
    http_status=None,
)
_TOOLS = Refusal(
    code="unsupported_parameter", message="line 8: `tools` cannot be used here", param="tools"
)
_CHATS = held_out_chats(200, seed=2024)
_RULES = "You are a precise assistant. Keep to these house rules.\n" + "\n".join(
    f"{number}. Answer with the result of step {number} and nothing else." for number in range(30)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """One batch to be: its file, its size, when it began and how far it comes."""

    name: str
    n_requests: int
    began_ago_s: float
    lasted_s: float
    share: float = 1.0
    failing: float = 0.0

    @property
    def ended_ago_s(self) -> float:
        """How long ago its last result came."""
        return self.began_ago_s - self.lasted_s


def sample_batches(database: Database) -> tuple[Batch, Batch]:
    """Fill an empty database; returns a batch that runs and one that ended with failures."""
    _register(database)
    _upload(database, "tomorrow.jsonl", 48_213)
    ended: dict[str, str] = {}
    for plan in (
        _Plan(name="faq-answers.jsonl", n_requests=640, began_ago_s=52_000, lasted_s=1_260),
        _Plan(
            name="translations-de.jsonl",
            n_requests=1_200,
            began_ago_s=30_400,
            lasted_s=3_480,
            failing=0.03,
        ),
        _Plan(name="ticket-labels.jsonl", n_requests=320, began_ago_s=9_100, lasted_s=540),
    ):
        ended[plan.name] = finalize_batch(database, _play(database, plan)).id
        _set(
            database,
            ended[plan.name],
            completed_at=_time(database, plan.began_ago_s - plan.lasted_s),
        )
    draft = _Plan(name="draft.jsonl", n_requests=240, began_ago_s=5_000, lasted_s=200, share=0.375)
    batch_id = cancel_batch(database, _play(database, draft)).id
    _set(database, batch_id, cancelled_at=_time(database, draft.ended_ago_s))
    running = _Plan(
        name="support-summaries.jsonl",
        n_requests=900,
        began_ago_s=1_010,
        lasted_s=1_004,
        share=0.62,
        failing=0.012,
    )
    batch_id = _play(database, running)
    submit_batch(database, _submission("reviews-2026.jsonl"), _lines(480))
    return get_batch(database, batch_id), get_batch(database, ended["translations-de.jsonl"])


def _play(database: Database, plan: _Plan) -> str:
    """Submit the batch and do the planned share of it; returns its id."""
    chance = random.Random(plan.name)
    submission = _submission(plan.name)
    batch = submit_batch(database, submission, _lines(plan.n_requests)).batch
    left = round(plan.n_requests * plan.share)
    while left > 0 and (lease := _claim(database, chance)) is not None:
        missing = missing_requests(database, lease)[:left]
        left -= len(missing)
        for start in range(0, len(missing), _COMMIT_REQUESTS):
            outcomes = [
                _outcome(request, chance, plan.failing)
                for request in missing[start : start + _COMMIT_REQUESTS]
            ]
            commit_outcomes(database, lease, outcomes, ttl_s=_TTL_S)
    began_at = _time(database, plan.began_ago_s)
    with database.begin() as connection:
        _move_commits(connection, batch.id, began_at, plan.lasted_s, chance)
    _set(database, batch.id, created_at=began_at - 4, in_progress_at=began_at - 3)
    return batch.id


def _claim(database: Database, chance: random.Random) -> Lease | None:
    return claim_next(database, MODEL, chance.choice(_WORKERS), ttl_s=_TTL_S)


def _outcome(request: QueuedRequest, chance: random.Random, failing: float) -> Outcome:
    if chance.random() < failing:
        return Outcome(idx=request.idx, refusal=chance.choice((_CONTEXT, _CONTEXT, _LOST)))
    n_tokens = chance.randint(3, 48)
    prefill_s, decode_s = chance.uniform(0.05, 0.4), n_tokens * chance.uniform(0.05, 0.09)
    queue_s = chance.uniform(0, 2)
    timings = Timings(
        tokenize_s=0.0004,
        queue_s=queue_s,
        prefill_s=prefill_s,
        time_to_first_token_s=queue_s + prefill_s,
        decode_s=decode_s,
        total_s=queue_s + prefill_s + decode_s,
    )
    text = _CHATS[request.idx % len(_CHATS)].answer
    return Outcome(
        idx=request.idx,
        generation=Generation(
            choices=(Choice(index=0, text=text, finish_reason="stop"),),
            prompt_tokens=chance.randint(20, 90),
            cached_prompt_tokens=16,
            output_tokens=n_tokens,
            timings=timings,
        ),
    )


def _move_commits(
    connection: Connection, batch_id: str, began_at: float, lasted_s: float, chance: random.Random
) -> None:
    of_batch = commits.c.batch_id == batch_id
    positions = select(commits.c.position).where(of_batch).order_by(commits.c.position)
    found = connection.execute(positions).scalars().all()
    paces = [chance.uniform(0.75, 1.25) for _ in found]
    passed_s = 0.0
    for position, pace in zip(found, paces, strict=True):
        passed_s += lasted_s * pace / sum(paces)
        moved = update(commits).where(of_batch, commits.c.position == position)
        connection.execute(moved.values(committed_at=began_at + passed_s))
    of_chunks = attempts.c.chunk_id.in_(select(chunks.c.id).where(chunks.c.batch_id == batch_id))
    connection.execute(update(attempts).where(of_chunks).values(started_at=began_at))


def _time(database: Database, ago_s: float) -> float:
    return database_time(database) - ago_s


def _set(database: Database, batch_id: str, **times: float) -> None:
    with database.begin() as connection:
        connection.execute(update(batches).where(batches.c.id == batch_id).values(times))


def _submission(name: str) -> Submission:
    return Submission(
        model=MODEL,
        endpoint=_ENDPOINT,
        file_name=name,
        file_bytes=100_000,
        body_sha256=64 * "0",
        chunk_requests=64,
        seed=1,
    )


def _lines(n_requests: int) -> Iterator[Line]:
    for number in range(n_requests):
        if number == 7:
            yield RefusedLine(number + 1, f"row-{number:04}", _TOOLS)
            continue
        chat = _CHATS[number % len(_CHATS)]
        turns = tuple(ChatMessage.model_validate(message) for message in chat.messages)
        if number % 40 == 15:
            turns = (ChatMessage(role="system", content=_RULES), *turns)
        yield AcceptedLine(
            line_number=number + 1,
            custom_id=f"{chat.task}-{number:04}",
            prompt=ChatPrompt(messages=turns),
            params=DecodingParams(max_tokens=48),
            endpoint=_ENDPOINT,
        )


def _upload(database: Database, name: str, n_bytes: int) -> None:
    content = b" " * n_bytes
    store_content(database, DEFAULT_TENANT, content, name=name, purpose="batch", n_lines=1)


def _register(database: Database) -> None:
    register_model(
        database,
        ServedModel(
            key=MODEL,
            artifact=_DIGEST,
            architecture="LlamaForCausalLM",
            context_tokens=2048,
            source="examples/demo-model",
        ),
    )
    for number, worker_id in enumerate(_WORKERS):
        host, _, pid = worker_id.partition(":")
        register_worker(
            database,
            Worker(
                id=worker_id,
                model=MODEL,
                host=host,
                pid=int(pid),
                artifact=_DIGEST,
                threads=32 >> number,
                load_s=2.4,
                rss_bytes=1_480_000_000 - 90_000_000 * number,
                peak_rss_bytes=1_610_000_000,
            ),
        )
    with database.begin() as connection:
        started_at = database_time(database) - 60_000
        connection.execute(update(workers).values(started_at=started_at))
