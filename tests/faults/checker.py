"""Reads what a batch left behind and says everything that is wrong with it.

It reads the tables by itself, not through the store that it judges, and compares with the workers'
logs.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sqlalchemy import Select, Table, select

from models.database import Database
from models.projections import OutputKind, read_output
from models.store.batches import get_batch
from models.store.prompts import request_seed
from models.tables import attempts, batches, chunks, commits, requests, results
from tests.celery.cluster import WorkerProcess
from tests.faults.fake_engine import expected_text

FINAL_BATCH = {"completed", "cancelled", "expired", "failed"}
FINAL_CHUNK = {"done", "quarantined", "cancelled"}
NO_WORKER = 0  # the epoch of results that no worker wrote

Row = Mapping[str, Any]
Expected = Callable[[str, int, int], str]  # of prompt, seed and number of tokens


@dataclass(frozen=True, slots=True)
class Rows:
    """Everything that the database holds of one batch."""

    batch: Row
    requests: Sequence[Row]
    results: Sequence[Row]
    chunks: Sequence[Row]
    attempts: Sequence[Row]
    commits: Sequence[Row]


def read_rows(database: Database, batch_id: str) -> Rows:
    """All rows in one transaction."""
    own_chunks = select(chunks.c.id).where(chunks.c.batch_id == batch_id)
    queries = {
        "batch": select(batches).where(batches.c.id == batch_id),
        "requests": _own(requests, batch_id, "idx"),
        "results": _own(results, batch_id, "idx"),
        "chunks": _own(chunks, batch_id, "id"),
        "attempts": select(attempts)
        .where(attempts.c.chunk_id.in_(own_chunks))
        .order_by(attempts.c.chunk_id, attempts.c.epoch),
        "commits": _own(commits, batch_id, "position"),
    }
    with database.read() as connection:
        found = {
            name: connection.execute(query).mappings().all() for name, query in queries.items()
        }
    return Rows(**{**found, "batch": found["batch"][0]})  # type: ignore[arg-type]


def _own(table: Table, batch_id: str, order: str) -> Select[Any]:
    return select(table).where(table.c.batch_id == batch_id).order_by(table.c[order])


def violations(
    database: Database,
    batch_id: str,
    *,
    may_fail: Collection[str] = (),
    expected: Expected = expected_text,
    workers: Iterable[WorkerProcess] = (),
) -> list[str]:
    """One sentence for each broken promise.

    `may_fail`: error codes that the faults of this test may have caused. `workers`: those whose
    logs tell what was generated; without any, that is not compared.
    """
    rows = read_rows(database, batch_id)
    return [
        *_unfinished(rows),
        *_wrong_results(rows, may_fail, expected),
        *_wrong_counters(rows),
        *_wrong_attempts(rows),
        *_stale_commits(rows),
        *_wrong_log(rows),
        *_wrong_files(database, rows),
        *_never_generated(rows, workers),
    ]


def generated(workers: Iterable[WorkerProcess], batch_id: str) -> Counter[tuple[int, int]]:
    """How often each request was generated to its end, by idx and epoch, by the workers' logs."""
    return Counter(
        (record["idx"], record["epoch"])
        for worker in workers
        for record in worker.said("request finished")
        if record["batch"] == batch_id
    )


def redone(workers: Iterable[WorkerProcess], batch_id: str) -> int:
    """Answers that were generated and not used, because another one was there or came."""
    counts = generated(workers, batch_id)
    return counts.total() - len({idx for idx, _ in counts})


def _unfinished(rows: Rows) -> Iterator[str]:
    if rows.batch["state"] not in FINAL_BATCH:
        yield f"the batch is {rows.batch['state']}"
    for chunk in rows.chunks:
        if chunk["state"] not in FINAL_CHUNK:
            yield f"chunk {chunk['id']} is {chunk['state']}"
        if chunk["worker_id"] is not None or chunk["lease_until"] is not None:
            yield f"chunk {chunk['id']} is {chunk['state']} and still leased"


def _wrong_results(rows: Rows, may_fail: Collection[str], expected: Expected) -> Iterator[str]:
    unread = {row["idx"]: row for row in rows.results}
    for idx, count in Counter(row["idx"] for row in rows.results).items():
        if count > 1:
            yield f"request {idx} has {count} results"
    for request in rows.requests:
        result = unread.pop(request["idx"], None)
        if result is None:
            yield f"request {request['idx']} has no result"
        elif result["status"] == "error":
            if result["error_code"] not in may_fail:
                yield f"request {request['idx']} failed with {result['error_code']}"
        else:
            yield from _wrong_text(rows.batch["seed"], request, result, expected)
    for idx in unread:
        yield f"result {idx} has no request"


def _wrong_text(batch_seed: int, request: Row, result: Row, expected: Expected) -> Iterator[str]:
    seed = request_seed(batch_seed, request["idx"])
    if result["text"] != expected(request["prompt"], seed, result["output_tokens"]):
        yield f"request {request['idx']} has another request's answer"


def _wrong_counters(rows: Rows) -> Iterator[str]:
    counted = {
        "n_total": len(rows.requests),
        "n_completed": sum(row["status"] == "ok" for row in rows.results),
        "n_failed": sum(row["status"] == "error" for row in rows.results),
        "prompt_tokens": sum(row["prompt_tokens"] for row in rows.results),
        "output_tokens": sum(row["output_tokens"] for row in rows.results),
    }
    for name, count in counted.items():
        if rows.batch[name] != count:
            yield f"the batch says {name} {rows.batch[name]}, and its rows {count}"


def _wrong_attempts(rows: Rows) -> Iterator[str]:
    for chunk in rows.chunks:
        chunk_id = chunk["id"]
        history = [row for row in rows.attempts if row["chunk_id"] == chunk_id]
        if [attempt["epoch"] for attempt in history] != list(range(1, chunk["epoch"] + 1)):
            yield f"chunk {chunk_id} has gaps in its epochs"
        for attempt in history:
            if attempt["ended_at"] is None or attempt["outcome"] is None:
                yield f"attempt {attempt['epoch']} on chunk {chunk_id} never ended"
        for earlier, later in pairwise(history):
            if (earlier["ended_at"] or 0) > later["started_at"]:
                yield f"chunk {chunk_id} had two holders in epoch {later['epoch']}"


def _stale_commits(rows: Rows) -> Iterator[str]:
    """Results that were written when their lease was over, and attempts that miscount theirs."""
    chunk_of = {request["idx"]: request["chunk_id"] for request in rows.requests}
    leases = {(row["chunk_id"], row["epoch"]): row for row in rows.attempts}
    written: Counter[tuple[int, int]] = Counter()
    for result in rows.results:
        if result["epoch"] == NO_WORKER:
            continue
        key = (chunk_of[result["idx"]], result["epoch"])
        written[key] += 1
        attempt = leases.get(key)
        if attempt is None:
            yield f"request {result['idx']} was written in an epoch that nobody held"
        elif not attempt["started_at"] <= result["created_at"] <= (attempt["ended_at"] or 0):
            yield f"request {result['idx']} was written outside of its lease"
        elif attempt["worker_id"] != result["worker_id"]:
            yield f"request {result['idx']} was written by another worker than the holder"
    for key, attempt in leases.items():
        if attempt["n_done"] != written[key]:
            yield f"attempt {key[1]} on chunk {key[0]} counts {attempt['n_done']} results"


def _wrong_log(rows: Rows) -> Iterator[str]:
    position, logged = 0, Counter[int]()
    for commit in rows.commits:
        if commit["position"] != position:
            yield f"the log of commits goes from {position} to {commit['position']}"
        position = commit["position"] + len(commit["idxs"])
        logged.update(commit["idxs"])
    if logged != Counter(row["idx"] for row in rows.results):
        yield "the log of commits does not name every result once"


def _wrong_files(database: Database, rows: Rows) -> Iterator[str]:
    batch = get_batch(database, rows.batch["id"], rows.batch["tenant_id"])
    lines: dict[str, dict[str, Any]] = {}
    for kind in OutputKind:
        for stored in b"".join(read_output(database, batch, kind)).splitlines():
            found = json.loads(stored)
            if found["custom_id"] in lines:
                yield f"the files have {found['custom_id']} twice"
            lines[found["custom_id"]] = found
    ids = {request["idx"]: request["custom_id"] for request in rows.requests}
    if set(lines) != set(ids.values()):
        yield "the files do not have every request"
    for result in rows.results:
        line = lines.get(ids.get(result["idx"], ""))
        if line is not None and _line_text(line) != result["text"]:
            yield f"the line of request {result['idx']} is not its row"


def _line_text(line: dict[str, Any]) -> str | None:
    if line["response"] is None or line["error"] is not None:
        return None
    choice = line["response"]["body"]["choices"][0]
    found: str = choice["message"]["content"] if "message" in choice else choice["text"]
    return found


def _never_generated(rows: Rows, workers: Iterable[WorkerProcess]) -> Iterator[str]:
    known = list(workers)
    if not known:
        return
    made = generated(known, rows.batch["id"])
    for result in rows.results:
        if result["status"] == "ok" and (result["idx"], result["epoch"]) not in made:
            epoch, worker = result["epoch"], result["worker_id"]
            yield f"nobody generated request {result['idx']} of epoch {epoch}, {worker}"
