"""`python -m benchmarks.http_api [DATABASE_URL]`: how the HTTP API bears a large file and a load.

Uploads and validates a file of 200 MB with 50,000 requests while it watches the server's memory,
then polls a batch while three of 50,000 run. Prints one JSON document. Without a URL it makes an
SQLite database of its own; the schema of another one must be there and empty.
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
from functools import partial
from pathlib import Path

import httpx2
import psutil

from benchmarks.prepare import DEMO_MODEL, PROJECT

N_REQUESTS = 50_000
LARGE_FILE_BYTES = 200 << 20
N_BATCHES = 3
N_POLLS = 300
MIB = 1 << 20


def main() -> None:
    """Measure everything."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        environment = {**os.environ, "NIGHTSHIFT_HOME": name}
        if len(sys.argv) > 1:
            environment["NIGHTSHIFT_DATABASE_URL"] = sys.argv[1]
        command = [sys.executable, "-m", "cli", "model", "add", str(DEMO_MODEL)]
        subprocess.run([*command, "--weights", "int8"], env=environment, cwd=PROJECT, check=True)
        large = write_file(home / "large.jsonl", LARGE_FILE_BYTES // N_REQUESTS)
        small = write_file(home / "small.jsonl", 0)
        port = _free_port()
        with _running(environment, "serve", "--no-keys", "--port", str(port)) as server:
            url = f"http://127.0.0.1:{port}"
            _await(lambda: httpx2.get(f"{url}/ready").is_success)
            with _running(environment, "worker", "--model", "demo-model", "--threads", "1"):
                _await(lambda: bool(httpx2.get(f"{url}/v1/models").json()["data"]))
                figures = {
                    "large_file": measure_large(url, large, psutil.Process(server.pid)),
                    "polls": measure_polls(url, small),
                }
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")


def write_file(path: Path, line_bytes: int) -> Path:
    """A file of short answers to prompts that fill up lines of `line_bytes`."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(N_REQUESTS):
            messages = [{"role": "user", "content": f"What is {number} + 1?"}]
            body = {"model": "demo-model", "messages": messages, "max_tokens": 4}
            start = {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions"}
            line = json.dumps({**start, "body": body})
            if len(line) < line_bytes - 1:
                messages[0]["content"] += " " + "x" * (line_bytes - len(line) - 2)
                line = json.dumps({**start, "body": body})
            file.write(line + "\n")
    return path


def measure_large(url: str, path: Path, server: psutil.Process) -> dict[str, object]:
    """Seconds and memory of uploading and of validating; the batch is cancelled then."""
    before = server.memory_info().rss
    with _peak_memory(server) as peak:
        began_s = time.perf_counter()
        file_id = upload(url, path)
        upload_s = time.perf_counter() - began_s
        upload_peak = max(peak)
        batch = create(url, file_id)
        seconds = []
        while (found := httpx2.get(f"{url}/v1/batches/{batch}").json())["status"] == "validating":
            began_poll_s = time.perf_counter()
            httpx2.get(f"{url}/v1/batches/{batch}")
            seconds.append(time.perf_counter() - began_poll_s)
            time.sleep(0.1)
        validate_s = time.perf_counter() - began_s - upload_s
    assert found["request_counts"]["total"] == N_REQUESTS, found
    httpx2.post(f"{url}/v1/batches/{batch}/cancel", timeout=120)
    return {
        "bytes": path.stat().st_size,
        "upload_s": round(upload_s, 1),
        "validate_s": round(validate_s, 1),
        "upload_memory_growth_mib": round((upload_peak - before) / MIB, 1),
        "memory_growth_mib": round((max(peak) - before) / MIB, 1),
        "poll_while_validating_ms": _milliseconds(seconds),
    }


def measure_polls(url: str, path: Path) -> dict[str, object]:
    """Milliseconds of a status poll while the batches run."""
    batches = [create(url, upload(url, path)) for _ in range(N_BATCHES)]
    for batch in batches:
        _await(partial(_runs, url, batch))
    seconds = []
    with httpx2.Client() as client:
        for number in range(N_POLLS):
            began_s = time.perf_counter()
            client.get(f"{url}/v1/batches/{batches[number % N_BATCHES]}").raise_for_status()
            seconds.append(time.perf_counter() - began_s)
            time.sleep(0.05)
    done = [httpx2.get(f"{url}/v1/batches/{batch}").json()["request_counts"] for batch in batches]
    return {"poll_ms": _milliseconds(seconds), "counts_after": done}


def upload(url: str, path: Path) -> str:
    """The id of the uploaded file."""
    with path.open("rb") as stream:
        answer = httpx2.post(
            f"{url}/v1/files",
            files={"file": (path.name, stream)},
            data={"purpose": "batch"},
            timeout=600,
        )
    return str(answer.raise_for_status().json()["id"])


def create(url: str, file_id: str) -> str:
    """The id of a batch of it."""
    body = {
        "input_file_id": file_id,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    answer = httpx2.post(f"{url}/v1/batches", json=body, timeout=120)
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


def _runs(url: str, batch: str) -> bool:
    found: dict[str, object] = httpx2.get(f"{url}/v1/batches/{batch}").json()
    return found["status"] == "in_progress"


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
