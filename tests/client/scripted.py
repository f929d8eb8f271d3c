"""A server that answers from a list, for what a real one does only when it breaks.

Also the shapes of answers that the tests need.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import httpx2

from nightshift import Client

Answer = httpx2.Response | Exception
URL = "http://server.example"


@dataclass
class Script:
    """What to answer, in this order, and what was asked."""

    answers: list[Answer]
    asked: list[httpx2.Request] = field(default_factory=list)

    def client(self, api_key: str | None = None) -> Client:
        """A client that speaks to this script."""
        return Client(URL, api_key, transport=httpx2.MockTransport(self._answer))

    @property
    def paths(self) -> list[str]:
        """What was asked, as `GET /v1/…?…`."""
        return [f"{each.method} {each.url.raw_path.decode()}" for each in self.asked]

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def answer(value: object, status: int = 200, **headers: str) -> httpx2.Response:
    """JSON."""
    return httpx2.Response(status, json=value, headers=headers)


def refusal(
    status: int, message: str = "no", code: str | None = None, **headers: str
) -> httpx2.Response:
    """An error in OpenAI's envelope."""
    error = {"message": message, "type": "t", "param": None, "code": code}
    return answer({"error": error}, status, **headers)


def batch(status: str = "in_progress", **fields: object) -> dict[str, object]:
    """A batch, as far as the client looks at it."""
    return {"id": "batch_1", "status": status, "model": "demo", **fields}


def result(cursor: int, *, status_code: int = 200) -> dict[str, object]:
    """One line of a page of results; the input's order is the reverse of that of coming."""
    response = {"status_code": status_code, "request_id": "req_1", "body": {}}
    line = {"id": f"batch_req_1_{100 - cursor}", "custom_id": f"r{cursor}", "response": response}
    return {**line, "error": None, "cursor": cursor}


def page(status: str, *lines: dict[str, object], after: int = 0) -> httpx2.Response:
    """Results as NDJSON."""
    cursor = str(lines[-1]["cursor"] if lines else after)
    headers = {"x-batch-status": status, "x-next-cursor": cursor}
    return httpx2.Response(
        200, text="".join(f"{json.dumps(line)}\n" for line in lines), headers=headers
    )
