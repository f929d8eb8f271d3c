"""docs/api.md: every endpoint, from the application's own OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import create_engine

from api.app import create_app
from models.database import Database
from models.settings import load_settings

_INTRO = """\
# HTTP API

`nightshift serve` speaks OpenAI's Batch API: a script written for it runs by changing the base URL.
The whole document with all fields is at `/openapi.json`, and readable at `/docs`.

```python
from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="ns_…")
file = client.files.create(file=open("prompts.jsonl", "rb"), purpose="batch")
batch = client.batches.create(
    input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
)
```

Then `client.batches.retrieve(batch.id)` until its `status` is `completed`, and
`client.files.content(batch.output_file_id)`. The tests run such a program with the newest `openai`
client and with the last of the major version before.

## What differs from OpenAI's API

- `completion_window` may be `1h` to `30d`. A batch past it expires and keeps what is done.
- `priority` (-100 to 100, higher first) orders the batches of one tenant; of equal ones the batch
  whose window ends earlier comes first.
- Lines may also have the plain form of [input formats](input-formats.md). One line that cannot be
  used never fails the batch: it ends in the error file.
- The model of a batch is the one that its first request names, `name` or `name:weights`.
- The output's order is that of the input. A file exists when it would have a line.
- What is ours in an answer stands under `nightshift`.
- Fields that are not understood are refused by name, never ignored.

## What OpenAI's API has not

- `GET /v1/batches/{id}/results?after=0` gives results while the batch runs, as lines with a
  `cursor`. Go on with `after` as the header `x-next-cursor` says; when there is no line and
  `x-batch-status` is final, that was all. Results come in the order of their commits, so none
  appears behind a cursor.
- `GET /v1/batches/{id}?wait=60` answers when the batch has ended, `GET /v1/batches/{id}/events`
  tells every change as a Server-Sent Event.
- `POST /v1/batches` takes `requests` instead of a file, up to 16 MiB of them.
- `POST /v1/batches/{id}/retry` runs again what failed, or with `{"error_codes": […]}` what failed
  for these reasons. `pause` and `resume` stop a batch between two chunks and let it go on.
- `GET /v1/batches/{id}/manifest` accounts for an ended batch: counts of its rows, made anew, and
  digests of its files.

A POST that makes a batch may be sent again: with an `idempotency-key`, or as the official client
does it, with `x-stainless-retry-count`, the answer is the batch of the first attempt.

## Keys and limits

`Authorization: Bearer ns_…`, with a key that [`nightshift key create`](deployment.md#api-keys)
has printed; on the loopback address over SQLite no key is asked for, unless `serve` was started
with `--keys`. A key belongs to a tenant and shows what belongs to it: another tenant's batch,
file or webhook is not found (404). Without a usable key the answer is 401 `invalid_api_key`,
without the scope 403 `missing_scope`: GET needs `read`, everything else, estimates too, needs
`write`.

| a key may have a limit of | beyond it | `retry-after` |
| --- | --- | --- |
| calls within a minute | 429 `rate_limit_exceeded` | the seconds until there is room for one |
| requests that wait or run | 429 `queue_full` for a new batch or a retry | 60 |
| bytes of stored files | 429 `queue_full` for an upload, a new batch or a retry | 60 |

`queue_full` also has `x-should-retry: false`: room comes with the end of a batch, which is later
than the two repeats of the official client. `/health`, `/ready`, `/docs`, `/openapi.json` and
`/metrics` need no key.

## Errors

Every error is `{"error": {"message", "type", "param", "code"}}`, with the header
`x-request-id`, which the log has too. While the database is away the answer is 503 with
`retry-after`.

## Endpoints

"""


def api_page() -> str:
    """The page."""
    database = Database(create_engine("sqlite://"))  # nothing is asked of it
    document = create_app(load_settings({}), database).openapi()
    rows = "".join(
        f"| `{method} {path}` | {summary} |\n" for method, path, summary in _rows(document)
    )
    return f"{_INTRO}| endpoint | what it does |\n| --- | --- |\n{rows}"


def _rows(document: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for path, operations in sorted(document["paths"].items()):
        for method, operation in operations.items():
            summary = " ".join(operation["description"].split("\n\n")[0].split())
            yield method.upper(), path, summary
