"""The sentences and codes with which one request is refused; the codes are OpenAI's.

A field's name in a message is written with the path that leads to it in the line (`body.stop`),
`param` without it, as OpenAI's API has it.
"""

from __future__ import annotations

from models.errors import RequestRefused
from models.generation import Refusal
from models.wire.strict_json import shown

INVALID_LINE = "invalid_json_line"
INVALID_TYPE = "invalid_type"
INVALID_VALUE = "invalid_value"
MISSING = "missing_required_parameter"
UNSUPPORTED = "unsupported_parameter"


def bad_line(reason: str, *, code: str = INVALID_LINE) -> RequestRefused:
    """A line that cannot be read as a request at all."""
    return RequestRefused(reason, code=code)


def bad_field(where: str, name: str, reason: str, *, code: str = INVALID_VALUE) -> RequestRefused:
    """A field whose value cannot be used; `reason` goes on after the field's name."""
    return RequestRefused(f"field {where}{name} {reason}", code=code, param=name)


def bad_type(where: str, name: str, value: object, *, wanted: str) -> RequestRefused:
    """A field whose value is of the wrong kind; `wanted` is for example `a string`."""
    reason = f"is {shown(value)}, it should be {wanted}"
    return bad_field(where, name, reason, code=INVALID_TYPE)


def at_line(exc: RequestRefused, line_number: int) -> Refusal:
    """What is stored for the refused line."""
    return Refusal(
        code=exc.code,
        message=f"line {line_number}: {exc}",
        param=exc.param,
        http_status=exc.http_status,
    )
