"""Reads docker-compose.yml as Docker Compose would: anchors merged, variables filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
COMPOSE_FILE = ROOT / "docker-compose.yml"

_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<text>[^}]*))?\}")


class MissingVariable(Exception):
    """A required variable is not set; the message is the one from the file."""


def load_services(variables: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The services, with `${NAME}`, `${NAME:-default}` and `${NAME:?message}` filled in."""
    document = yaml.safe_load(COMPOSE_FILE.read_text(encoding="utf-8"))
    services: dict[str, dict[str, Any]] = _fill(document["services"], variables)
    return services


def _fill(node: Any, variables: Mapping[str, str]) -> Any:
    match node:
        case str():
            return _VARIABLE.sub(lambda found: _value(found, variables), node)
        case list():
            return [_fill(item, variables) for item in node]
        case dict():
            return {key: _fill(value, variables) for key, value in node.items()}
    return node


def _value(found: re.Match[str], variables: Mapping[str, str]) -> str:
    value = variables.get(found["name"], "")
    if value or found["kind"] is None:
        return value
    if found["kind"] == "?":
        raise MissingVariable(found["text"])
    return str(found["text"])
