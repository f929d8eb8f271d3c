"""A session with the official `openai` client, unmodified: the program that a user would write.

`python client_session.py BASE_URL LOSSY_URL PROMPTS`; LOSSY_URL leads to the same server and loses
its first answer to a POST of a batch. Ends with an AssertionError when something is not as OpenAI's
own API has it. It runs with whichever version of the client is on the path, and knows nothing of
the project.
"""

from __future__ import annotations

import io
import json
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import openai
from openai import OpenAI

TERMINAL = {"completed", "failed", "expired", "cancelled"}
DEADLINE_S = 120
N_LISTED = 250


def main() -> None:
    direct, lossy = map(connect, sys.argv[1:3])
    prompts = Path(sys.argv[3])
    for step in (run_a_batch, hear_of_its_end, list_pages, cancel_a_batch, delete_files):
        take(step, direct, prompts)
    take(repeat_a_call, lossy, prompts)
    take(read_errors, direct, prompts)


def connect(base_url: str) -> OpenAI:
    return OpenAI(base_url=base_url, api_key="none", _strict_response_validation=True)


def take(step: Callable[[OpenAI, Path], None], client: OpenAI, prompts: Path) -> None:
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


def hear_of_its_end(client: OpenAI, prompts: Path) -> None:
    """A receiver is told of a batch's end, and the client verifies who told it.

    The previous client verifies as the newest one does, and has no method that registers.
    """
    with receiving() as (url, received):
        webhook: Any = client.post("/webhooks", cast_to=object, body={"url": url})
        batch = create(client, upload_one(client, prompts))
        headers, body = received.get(timeout=DEADLINE_S)
    secret = webhook["signing_secret"]
    event: Any = client.webhooks.unwrap(body, headers, secret=secret)
    assert (event.type, event.data.id) == ("batch.completed", batch.id)
    assert event.id == headers["webhook-id"]
    kind = openai.InvalidWebhookSignatureError
    refused(kind, lambda: client.webhooks.unwrap(body + b" ", headers, secret=secret))
    refused(kind, lambda: client.webhooks.unwrap(body, headers, secret="whsec_c2VjcmV0"))
    client.delete(f"/webhooks/{webhook['id']}", cast_to=object)


@contextmanager
def receiving() -> Iterator[tuple[str, queue.Queue[tuple[dict[str, str], bytes]]]]:
    """A receiver on this machine: its URL, and what it gets."""
    received: queue.Queue[tuple[dict[str, str], bytes]] = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            self.send_response(204)
            self.end_headers()
            received.put(({name.lower(): value for name, value in self.headers.items()}, body))

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/hook", received
        server.shutdown()


def list_pages(client: OpenAI, prompts: Path) -> None:
    """Every batch once, newest first, over several pages."""
    file_id = upload_one(client, prompts)
    created = [create(client, file_id).id for _ in range(N_LISTED)]
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


def repeat_a_call(client: OpenAI, prompts: Path) -> None:
    """The client sends a call again by itself when no answer came, and that makes one batch."""
    file_id = upload_one(client, prompts)
    made = create(client, file_id)
    newest = client.batches.list(limit=5).data
    assert [batch.id for batch in newest if batch.input_file_id == file_id] == [made.id]


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


def upload_one(client: OpenAI, prompts: Path) -> str:
    """The id of a file with one request."""
    line = prompts.read_bytes().splitlines()[0]
    return client.files.create(file=("one.jsonl", line), purpose="batch").id


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
