"""The client: one method for each thing that a Nightshift server does beyond OpenAI's API."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self, cast
from urllib.parse import quote

import httpx2

from models.errors import SettingsError
from nightshift.connection import TRIES, Connection
from nightshift.shapes import TERMINAL, Batch, Json, Result

_PAGE = 500  # results of one answer at most
_PERIOD_S = 1.0  # between two looks at a batch that runs
_MAX_HOLD_S = 60.0  # that the server lets wait at once
_COUNTING = httpx2.Timeout(600.0, connect=10.0)  # for an answer that needs every line of a batch
_TRIES = 20  # after a first answer: a restart of the server may take a minute


class Client:
    """Speaks to the server at `url`, else NIGHTSHIFT_URL, with `api_key`, else NIGHTSHIFT_API_KEY.

    Close it, or use it in a `with` block. Every method raises NightshiftError.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        if not (url := url or os.environ.get("NIGHTSHIFT_URL")):
            raise SettingsError("no server is named: give Client(URL), or set NIGHTSHIFT_URL")
        api_key = api_key or os.environ.get("NIGHTSHIFT_API_KEY") or None
        self.connection = Connection(url, api_key, transport)
        self.close = self.connection.close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def batch(self, batch_id: str) -> Batch:
        """The batch as it stands."""
        return self._batch("GET", batch_id)

    def wait(
        self,
        batch_id: str,
        *,
        timeout_s: float = float("inf"),
        period_s: float = 5.0,
        on_progress: Callable[[Batch], object] = lambda _: None,
    ) -> Batch:
        """The batch when it has ended, or as it stands after `timeout_s`.

        `on_progress` is called with it every `period_s`, and every minute at least. A restart of
        the server does no harm.
        """
        end_s, tries = time.monotonic() + timeout_s, TRIES
        while True:
            asked_s = time.monotonic()
            # The server answers that late.
            hold_s = int(max(0.0, min(period_s, end_s - asked_s, _MAX_HOLD_S)))
            options: Json = {"params": {"wait": hold_s}, "timeout": 60.0 + hold_s}
            batch = self._batch("GET", batch_id, tries=tries, **options)
            tries = _TRIES
            on_progress(batch)
            now_s = time.monotonic()
            if batch["status"] in TERMINAL or now_s >= end_s:
                return batch
            time.sleep(max(0.0, min(asked_s + _PERIOD_S, end_s) - now_s))

    def follow(self, batch_id: str, *, after: int = 0, to_end: bool = True) -> Iterator[Result]:
        """Every result when it comes, each once, until the batch has ended.

        Goes on over lost connections and a restart of the server. With `to_end` false only what
        is there now.
        """
        path, tries = _path(batch_id, "/results"), TRIES
        while True:
            asked = {"after": after, "limit": _PAGE}
            answer = self.connection.request("GET", path, params=asked, tries=tries)
            tries = _TRIES
            lines = [json.loads(line) for line in answer.content.splitlines()]
            for line in lines:
                after = line.pop("cursor")
                yield Result(after, line["custom_id"], line)
            # The status is from before the results were looked for: no more will come.
            is_over = not to_end or answer.headers["x-batch-status"] in TERMINAL
            if is_over and not lines:
                return
            if not is_over and len(lines) < _PAGE:
                time.sleep(_PERIOD_S)

    def retry(self, batch_id: str, *, error_codes: Sequence[str] | None = None) -> Batch:
        """A new batch of the requests that failed: of all, or of those with one of the codes."""
        asked = {} if error_codes is None else {"error_codes": list(error_codes)}
        key = {"idempotency-key": f"retry-{uuid.uuid4().hex}"}  # so that it can be sent again
        return self._batch("POST", batch_id, "/retry", json=asked, headers=key, repeatable=True)

    def pause(self, batch_id: str) -> Batch:
        """Start nothing more of the batch for now."""
        return self._batch("POST", batch_id, "/pause", repeatable=True)

    def resume(self, batch_id: str) -> Batch:
        """Go on with a paused batch."""
        return self._batch("POST", batch_id, "/resume", repeatable=True)

    def manifest(self, batch_id: str) -> Json:
        """Counts and digests that prove that every request has ended exactly once."""
        return self.connection.json("GET", _path(batch_id, "/manifest"), timeout=_COUNTING)

    def estimate(self, asked: Json) -> Json:
        """What a batch would cost: give what would create it; nothing is submitted."""
        options: Json = {"json": asked, "timeout": _COUNTING, "repeatable": True}
        return self.connection.json("POST", "/v1/batches:estimate", **options)

    def workers(self) -> list[Json]:
        """Every worker that has not left, with its speed, its memory and what it works on."""
        return list(self.connection.json("GET", "/v1/workers")["data"])

    def canaries(self) -> list[Json]:
        """Every model's newest canary: exact answers and speed, beside what was usual before."""
        return list(self.connection.json("GET", "/v1/canaries")["data"])

    def _batch(self, method: str, batch_id: str, path: str = "", **options: Any) -> Batch:
        return cast("Batch", self.connection.json(method, _path(batch_id, path), **options))


def _path(batch_id: str, rest: str) -> str:
    return f"/v1/batches/{quote(batch_id, safe='')}{rest}"
