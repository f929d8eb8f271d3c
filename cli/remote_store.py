"""The commands' job store over HTTP: what the `nightshift` client has, and what OpenAI's API has.

Must not know the database.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, cast
from urllib.parse import quote

import httpx2

from cli.model_choice import split_name
from cli.submission import InputOptions
from cli.upload import open_upload
from models.errors import NightshiftError, QueueFull, UnavailableError
from models.model_key import ModelKey, choose_served
from models.settings import Settings
from models.states import ResultStatus
from nightshift import TERMINAL, Batch, Client, Json, Result

if TYPE_CHECKING:
    from cli.job_store import SubmitOrder

NO_WINDOW = "none"  # like a batch in the database: it does not expire


@contextmanager
def open_remote_store(settings: Settings) -> Iterator[RemoteStore]:
    """The server of the settings."""
    api_key = None if settings.api_key is None else settings.api_key.get_secret_value()
    with Client(settings.url, api_key) as client:
        yield RemoteStore(client, settings)


class RemoteStore:
    """A JobStore; the client stays the caller's to close."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self._client = client
        self._connection = client.connection
        self._settings = settings

    def batch(self, batch_id: str) -> Batch:
        """The batch as it stands."""
        return self._client.batch(batch_id)

    def newest(self, limit: int) -> list[Batch]:
        """The newest batches, newest first."""
        return list(self._connection.json("GET", "/v1/batches", params={"limit": limit})["data"])

    def canaries(self) -> list[Json]:
        """What the server tells."""
        return self._client.canaries()

    def await_end(self, batch_id: str, timeout_s: float | None) -> Batch:
        """Let the server say when the batch has ended."""
        return self._client.wait(
            batch_id, timeout_s=float("inf") if timeout_s is None else timeout_s
        )

    def submit(self, given: InputOptions, order: SubmitOrder) -> Batch:
        """Upload the file and create a batch of it; a file that makes no batch is deleted."""
        key = self._find_key(order)
        with open_upload(self._settings, given, *key) as upload:
            parts = {"file": (upload.name, upload.stream, "application/jsonl")}
            path, purpose = "/v1/files", {"purpose": "batch"}
            file_id = self._connection.json("POST", path, data=purpose, files=parts)["id"]
            try:
                batch = self._create(file_id, upload.endpoint, order)
            except NightshiftError as exc:
                if isinstance(exc, QueueFull) or not isinstance(exc, UnavailableError):
                    self._delete(file_id)  # otherwise the batch may exist, which needs the file
                raise
        if batch["input_file_id"] != file_id:  # this was submitted before
            self._delete(file_id)
        return batch

    def lines(self, batch: Batch, status: ResultStatus) -> Iterator[Json]:
        """The batch's file when it has ended, and before what is there, put in order."""
        if batch["status"] not in TERMINAL:
            return _in_input_order(
                line
                for result in self._client.follow(batch["id"], to_end=False)
                for line in _with_status(result, status)
            )
        file_id = batch["output_file_id" if status == ResultStatus.OK else "error_file_id"]
        return iter(()) if file_id is None else self._content(file_id)

    def follow(self, batch: Batch, status: ResultStatus) -> Iterator[Json]:
        """The lines as they come."""
        for result in self._client.follow(batch["id"]):
            yield from _with_status(result, status)

    def cancel(self, batch_id: str) -> Batch:
        """Cancel it there."""
        path = f"/v1/batches/{quote(batch_id, safe='')}/cancel"
        return cast("Batch", self._connection.json("POST", path, repeatable=True))

    def retry(self, batch_id: str) -> Batch:
        """Retry it there."""
        return self._client.retry(batch_id)

    def pause(self, batch_id: str) -> Batch:
        """Pause it there."""
        return self._client.pause(batch_id)

    def resume(self, batch_id: str) -> Batch:
        """Resume it there."""
        return self._client.resume(batch_id)

    def _find_key(self, order: SubmitOrder) -> tuple[ModelKey, bool]:
        """The model as the server has it, and whether its name alone is enough there."""
        found = self._connection.json("GET", "/v1/models")["data"]
        known = [ModelKey.parse(model["id"]) for model in found]
        key = choose_served(known, *split_name(order.model, order.weights))
        return key, sum(other.name == key.name for other in known) == 1

    def _create(self, file_id: str, endpoint: str, order: SubmitOrder) -> Batch:
        asked = {
            "input_file_id": file_id,
            "endpoint": endpoint,
            "completion_window": NO_WINDOW,
            "priority": order.priority,
        }
        key = order.idempotency_key or f"submit-{uuid.uuid4().hex}"
        headers = {"idempotency-key": key}  # so that it can be sent again
        options = {"json": asked, "headers": headers, "repeatable": True}
        return cast("Batch", self._connection.json("POST", "/v1/batches", **options))

    def _delete(self, file_id: str) -> None:
        with suppress(NightshiftError):  # what it costs is space
            self._connection.request("DELETE", f"/v1/files/{file_id}", repeatable=True)

    def _content(self, file_id: str) -> Iterator[Json]:
        answer = self._connection.request("GET", f"/v1/files/{file_id}/content", stream=True)
        rest = b""
        with closing(answer):
            try:
                for piece in answer.iter_bytes():
                    *lines, rest = (rest + piece).split(b"\n")
                    yield from map(json.loads, lines)
            except httpx2.TransportError as exc:
                raise self._connection.away(f"broke off ({exc})") from exc


def _with_status(result: Result, status: ResultStatus) -> Iterator[Json]:
    if result.is_answer == (status == ResultStatus.OK):
        yield result.line


def _in_input_order(lines: Iterator[Json]) -> Iterator[Json]:
    """The lines by their number in the input, which ends their id; kept on the disk meanwhile."""
    with TemporaryFile() as spool:
        places: list[tuple[int, int]] = []
        for line in lines:
            places.append((int(line["id"].rpartition("_")[2]), spool.tell()))
            spool.write(json.dumps(line).encode() + b"\n")
        for _, place in sorted(places):
            spool.seek(place)
            yield json.loads(spool.readline())
