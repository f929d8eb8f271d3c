"""What a form sends, other than files: a few short fields."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import Depends, Request

from api.bodies import media_type, read_body
from api.problems import Problem

_MAX_FORM_BYTES = 16 << 10
_MAX_FIELDS = 16


async def _fields(request: Request) -> dict[str, str]:
    if media_type(request) != "application/x-www-form-urlencoded":
        raise Problem(415, "send the form as the page does", "unsupported_media_type")
    body = await read_body(request, _MAX_FORM_BYTES)
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_MAX_FIELDS,
        )
    except ValueError as exc:
        raise _unreadable() from exc
    if any("\0" in value for _, value in pairs):  # which PostgreSQL cannot even look for
        raise _unreadable()
    return dict(pairs)


def _unreadable() -> Problem:
    return Problem(400, "the form cannot be read: send it again", "invalid_form")


FormFields = Annotated[dict[str, str], Depends(_fields)]
