"""Renders a model's chat template, which is a program that came with the model.

It runs in a sandbox that bounds its work and memory, and what it writes is counted while it writes.
Sees messages and special tokens only, never files or settings.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence

import jinja2

from models.errors import RequestRefused
from models.generation import ChatMessage
from models.text.bounded_sandbox import BoundedSandbox, paying

MAX_RENDERED_CHARACTERS = 4 * 1024**2
MAX_INDENT = 16  # of JSON, per level


class ChatTemplate:
    """One template, compiled once; the environment is the one transformers gives templates."""

    def __init__(self, template: str, special_tokens: Mapping[str, str]) -> None:
        """Compile; `special_tokens` are `bos_token` and the like. Raises jinja2.TemplateError."""
        sandbox = BoundedSandbox()
        sandbox.filters["tojson"] = paying("tojson", _to_json)
        sandbox.globals["raise_exception"] = _refuse
        sandbox.globals["strftime_now"] = _now
        self._new_template = sandbox.compiled(template)
        self._special_tokens = dict(special_tokens)

    def render(self, messages: Sequence[ChatMessage]) -> str:
        """The conversation as the model wants it, up to where its answer begins.

        Raises RequestRefused when the template refuses the messages, fails, or does too much.
        """
        parts: list[str] = []
        written = 0
        try:
            for part in self._stream(messages):
                parts.append(part)
                written += len(part)
                if written > MAX_RENDERED_CHARACTERS:
                    raise _refusal(f"it writes more than {MAX_RENDERED_CHARACTERS} characters")
        except RequestRefused:
            raise
        except Exception as exc:  # a template may fail in any way Python can
            raise _refusal(str(exc)) from exc
        return "".join(parts)

    def _stream(self, messages: Sequence[ChatMessage]) -> Iterator[str]:
        return self._new_template().generate(
            messages=[{"role": message.role, "content": message.content} for message in messages],
            tools=None,
            documents=None,
            add_generation_prompt=True,
            **self._special_tokens,
        )


def _refusal(reason: str) -> RequestRefused:
    return RequestRefused(
        f"the model's chat template cannot render these messages: {reason}; change the messages",
        code="invalid_messages",
        param="messages",
    )


def _refuse(message: str) -> None:
    """`raise_exception` of templates."""
    raise jinja2.TemplateError(message)


def _now(pattern: str) -> str:
    """`strftime_now` of templates: Llama 3.1 puts the date into its system prompt."""
    return datetime.datetime.now().strftime(pattern)


def _to_json(value: object, ensure_ascii: bool = False, indent: int | None = None) -> str:
    """`tojson` of templates, without Jinja's escaping for HTML."""
    if indent is not None and indent > MAX_INDENT:
        raise jinja2.TemplateError(f"it indents by more than {MAX_INDENT}")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)
