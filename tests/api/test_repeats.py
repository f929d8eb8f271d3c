"""A POST that the official client sends again by itself makes one batch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
from openai import OpenAI

from tests.api.losing import Losing, losing
from tests.api.running import Served

CHAT: Final = "/v1/chat/completions"
PATH = "/v1/batches"


@contextmanager
def client_over(proxy: Losing) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{proxy.url}/v1", api_key="none", _strict_response_validation=True
    ) as client:
        yield client


def uploaded(client: OpenAI) -> str:
    line = {"custom_id": "r0", "method": "POST", "url": CHAT, "body": {"model": "demo"}}
    content = json.dumps(line).encode()
    return client.files.create(file=("in.jsonl", content), purpose="batch").id


def create(client: OpenAI, file_id: str, **more: Any) -> str:
    return client.batches.create(
        input_file_id=file_id, endpoint=CHAT, completion_window="24h", **more
    ).id


def batches_of(served: Served, file_id: str) -> list[str]:
    listed = served.get(f"{PATH}?limit=100").json()["data"]
    return [batch["id"] for batch in listed if batch["input_file_id"] == file_id]


@pytest.mark.parametrize("delayed", [False, True], ids=["answer-lost", "both-at-once"])
def test_the_clients_own_repeat_makes_one_batch(served: Served, delayed: bool) -> None:
    with losing(served.server.url, PATH, delayed=delayed) as proxy, client_over(proxy) as client:
        file_id = uploaded(client)
        made = create(client, file_id)
        assert batches_of(served, file_id) == [made]
        counts = [call.headers["x-stainless-retry-count"] for call in proxy.calls]
        assert counts == ["0", "1"]
        assert {answer.json()["id"] for answer in proxy.answers} == {made}
        assert [answer.status_code for answer in proxy.answers] == [200, 200]
        again = create(client, file_id)  # which is meant
    assert batches_of(served, file_id) == [again, made]


@pytest.mark.parametrize("delayed", [False, True], ids=["answer-lost", "both-at-once"])
def test_a_repeat_with_requests_in_its_body_makes_one_file_too(
    served: Served, delayed: bool
) -> None:
    before = len(served.get("/v1/files").json()["data"])
    requests = {"requests": [{"custom_id": f"delayed-{delayed}"}], "input_file_id": None}
    with losing(served.server.url, PATH, delayed=delayed) as proxy, client_over(proxy) as client:
        made = create(client, "", extra_body=requests)
    assert {answer.json()["id"] for answer in proxy.answers} == {made}
    assert len(proxy.answers) == 2
    assert len(served.get("/v1/files").json()["data"]) == before + 1
