"""The model's tokenizer: text and conversations to token ids and back.

Never runs code of the model; its chat template runs in a sandbox.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from models.text.chat_template import ChatTemplate
from models.text.prompt_encoder import PromptEncoder, compiled_template
from models.text.resolved import ResolvedTokenizer
from worker.llm.config import read_config_json
from worker.llm.config_fields import token_ids
from worker.llm.detokenizer import Detokenizer
from worker.llm.generation_defaults import read_generation_defaults
from worker.llm.resolved_tokenizer import load_tokenizer, unreadable_template


class Tokenizer(PromptEncoder):
    """One model's tokenizer; build it with `load`. May be used by several threads at once."""

    def __init__(self, backend: Any, template: ChatTemplate | None, eos_ids: frozenset[int]):
        """Wrap a `tokenizers.Tokenizer`."""
        super().__init__(backend, template)
        self._bytes = TokenBytes(backend)
        self.eos_ids = eos_ids

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """The tokenizer of a model folder or an artifact; raises what `load_tokenizer` raises."""
        resolved = load_tokenizer(folder)
        return cls(resolved.backend, _template(resolved, folder), _eos_ids(resolved, folder))

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of the tokens; special tokens read as nothing."""
        text: str = self._backend.decode(list(token_ids), skip_special_tokens=True)
        return text

    def detokenizer(self) -> Detokenizer:
        """For one answer, whose tokens come one by one."""
        return Detokenizer(self.decode)

    def token_text(self, token_id: int) -> str:
        """One token as text, special tokens included; half a character reads as U+FFFD."""
        return bytes(self.token_bytes(token_id)).decode(errors="replace")

    def token_bytes(self, token_id: int) -> tuple[int, ...]:
        """The UTF-8 bytes that one token stands for; empty for an id without a token."""
        return self._bytes.of(token_id)


class TokenBytes:
    """What single tokens stand for, in the three ways vocabularies write bytes."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        decoder = repr(backend.decoder)
        self._byte_of = _byte_level_alphabet() if "ByteLevel" in decoder else {}
        self._added = {id_: t.content for id_, t in backend.get_added_tokens_decoder().items()}

    def of(self, token_id: int) -> tuple[int, ...]:
        """The bytes of one token."""
        if token_id in self._added:
            return tuple(self._added[token_id].encode())
        token: str | None = self._backend.id_to_token(token_id)
        if token is None:
            return ()
        if self._byte_of:  # GPT-2 and Llama 3: every byte has a letter
            return tuple(self._byte_of.get(letter, ord("?")) for letter in token)
        if len(token) == 6 and token.startswith("<0x"):  # Llama 2: <0x0A>
            return (int(token[3:5], 16),)
        return tuple(token.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode())


def _template(resolved: ResolvedTokenizer, folder: Path) -> ChatTemplate | None:
    try:
        return compiled_template(resolved)
    except jinja2.TemplateError as exc:
        raise unreadable_template(folder, exc) from exc


def _eos_ids(resolved: ResolvedTokenizer, folder: Path) -> frozenset[int]:
    """What ends an answer: by the generation config, else the model's, else the tokenizer's."""
    asked = read_generation_defaults(folder).eos_token_ids
    if not asked and (folder / "config.json").is_file():
        asked = token_ids(read_config_json(folder).get("eos_token_id"))
    if not asked and resolved.eos_id is not None:
        asked = (resolved.eos_id,)
    return frozenset(asked)


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's letter of every byte: printable ones as they are, the rest from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(256 + index): byte for index, byte in enumerate(others)}
