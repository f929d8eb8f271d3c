"""What planning and seeding need to know of a prompt: its leading part, its length, its seed.

Pure functions. Must not know SQL.
"""

from __future__ import annotations

import hashlib
import json
from typing import Final

from pydantic import TypeAdapter

from models.generation import ChatPrompt, Prompt, TextPrompt

CHARS_PER_TOKEN: Final = 4  # of usual English text; for orders and sizes alone

_PREFIX_CHARS: Final = 512
_PREFIX_TOKENS: Final = 128

_PROMPT: TypeAdapter[Prompt] = TypeAdapter(Prompt)


def read_prompt(kind: str, value: object) -> Prompt:
    """The prompt that was stored as JSON."""
    names = {"chat": "messages", "text": "text", "tokens": "token_ids"}
    return _PROMPT.validate_python({"kind": kind, names[kind]: value})


def prompt_value(prompt: Prompt) -> object:
    """The prompt as the JSON value that `read_prompt` reads: its content without its kind."""
    if isinstance(prompt, ChatPrompt):
        return [message.model_dump() for message in prompt.messages]
    return prompt.text if isinstance(prompt, TextPrompt) else list(prompt.token_ids)


def prefix_key(prompt: Prompt) -> str:
    """A short hash of the prompt's leading part: equal where prompts may share cached tokens."""
    leading = json.dumps(_leading_part(prompt), ensure_ascii=False)
    return hashlib.blake2b(leading.encode(), digest_size=8).hexdigest()


def prompt_chars(prompt: Prompt) -> int:
    """The prompt's length in characters; for token ids an estimate."""
    if isinstance(prompt, ChatPrompt):
        return sum(len(message.content) for message in prompt.messages)
    if isinstance(prompt, TextPrompt):
        return len(prompt.text)
    return len(prompt.token_ids) * CHARS_PER_TOKEN


def request_seed(batch_seed: int, idx: int) -> int:
    """The seed of a request that names none: 63 bits, always the same for the same request."""
    digest = hashlib.blake2b(f"{batch_seed}:{idx}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def _leading_part(prompt: Prompt) -> object:
    """The system message; without one, the first characters or tokens."""
    if isinstance(prompt, ChatPrompt):
        first = prompt.messages[0] if prompt.messages else None
        if first is not None and first.role == "system":
            return [first.role, first.content]
        return "\n".join(message.content for message in prompt.messages)[:_PREFIX_CHARS]
    if isinstance(prompt, TextPrompt):
        return prompt.text[:_PREFIX_CHARS]
    return prompt.token_ids[:_PREFIX_TOKENS]
