"""Whether a call was sent before: what the official client and careful other clients say."""

from __future__ import annotations

import re

from fastapi import Request

from api.problems import Problem

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def is_repeat(request: Request) -> bool:
    """Whether the official client says that it sends this again."""
    count = request.headers.get("x-stainless-retry-count", "0")
    return count.isascii() and count.isdigit() and int(count[:9]) > 0


def idempotency_key(request: Request) -> str | None:
    """The client's own name for the call; raises Problem for one that cannot be used."""
    key = request.headers.get("idempotency-key")
    if key is not None and not _KEY.fullmatch(key):
        message = "idempotency-key should be 1 to 255 printable ASCII characters"
        raise Problem(400, message, "invalid_value", "idempotency-key")
    return key
