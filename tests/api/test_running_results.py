"""A real worker's results are readable long before its batch has ended."""

from __future__ import annotations

import json

import httpx2

from tests.api.live import live_server, live_worker
from tests.cli.console import Console
from tests.cli.demo import long_requests
from tests.servers import wait_until
from tests.store.builders import CHAT

N_REQUESTS = 2000  # of 60 tokens: much more than 5 seconds of work


def test_results_come_while_most_requests_still_wait(demo_console: Console) -> None:
    requests = [{**request, "model": "demo-model"} for request in long_requests(N_REQUESTS)]
    asked = {"requests": requests, "endpoint": CHAT, "completion_window": "24h"}
    with live_server(demo_console) as server, live_worker(demo_console, server):
        batch = httpx2.post(f"{server.url}/v1/batches", json=asked, timeout=60).json()
        url = f"{server.url}/v1/batches/{batch['id']}"
        seen: list[str] = []
        pages = 0

        def read_on() -> bool:
            """Whether results came three times, the batch always going on."""
            nonlocal pages
            answer = httpx2.get(f"{url}/results", params={"after": len(seen)})
            assert answer.headers["x-batch-status"] in {"validating", "in_progress"}
            lines = [json.loads(line) for line in answer.content.splitlines()]
            assert {line["response"]["status_code"] for line in lines} <= {200}
            seen.extend(line["custom_id"] for line in lines)
            pages += bool(lines)
            return pages == 3

        wait_until(read_on, "results came three times")
        now = httpx2.get(url).json()
        assert now["status"] == "in_progress"
        assert len(seen) <= now["request_counts"]["completed"] < N_REQUESTS / 2
        httpx2.post(f"{url}/cancel")
    assert len(set(seen)) == len(seen)
