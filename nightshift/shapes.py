"""What a server answers; fields of the wire that nobody needs here are left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypedDict

Json = dict[str, Any]

TERMINAL: Final = frozenset({"completed", "failed", "cancelled", "expired"})


class Batch(TypedDict):
    """A batch; it has ended when its status is one of TERMINAL. Times are Unix seconds."""

    id: str
    endpoint: str
    model: str | None
    errors: Json | None
    input_file_id: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelled_at: int | None
    request_counts: dict[str, int]  # total, completed, failed
    usage: Json
    metadata: dict[str, str]
    nightshift: Json  # eta_seconds, tokens_per_second, weights, paused


@dataclass(frozen=True, slots=True)
class Result:
    """How one request ended; `line` is its line of the output or error file.

    `cursor` counts the batch's results up to this one: give it as `after` to go on behind it.
    """

    cursor: int
    custom_id: str | None
    line: Json

    @property
    def is_answer(self) -> bool:
        """Whether the model answered; `line` tells the error otherwise."""
        response = self.line["response"]
        return response is not None and response["status_code"] == 200
