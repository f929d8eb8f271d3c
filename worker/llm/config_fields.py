"""Single fields of a config.json, checked; every refusal names the field."""

from __future__ import annotations

from collections.abc import Mapping

from models.errors import UnsupportedModel


def size(raw: Mapping[str, object], key: str, default: int | None = None) -> int:
    """A positive integer; raises UnsupportedModel."""
    value = raw.get(key)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UnsupportedModel(f"{key} in config.json is {value!r}: a positive integer is needed")
    return value


def number(raw: Mapping[str, object], key: str, default: float | None = None) -> float:
    """A positive number; raises UnsupportedModel."""
    value = raw.get(key)
    if value is None:
        value = default
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < 1e30:
        raise UnsupportedModel(f"{key} in config.json is {value!r}: a positive number is needed")
    return float(value)


def optional_number(raw: Mapping[str, object], key: str) -> float | None:
    """A positive number or null; raises UnsupportedModel."""
    return None if raw.get(key) is None else number(raw, key)


def flag(raw: Mapping[str, object], key: str, default: bool = False) -> bool:
    """True or false; raises UnsupportedModel."""
    value = raw.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise UnsupportedModel(f"{key} in config.json is {value!r}: true or false is needed")
    return value


def token_ids(value: object) -> tuple[int, ...]:
    """The ids in a field that holds an id, a list of ids or null."""
    values = value if isinstance(value, list) else [value]
    return tuple(v for v in values if isinstance(v, int) and not isinstance(v, bool) and v >= 0)
