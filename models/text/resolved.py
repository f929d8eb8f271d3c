"""A model's tokenizer as its artifact keeps it: two files that need no transformers to be read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

BACKEND_NAME: Final = "resolved-tokenizer.json"  # the format of the library `tokenizers`
FACTS_NAME: Final = "resolved-tokenizer-facts.json"


@dataclass(frozen=True, slots=True)
class ResolvedTokenizer:
    """All that is used of a model's tokenizer."""

    backend: Backend
    chat_template: str | None
    special_tokens: dict[str, str]  # `bos_token` and the like
    eos_id: int | None


def parse_resolved(files: Mapping[str, bytes]) -> ResolvedTokenizer:
    """The tokenizer in files of these two names; damaged ones fail in every way there is."""
    from tokenizers import Tokenizer as Backend

    facts = json.loads(files[FACTS_NAME])
    return ResolvedTokenizer(Backend.from_str(files[BACKEND_NAME].decode()), **facts)
