"""The API paths whose request bodies are understood."""

from __future__ import annotations

from enum import StrEnum


class Endpoint(StrEnum):
    """What a request asks for; the value is the `url` of an input line."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
