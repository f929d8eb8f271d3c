"""JSON as RFC 8259 and I-JSON have it, without what databases and other readers stumble over.

Refused: NaN and Infinity, numbers too large for a float, duplicate keys, lone surrogates, NUL
characters, bytes that are not UTF-8 and nesting deeper than MAX_DEPTH. It knows nothing of
requests.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Never

MAX_DEPTH = 32
_SHOWN_CHARACTERS = 40
_SHOWN_PATH = 120


class StrictJsonError(ValueError):
    """The text is not JSON, or not strict JSON; the message is the reason."""


def loads(data: bytes) -> object:
    """The value written in `data`, UTF-8 without a byte order mark; raises StrictJsonError."""
    try:
        value: object = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique_keys, parse_constant=_refuse_constant
        )
    except UnicodeDecodeError as exc:
        raise StrictJsonError(f"byte {exc.start + 1} is not UTF-8") from exc
    except json.JSONDecodeError as exc:
        raise StrictJsonError(f"not JSON at column {exc.colno}: {exc.msg}") from exc
    except RecursionError as exc:
        raise StrictJsonError(f"nested deeper than {MAX_DEPTH} levels") from exc
    except StrictJsonError:
        raise
    except ValueError as exc:  # Python's own limit on the digits of an integer
        raise StrictJsonError("a number has too many digits") from exc
    check_value(value)
    return value


def check_value(value: object) -> None:
    """Raise StrictJsonError, naming the field, for a value that strict JSON could not hold."""
    _check(value, where="", depth=0)


def shown(value: object) -> str:
    """The value as short ASCII JSON, for a message."""
    text = json.dumps(value, default=str)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 3]}..."


def _check(value: object, *, where: str, depth: int) -> None:
    if isinstance(value, str):
        _check_text(value, where)
    elif isinstance(value, float) and not math.isfinite(value):
        raise StrictJsonError(f"{_named(where)} is not a finite number")
    elif isinstance(value, dict | list):
        if depth >= MAX_DEPTH:
            raise StrictJsonError(f"nested deeper than {MAX_DEPTH} levels")
        for name, item in _children(value, where):
            if not isinstance(item, int):  # a prompt may be a hundred thousand token ids
                _check(item, where=where + name, depth=depth + 1)


def _children(value: dict[str, object] | list[object], where: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, list):
        yield from ((f"[{index}]", item) for index, item in enumerate(value))
        return
    for key, item in value.items():
        _check_text(key, f"{where}.{key}")
        yield f".{key}", item


def _check_text(text: str, where: str) -> None:
    if "\x00" in text:
        raise StrictJsonError(f"{_named(where)} contains a NUL character")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise StrictJsonError(f"{_named(where)} contains half of a surrogate pair") from exc


def _named(where: str) -> str:
    path = json.dumps(where)[1:-1]  # printable, whatever the keys are
    return f"field {path.removeprefix('.')[:_SHOWN_PATH]}" if where else "the value"


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise StrictJsonError(f"key {shown(key)} is given twice")
            seen.add(key)
    return result


def _refuse_constant(name: str) -> Never:
    raise StrictJsonError(f"{name} is not a JSON number")
