"""An estimate counts what the engine would count, and submits nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from models.generation import ChatMessage
from models.model_key import ModelKey, Weights
from models.store.model_files import keep_model_files
from models.store.views import ServedModel
from models.store.workers import register_model
from tests.api.live import live_server, live_worker
from tests.api.running import Json, Served, error_of
from tests.cli.console import Console
from tests.servers import wait_until
from tests.store.builders import CHAT, MODEL
from tests.store.test_files import upload
from worker.llm.registry import Registry
from worker.llm.resolved_tokenizer import kept_files
from worker.llm.tokenizer import Tokenizer

CONTEXT_TOKENS = 64
QUESTIONS = ("What is 3 plus 4?", "What is the capital of France?", "Grüße aus Köln 🙂 日本語", "")


@pytest.fixture(scope="module")
def artifact(models_home: Path) -> Path:
    return Registry(models_home / "registry").path(ModelKey("demo-model", Weights.INT8))


@pytest.fixture
def ready(served: Served, artifact: Path) -> Served:
    """A server that knows the demo model's tokenizer as `demo:int8`."""
    model = ServedModel(
        key=MODEL,
        artifact="0" * 64,
        architecture="LlamaForCausalLM",
        context_tokens=CONTEXT_TOKENS,
        max_new_tokens=20,
    )
    keep_model_files(served.database, MODEL, model.artifact, kept_files(artifact))
    register_model(served.database, model)
    return served


def line(number: int, *contents: str, **body: Any) -> Json:
    turns = [{"role": ("user", "assistant")[n % 2], "content": c} for n, c in enumerate(contents)]
    whole = {"model": "demo", "messages": turns, "temperature": 0, **body}
    return {"custom_id": f"r{number}", "method": "POST", "url": CHAT, "body": whole}


def estimate(served: Served, requests: list[Json]) -> Json:
    """The same whether the requests are given here or uploaded."""
    inline = served.post("/v1/batches:estimate", {"requests": requests})
    assert inline.status_code == 200, inline.text
    content = "".join(f"{json.dumps(request)}\n" for request in requests).encode()
    file = upload(served.database, content)
    uploaded = served.post("/v1/batches:estimate", {"input_file_id": file.id})
    assert uploaded.json() == inline.json()
    return dict(inline.json())


def test_tokens_are_those_of_the_models_own_tokenizer(ready: Served, artifact: Path) -> None:
    tokenizer = Tokenizer.load(artifact)
    turns = (
        ChatMessage(role="user", content=QUESTIONS[0]),
        ChatMessage(role="assistant", content="7"),
        ChatMessage(role="user", content=QUESTIONS[2]),
    )
    chats = [(ChatMessage(role="user", content=question),) for question in QUESTIONS]
    counts = [len(tokenizer.encode_chat(chat)) for chat in (*chats, turns)]
    requests = [line(n, question) for n, question in enumerate(QUESTIONS)]
    told = estimate(ready, [*requests, line(9, *(turn.content for turn in turns), max_tokens=4)])
    assert told["model"] == "demo:int8"
    assert told["requests"] == {"total": 5, "accepted": 5, "refused": 0, "duplicates": 0}
    assert told["tokens"] == {
        "prompt": sum(counts),
        "longest_prompt": max(counts),
        "context": CONTEXT_TOKENS,
        "output_at_most": 4 * 20 + 4,
    }


def test_what_would_be_refused_is_told(ready: Served) -> None:
    told = estimate(
        ready,
        [
            line(0, QUESTIONS[0]),
            line(1, "word " * CONTEXT_TOKENS),
            line(2, QUESTIONS[0], stream=True),
            line(0, QUESTIONS[0]),
            line(4, "word " * CONTEXT_TOKENS),
        ],
    )
    assert told["requests"]["accepted"] == 1
    assert told["refusals"][0] == {"code": "context_length_exceeded", "count": 2}
    assert {refusal["code"] for refusal in told["refusals"]} == {
        "context_length_exceeded",
        "unsupported_parameter",
        "duplicate_custom_id",
    }
    first = told["refused"][0]
    assert (first["line"], first["custom_id"], first["param"]) == (2, "r1", "messages")
    assert first["message"].startswith("line 2: the model's context holds 64 tokens")


def test_equal_requests_are_found(ready: Served) -> None:
    told = estimate(
        ready,
        [
            *(line(n, QUESTIONS[0]) for n in range(4)),
            line(4, QUESTIONS[0], max_tokens=3),
            line(5, QUESTIONS[1]),
        ],
    )
    assert told["requests"]["duplicates"] == 3


def test_a_time_is_told_when_the_model_was_measured(served: Served, ready: Served) -> None:
    from tests.store.builders import submit

    requests = [line(n, QUESTIONS[0]) for n in range(3)]
    unknown = estimate(ready, requests)["time"]
    if unknown["seconds"] is None:
        assert "no worker" in unknown["reason"]
    measured = submit(served.database, 24)
    for _ in range(3):
        served.answer_chunk(measured.id)
    waiting = submit(served.database, 10)
    told = estimate(ready, requests)["time"]
    assert told["reason"] is None
    assert told["output_tokens_per_request"] == 2  # what the builders answer
    assert told["seconds"] > 0
    assert told["queue_seconds"] > 0
    served.end(waiting.id)
    assert estimate(ready, requests)["time"]["queue_seconds"] == 0


def test_nothing_is_submitted(ready: Served) -> None:
    before = [ready.get(path).json() for path in ("/v1/batches", "/v1/files")]
    answer = ready.post("/v1/batches:estimate", {"requests": [line(0, QUESTIONS[0])]})
    assert answer.status_code == 200
    assert [ready.get(path).json() for path in ("/v1/batches", "/v1/files")] == before


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, (400, "invalid_value", None)),
        ({"input_file_id": "file-none"}, (404, "not_found", "input_file_id")),
        ({"requests": [line(0, "x", model="other")]}, (404, "model_not_found", "model")),
        ({"requests": [{}]}, (404, "model_not_found", "model")),
        ({"requests": [line(0, "x")], "endpoint": "/v1/x"}, (400, "invalid_value", "endpoint")),
    ],
)
def test_what_cannot_be_estimated_is_told(
    ready: Served, body: Json, expected: tuple[int, str, str | None]
) -> None:
    assert error_of(ready.post("/v1/batches:estimate", body)) == expected


def test_a_model_whose_tokenizer_is_not_known_is_told(served: Served) -> None:
    key = ModelKey("bare", Weights.INT4)
    register_model(
        served.database,
        ServedModel(key=key, artifact="1" * 64, architecture="x", context_tokens=64),
    )
    answer = served.post("/v1/batches:estimate", {"requests": [line(0, "x", model="bare")]})
    assert error_of(answer) == (409, "tokenizer_unknown", "model")


def test_a_worker_counts_the_same(demo_console: Console) -> None:
    """From an estimate before the first worker has started to the tokens of the batch itself."""
    requests = [
        line(n, question, model="demo-model", max_tokens=2) for n, question in enumerate(QUESTIONS)
    ]
    body = {"requests": requests, "endpoint": CHAT, "completion_window": "24h"}
    with live_server(demo_console) as server:
        told = httpx2.post(f"{server.url}/v1/batches:estimate", json=body, timeout=60).json()
        batch = httpx2.post(f"{server.url}/v1/batches", json=body).json()

        def now() -> Json:
            return dict(
                httpx2.get(f"{server.url}/v1/batches/{batch['id']}?wait=5", timeout=60).json()
            )

        with live_worker(demo_console, server):
            wait_until(lambda: now()["status"] == "completed", "the batch is completed")
        ended = now()
    assert ended["usage"]["input_tokens"] == told["tokens"]["prompt"] > 0
    assert ended["usage"]["output_tokens"] <= told["tokens"]["output_at_most"] == 8
    assert ended["request_counts"]["completed"] == told["requests"]["accepted"] == 4
