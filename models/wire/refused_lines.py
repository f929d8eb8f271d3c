"""A request that was refused before its file was uploaded, as a line of that file.

`nightshift submit` to a server reads tables, texts and plain lines itself. What it has to refuse
keeps its place, its name and its reason in this form, so that it ends in the error file as if the
server had read the original. Must not know files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from models.generation import Refusal
from models.wire.lines import MAX_CUSTOM_ID_BYTES, RefusedLine

FIELD = "refused"
_FIELDS = {"custom_id", "model", FIELD}
_REASON_FIELDS = {"code", "message", "param"}
_CODE = re.compile(r"[a-z0-9_]{1,64}")
_MAX_MESSAGE_CHARACTERS = 4096


def write_refused(line: RefusedLine, model_name: str) -> dict[str, object]:
    """The JSON object of the line; the model is named as in every line of the file."""
    refusal = line.refusal
    reason = {
        "code": refusal.code,
        "message": refusal.message.removeprefix(_start(line.line_number)),
        "param": refusal.param,
    }
    return {"custom_id": line.custom_id, "model": model_name, FIELD: reason}


def read_refused(fields: Mapping[str, object], line_number: int) -> RefusedLine | None:
    """The line that such an object stands for; None for any other object.

    Anybody may write one. What is stored of it is as short as of a line that was refused here,
    because the database looks for codes in an index, which takes no long ones.
    """
    reason, custom_id = fields.get(FIELD), fields.get("custom_id")
    if not isinstance(reason, dict) or fields.keys() != _FIELDS or reason.keys() != _REASON_FIELDS:
        return None
    code, message, param = reason["code"], reason["message"], reason["param"]
    if not (isinstance(code, str) and _CODE.fullmatch(code) and isinstance(message, str)):
        return None
    if not isinstance(custom_id, str | None) or not isinstance(param, str | None):
        return None
    if len((custom_id or "").encode()) > MAX_CUSTOM_ID_BYTES:
        return None
    shown = f"{_start(line_number)}{message}"[:_MAX_MESSAGE_CHARACTERS]
    return RefusedLine(line_number, custom_id, Refusal(code=code, message=shown, param=param))


def _start(line_number: int) -> str:
    return f"line {line_number}: "
