"""Small batches, answers and looks behind the store, for the tests of this folder."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, Table, event, func, select, update

from models.database import Database
from models.generation import (
    ChatMessage,
    ChatPrompt,
    Choice,
    Generation,
    Prompt,
    Refusal,
    TextPrompt,
    Timings,
)
from models.model_key import ModelKey, Weights
from models.params import DecodingParams
from models.store.batches import list_chunks
from models.store.commit import commit_outcomes
from models.store.leases import claim_next, missing_requests
from models.store.results import database_time
from models.store.submit import submit_batch
from models.store.views import (
    Batch,
    Chunk,
    CommitReceipt,
    Lease,
    Outcome,
    QueuedRequest,
    Submission,
)
from models.tables import api_keys, attempts, batches, chunks, commits, metadata, results
from models.wire.lines import AcceptedLine, Line, RefusedLine
from tests.servers import wait_until

CHAT = "/v1/chat/completions"
MODEL = ModelKey("demo", Weights.INT8)
TTL_S = 60.0
WINDOW_S = 3600.0

Value = TypeVar("Value")


def submission(**changes: Any) -> Submission:
    """A submission of tests, in chunks of at most 8."""
    values = {
        "model": MODEL,
        "endpoint": CHAT,
        "file_name": "in.jsonl",
        "file_bytes": 100,
        "body_sha256": "a" * 64,
        "chunk_requests": 8,
        "seed": 7,
    }
    return Submission(**{**values, **changes})


def chat(text: str, system: str | None = None) -> ChatPrompt:
    turns = [ChatMessage(role="user", content=text)]
    if system is not None:
        turns.insert(0, ChatMessage(role="system", content=system))
    return ChatPrompt(messages=tuple(turns))


def accepted(n: int, prompt: Prompt | None = None) -> AcceptedLine:
    """The line whose idx is n in a file without blank lines."""
    return AcceptedLine(
        line_number=n + 1,
        custom_id=f"r{n}",
        prompt=prompt or TextPrompt(text=f"prompt {n}"),
        params=DecodingParams(max_tokens=5),
        endpoint=CHAT,
    )


def refused(n: int, code: str = "unsupported_parameter") -> RefusedLine:
    refusal = Refusal(code=code, message=f"line {n + 1} cannot be used", param="stream")
    return RefusedLine(n + 1, None, refusal)


def accepted_lines(n: int) -> Iterator[Line]:
    return (accepted(number) for number in range(n))


def submit(database: Database, n: int = 20, **changes: Any) -> Batch:
    """A batch of n requests."""
    return submit_batch(database, submission(**changes), accepted_lines(n)).batch


def generation(text: str) -> Generation:
    """An answer of 2 tokens to a prompt of 3, one of them cached."""
    return Generation(
        choices=(Choice(index=0, text=text, finish_reason="stop"),),
        prompt_tokens=3,
        cached_prompt_tokens=1,
        output_tokens=2,
        timings=Timings(
            tokenize_s=0.25,
            queue_s=0.5,
            prefill_s=1.0,
            time_to_first_token_s=1.75,
            decode_s=2.0,
            total_s=3.75,
        ),
    )


def answers(requests: Iterable[QueuedRequest]) -> list[Outcome]:
    """What a model would answer: always the same for the same request."""
    return [answer(request.idx) for request in requests]


def answer(idx: int) -> Outcome:
    return Outcome(idx=idx, generation=generation(f"answer {idx}"))


def claim(database: Database, worker_id: str = "w1", ttl_s: float = TTL_S) -> Lease:
    """A lease on the next chunk, which must exist."""
    lease = claim_next(database, MODEL, worker_id, ttl_s=ttl_s)
    assert lease is not None
    return lease


def claim_expired(database: Database, worker_id: str = "w1") -> Lease:
    """A lease that has run out by the database's clock."""
    lease = claim(database, worker_id, ttl_s=0.001)
    wait_until(lambda: database_time(database) > lease.lease_until, "the lease runs out")
    return lease


def finish(database: Database, lease: Lease) -> CommitReceipt:
    """Answer everything that is missing."""
    missing = missing_requests(database, lease)
    return commit_outcomes(database, lease, answers(missing), ttl_s=TTL_S)


def commit(database: Database, lease: Lease, idxs: Iterable[int], code: str | None = None) -> None:
    """Answer these requests, or let them fail for a reason."""
    refusal = None if code is None else Refusal(code=code, message=f"no answer: {code}")
    outcomes = [
        answer(idx) if refusal is None else Outcome(idx=idx, refusal=refusal) for idx in idxs
    ]
    commit_outcomes(database, lease, outcomes, ttl_s=TTL_S)


def work_off(database: Database, worker_id: str = "w1") -> int:
    """Claim and answer until there is nothing to claim; returns the number of leases."""
    n_leases = 0
    while (lease := claim_next(database, MODEL, worker_id, ttl_s=TTL_S)) is not None:
        finish(database, lease)
        n_leases += 1
    return n_leases


def answer_ago(database: Database, *done_ago_s: Sequence[float]) -> None:
    """Let workers w0, w1, … answer so long ago: each a batch of its own, of 3 + 2 tokens a request.

    The requests of one worker come in the order of their times, the oldest first.
    """
    answered = []
    for number, seconds in enumerate(done_ago_s):
        batch = submit(database, len(seconds), chunk_requests=len(seconds))
        lease = claim_next(database, MODEL, f"w{number}", ttl_s=TTL_S, only_batch=batch.id)
        assert lease is not None
        for position, ago_s in enumerate(seconds):
            commit(database, lease, [position])
            answered.append((batch.id, position, ago_s))
    now = database_time(database)
    with database.begin() as connection:
        for batch_id, position, ago_s in answered:
            of_commit = (commits.c.batch_id == batch_id, commits.c.position == position)
            moved = update(commits).where(*of_commit).values(committed_at=now - ago_s)
            connection.execute(moved)


def end_back_offs(database: Database) -> None:
    """Let the time pass that crashed chunks have to wait."""
    with database.begin() as connection:
        connection.execute(update(chunks).values(not_before=0.0))


def end_leases(database: Database) -> None:
    """Let the time pass that leases last."""
    with database.begin() as connection:
        connection.execute(update(chunks).values(lease_until=0.0))


def chunk_of(database: Database, lease: Lease) -> Chunk:
    found = [chunk for chunk in list_chunks(database, lease.batch_id) if chunk.id == lease.chunk_id]
    return found[0]


def rows(database: Database, table: Table, **equal: object) -> list[dict[str, Any]]:
    """All rows with these values, in the order of the primary key."""
    statement = select(table).order_by(*table.primary_key.columns)
    for name, value in equal.items():
        statement = statement.where(table.c[name] == value)
    with database.read() as connection:
        return [dict(row) for row in connection.execute(statement).mappings()]


def everything(database: Database) -> set[str]:
    """Every row of every table, as text; but keys, in which each use is noted."""
    return {
        f"{table.name}: {row}"
        for table in metadata.sorted_tables
        if table is not api_keys
        for row in rows(database, table)
    }


def attempts_of(database: Database, lease: Lease) -> list[dict[str, Any]]:
    return rows(database, attempts, chunk_id=lease.chunk_id)


def count(database: Database, table: Table) -> int:
    with database.read() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def check_counters(database: Database, batch_id: str) -> None:
    """The batch's counters are what its results say."""
    found = rows(database, results, batch_id=batch_id)
    (batch,) = rows(database, batches, id=batch_id)
    n_ok = sum(row["status"] == "ok" for row in found)
    assert (batch["n_completed"], batch["n_failed"]) == (n_ok, len(found) - n_ok)
    for name in ("prompt_tokens", "cached_prompt_tokens", "output_tokens"):
        assert batch[name] == sum(row[name] for row in found)


def at_once(works: Sequence[Callable[[], Value]]) -> list[Value]:
    """Run each in a thread of its own, all let go together; their values in the same order."""
    values: dict[int, Value] = {}
    errors: list[BaseException] = []
    barrier = threading.Barrier(len(works))

    def run(number: int) -> None:
        try:
            barrier.wait()
            values[number] = works[number]()
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [values[number] for number in range(len(works))]


def lose_a_reply(database: Database) -> list[object]:
    """Break the connection once, right after COMMIT and before anybody hears of it.

    For PostgreSQL. The list fills when that has happened.
    """
    broken: list[object] = []

    def break_after_commit(connection: Connection) -> None:
        raw = connection.connection.dbapi_connection
        if raw is not None and not broken:
            broken.append(raw)
            raw.commit()
            raw.close()

    event.listen(database._engine, "commit", break_after_commit)
    return broken
