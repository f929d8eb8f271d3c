"""`python -m benchmarks.http_api [DATABASE_URL]`: how the HTTP API bears a large file and a load.

Uploads and validates a file of 200 MB with 50,000 requests while it watches the server's memory,
then polls batches while three of 50,000 run, and follows the results of a small one beside them.
Prints one JSON document. Without a URL it makes an SQLite database of its own; the schema of
another one must be there and empty.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import psutil

from benchmarks.prepare import DEMO_MODEL, PROJECT
from models.database import Database, connect_database
from models.store.commit_log import read_commits

N_REQUESTS = 50_000
N_FOLLOWED = 5000
LARGE_FILE_BYTES = 200 << 20
N_BATCHES = 3
N_POLLS = 300
POLL_PERIOD_S = 0.05
FOLLOW_PERIOD_S = 0.25
MIB = 1 << 20


def main() -> None:
    """Measure everything."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        database_url = sys.argv[1] if len(sys.argv) > 1 else f"sqlite:///{home / 'nightshift.db'}"
        settings = {"NIGHTSHIFT_HOME": name, "NIGHTSHIFT_DATABASE_URL": database_url}
        environment = {**os.environ, **settings}
        command = [sys.executable, "-m", "cli", "model", "add", str(DEMO_MODEL)]
        subprocess.run([*command, "--weights", "int8"], env=environment, cwd=PROJECT, check=True)
        port = _free_port()
        with _running(environment, "serve", "--no-keys", "--port", str(port)) as server:
            url = f"http://127.0.0.1:{port}"
            _await(lambda: httpx2.get(f"{url}/ready").is_success)
            with (
                _running(environment, "worker", "--model", "demo-model", "--threads", "1"),
                # One for all calls: to make a client takes longer than to be answered.
                httpx2.Client(base_url=url, timeout=600) as client,
                connect_database(database_url) as database,
            ):
                _await(lambda: bool(client.get("/v1/models").json()["data"]))
                figures = {
                    "database": database.dialect,
                    **measure(client, home, psutil.Process(server.pid), database),
                }
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")


def measure(
    client: httpx2.Client, folder: Path, server: psutil.Process, database: Database
) -> dict[str, object]:
    """All figures; the files that they need are written to the folder."""
    large = write_file(folder / "large.jsonl", N_REQUESTS, LARGE_FILE_BYTES // N_REQUESTS)
    small = write_file(folder / "small.jsonl", N_REQUESTS)
    few = write_file(folder / "few.jsonl", N_FOLLOWED)
    return {
        "large_file": measure_large(client, large, server),
        "while_batches_run": {
            **measure_polls(client, small),
            "results": measure_results(client, few, database),
        },
    }


def write_file(path: Path, n_requests: int, line_bytes: int = 0) -> Path:
    """A file of short answers to prompts that fill up lines of `line_bytes`."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(n_requests):
            messages = [{"role": "user", "content": f"What is {number} + 1?"}]
            body = {"model": "demo-model", "messages": messages, "max_tokens": 4}
            start = {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions"}
            line = json.dumps({**start, "body": body})
            if len(line) < line_bytes - 1:
                messages[0]["content"] += " " + "x" * (line_bytes - len(line) - 2)
                line = json.dumps({**start, "body": body})
            file.write(line + "\n")
    return path


def measure_large(client: httpx2.Client, path: Path, server: psutil.Process) -> dict[str, object]:
    """Seconds and memory of uploading and of validating; the batch is cancelled then."""
    before = server.memory_info().rss
    with _peak_memory(server) as peak:
        began_s = time.perf_counter()
        file_id = upload(client, path)
        upload_s = time.perf_counter() - began_s
        upload_peak = max(peak)
        batch = create(client, file_id)
        seconds = []
        while (polled := poll(client, batch)).batch["status"] == "validating":
            seconds.append(polled.seconds)
            time.sleep(POLL_PERIOD_S)
        validate_s = time.perf_counter() - began_s - upload_s
    assert polled.batch["request_counts"]["total"] == N_REQUESTS, polled.batch
    client.post(f"/v1/batches/{batch}/cancel").raise_for_status()
    return {
        "bytes": path.stat().st_size,
        "upload_s": round(upload_s, 1),
        "validate_s": round(validate_s, 1),
        "upload_memory_growth_mib": round((upload_peak - before) / MIB, 1),
        "memory_growth_mib": round((max(peak) - before) / MIB, 1),
        "poll_while_validating_ms": _milliseconds(seconds),
    }


def measure_polls(client: httpx2.Client, path: Path) -> dict[str, object]:
    """Milliseconds of a status poll while the batches run; they go on."""
    batches = [create(client, upload(client, path)) for _ in range(N_BATCHES)]
    for batch in batches:
        _await(partial(_runs, client, batch))
    seconds = []
    for number in range(N_POLLS):
        polled = poll(client, batches[number % N_BATCHES])
        seconds.append(polled.seconds)
        time.sleep(POLL_PERIOD_S)
    done = [poll(client, batch).batch["request_counts"] for batch in batches]
    return {"poll_ms": _milliseconds(seconds), "counts_after": done}


def measure_results(client: httpx2.Client, path: Path, database: Database) -> dict[str, object]:
    """From the commit of a result to when a program that looks several times a second has it.

    A worker commits a result within NIGHTSHIFT_MICRO_BATCH_S of its generation.
    """
    batch = create(client, upload(client, path), priority=100)
    seen_at: list[float] = []
    status = ""
    while status != "completed" or len(seen_at) < N_FOLLOWED:
        time.sleep(FOLLOW_PERIOD_S)
        found = client.get(f"/v1/batches/{batch}/results", params={"after": len(seen_at)})
        status = found.raise_for_status().headers["x-batch-status"]
        seen_at += [time.time()] * len(found.content.splitlines())
    committed_at = [
        commit.committed_at for commit in read_commits(database, batch) for _ in commit.idxs
    ]
    delays = [seen - done for seen, done in zip(seen_at, committed_at, strict=True)]
    return {
        "first_readable_before_last_committed_s": round(committed_at[-1] - seen_at[0], 1),
        "committed_to_readable_ms": _milliseconds(delays),
        "first_committed_to_readable_ms": round(delays[0] * 1000, 1),
    }


@dataclass(frozen=True, slots=True)
class Polled:
    """A batch as it was answered, and how long that took."""

    batch: dict[str, Any]
    seconds: float


def poll(client: httpx2.Client, batch: str) -> Polled:
    """Ask for the batch once."""
    began_s = time.perf_counter()
    answer = client.get(f"/v1/batches/{batch}")
    seconds = time.perf_counter() - began_s
    return Polled(answer.raise_for_status().json(), seconds)


def upload(client: httpx2.Client, path: Path) -> str:
    """The id of the uploaded file."""
    with path.open("rb") as stream:
        files, purpose = {"file": (path.name, stream)}, {"purpose": "batch"}
        answer = client.post("/v1/files", files=files, data=purpose)
    return str(answer.raise_for_status().json()["id"])


def create(client: httpx2.Client, file_id: str, priority: int = 0) -> str:
    """The id of a batch of it."""
    body = {
        "input_file_id": file_id,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "priority": priority,
    }
    answer = client.post("/v1/batches", json=body)
    return str(answer.raise_for_status().json()["id"])


@contextmanager
def _peak_memory(process: psutil.Process) -> Iterator[list[int]]:
    seen = [process.memory_info().rss]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            seen.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


@contextmanager
def _running(environment: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "--log-level", "warning", *arguments],
        env=environment,
        cwd=PROJECT,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def _runs(client: httpx2.Client, batch: str) -> bool:
    return bool(poll(client, batch).batch["status"] == "in_progress")


def _await(holds: Callable[[], bool], timeout_s: float = 300) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with suppress(httpx2.TransportError):  # the server is not up yet
            if holds():
                return
        time.sleep(0.1)
    raise TimeoutError("it did not come about in time")


def _milliseconds(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "median": round(statistics.median(ordered) * 1000, 1),
        "p95": round(ordered[int(len(ordered) * 0.95)] * 1000, 1),
        "most": round(ordered[-1] * 1000, 1),
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
