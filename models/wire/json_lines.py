"""Writing one value as one line, also for readers that know more line ends than JSON Lines does."""

from __future__ import annotations

import json
from collections.abc import Mapping

# Legal inside JSON strings, but Python's splitlines and JavaScript's older readers end a line here.
_LINE_ENDS = {ord(mark): f"\\u{ord(mark):04x}" for mark in "\u0085\u2028\u2029"}


def json_line(value: Mapping[str, object]) -> str:
    """The value as compact UTF-8 JSON, without a line end anywhere in it."""
    return json.dumps(value, ensure_ascii=False).translate(_LINE_ENDS)
