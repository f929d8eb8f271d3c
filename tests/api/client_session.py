"""A session with the official `openai` client, unmodified: the program that a user would write.

`python client_session.py BASE_URL PROMPTS`; ends with an AssertionError when something is not as
OpenAI's own API has it. It runs with whichever version of the client is on the path, and knows
nothing of the project.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
from openai import OpenAI

TERMINAL = {"completed", "failed", "expired", "cancelled"}
DEADLINE_S = 120
N_LISTED = 250


def main() -> None:
    base_url, prompts = sys.argv[1], Path(sys.argv[2])
    client = OpenAI(base_url=base_url, api_key="none", _strict_response_validation=True)
    for step in (run_a_batch, list_pages, cancel_a_batch, delete_files, read_errors):
        step(client, prompts)
        sys.stdout.write(f"{step.__name__} with openai {openai.__version__}\n")


def run_a_batch(client: OpenAI, prompts: Path) -> None:
    """Upload, create, poll, download output and errors."""
    lines = prompts.read_text(encoding="utf-8").splitlines()
    refused = {"custom_id": "bad", "method": "POST", "url": "/v1/chat/completions", "body": {}}
    content = "\n".join([*lines, json.dumps(refused)]).encode()
    file = client.files.create(file=("prompts.jsonl", content), purpose="batch")
    assert (file.filename, file.bytes, file.status) == ("prompts.jsonl", len(content), "processed")
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).content == content
    batch = create(client, file.id, metadata={"team": "nlp"})
    assert batch.output_file_id is None
    batch = poll(client, batch.id)
    assert batch.status == "completed", batch
    counts = batch.request_counts
    assert counts is not None
    assert (counts.total, counts.completed, counts.failed) == (len(lines) + 1, len(lines), 1)
    assert batch.metadata == {"team": "nlp"}
    assert batch.usage is not None and batch.usage.output_tokens > 0
    check_lines(client, batch, [json.loads(line)["custom_id"] for line in lines])


def check_lines(client: OpenAI, batch: Any, wanted: list[str]) -> None:
    """The output and error files hold every request once, and are files like others."""
    content = client.files.content(batch.output_file_id)
    answers = [json.loads(line) for line in content.iter_lines()]
    assert [answer["custom_id"] for answer in answers] == wanted
    choice = answers[0]["response"]["body"]["choices"][0]
    assert choice["message"]["role"] == "assistant" and choice["finish_reason"] == "stop"
    errors = client.files.content(batch.error_file_id).text.splitlines()
    (error,) = (json.loads(line) for line in errors)
    assert error["custom_id"] == "bad" and error["response"]["status_code"] == 400
    described = client.files.retrieve(batch.output_file_id)
    assert described.purpose == "batch_output"
    assert described.bytes == len(client.files.content(batch.output_file_id).content)


def list_pages(client: OpenAI, prompts: Path) -> None:
    """Every batch once, newest first, over several pages."""
    line = prompts.read_bytes().splitlines()[0]
    file = client.files.create(file=("one.jsonl", line), purpose="batch")
    created = [create(client, file.id).id for _ in range(N_LISTED)]
    listed = [batch.id for batch in client.batches.list(limit=100)]
    assert listed[:N_LISTED] == created[::-1]
    assert len(listed) == len(set(listed)) > N_LISTED
    first = client.batches.list(limit=7)
    assert len(first.data) == 7 and first.has_more
    models = [model.id for model in client.models.list()]
    assert "demo-model:int8" in models


def cancel_a_batch(client: OpenAI, prompts: Path) -> None:
    """Cancelling keeps what is done, and twice is once."""
    lines = [json.loads(line) for line in prompts.read_text(encoding="utf-8").splitlines()]
    numbered = ({**line, "custom_id": f"r{n}"} for n, line in enumerate(lines * 20))
    content = "\n".join(json.dumps(line) for line in numbered).encode()
    file = client.files.create(file=("many.jsonl", content), purpose="batch")
    batch = create(client, file.id)
    cancelled = client.batches.cancel(batch.id)
    assert cancelled.status in {"cancelling", "cancelled"}
    assert client.batches.cancel(batch.id).status in {"cancelling", "cancelled"}
    batch = poll(client, batch.id)
    assert batch.status == "cancelled" and batch.cancelled_at is not None


def delete_files(client: OpenAI, prompts: Path) -> None:
    """What is deleted is gone, for the client too."""
    file = client.files.create(
        file=prompts,
        purpose="batch",
        extra_body={"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"},
    )
    assert file.expires_at == file.created_at + 3600
    assert file.id in [listed.id for listed in client.files.list(limit=2)]
    assert client.files.delete(file.id).deleted
    refused(openai.NotFoundError, lambda: client.files.retrieve(file.id))
    refused(openai.NotFoundError, lambda: client.files.content(file.id))
    refused(openai.NotFoundError, lambda: create(client, file.id))


def read_errors(client: OpenAI, _prompts: Path) -> None:
    """Errors come as the client's own classes, with the envelope's code and parameter."""
    error = refused(openai.NotFoundError, lambda: client.batches.retrieve("batch_none"))
    assert error.code == "not_found"
    empty = ("x.jsonl", io.BytesIO(b""))
    error = refused(
        openai.BadRequestError, lambda: client.files.create(file=empty, purpose="batch")
    )
    assert (error.code, error.param) == ("empty_file", "file")
    assert error.response.headers["x-request-id"]


def create(client: OpenAI, file_id: str, **more: Any) -> Any:
    return client.batches.create(
        input_file_id=file_id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        **more,
    )


def poll(client: OpenAI, batch_id: str) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while (batch := client.batches.retrieve(batch_id)).status not in TERMINAL:
        assert time.monotonic() < deadline, f"{batch_id} is still {batch.status}"
        time.sleep(0.2)
    return batch


def refused(kind: type[Any], call: Callable[[], object]) -> Any:
    """The error that the call ends with."""
    try:
        call()
    except kind as exc:
        return exc
    raise AssertionError(f"no {kind.__name__}")


if __name__ == "__main__":
    main()
