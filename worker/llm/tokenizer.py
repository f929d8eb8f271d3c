"""The model's tokenizer: text and conversations to token ids and back.

Reads local files only and never runs code of the model; its chat template runs in a sandbox.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from models.errors import RequestRefused, UnsafeModel, UnsupportedModel
from models.generation import ChatMessage
from worker.llm.chat_template import ChatTemplate
from worker.llm.config import read_model_config
from worker.llm.detokenizer import Detokenizer
from worker.llm.generation_defaults import read_generation_defaults


class Tokenizer:
    """One model's tokenizer; build it with `load`. May be used by several threads at once."""

    def __init__(self, backend: Any, template: ChatTemplate | None, eos_ids: frozenset[int]):
        """Wrap a `tokenizers.Tokenizer`."""
        self._backend = backend
        self._template = template
        self._bytes = TokenBytes(backend)
        self.eos_ids = eos_ids

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """The tokenizer of a model folder or an artifact.

        Raises UnsupportedModel when there is none that can be used, UnsafeModel when it asks for
        its own code.
        """
        loaded = _load_fast(folder)
        backend = loaded.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        return cls(backend, _template(loaded, folder), _eos_ids(loaded, folder))

    @property
    def has_chat_template(self) -> bool:
        """Whether conversations can be encoded."""
        return self._template is not None

    def encode_chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        """The conversation up to where the model's answer begins.

        The template writes the special tokens, so none are added. Raises RequestRefused.
        """
        if self._template is None:
            raise RequestRefused(
                "the model has no chat template: send a text prompt (/v1/completions) instead",
                code="invalid_messages",
                param="messages",
            )
        return self._encode(self._template.render(messages), special_tokens=False)

    def encode_text(self, text: str) -> list[int]:
        """Plain text, with the special tokens that the model puts around it (its BOS)."""
        return self._encode(text, special_tokens=True)

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

    def _encode(self, text: str, special_tokens: bool) -> list[int]:
        ids: list[int] = self._backend.encode(text, add_special_tokens=special_tokens).ids
        return ids


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


def _load_fast(folder: Path) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise UnsupportedModel(f"{folder} has no tokenizer.json: give a model with its tokenizer")
    _refuse_code(folder)
    try:
        loaded = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_fast=True
        )
    except Exception as exc:  # damaged files fail in every way there is
        raise UnsupportedModel(
            f"the tokenizer in {folder} cannot be loaded ({_first_line(exc)}): "
            "give a model with a valid tokenizer.json"
        ) from exc
    if not isinstance(loaded, PreTrainedTokenizerFast):
        raise UnsupportedModel(f"{folder} has no fast tokenizer: give a model with tokenizer.json")
    return loaded


def _refuse_code(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    try:
        named = path.is_file() and json.loads(path.read_bytes()).get("auto_map")
    except (ValueError, AttributeError, RecursionError) as exc:
        raise UnsupportedModel(f"{path} is no JSON object: download the model again") from exc
    if named:
        raise UnsafeModel(
            f"{path} names Python code to run (auto_map), which is never done: "
            "use a model with a plain tokenizer.json"
        )


def _template(loaded: Any, folder: Path) -> ChatTemplate | None:
    if not loaded.chat_template:
        return None
    try:
        return ChatTemplate(loaded.get_chat_template(), loaded.special_tokens_map)
    except (jinja2.TemplateError, ValueError) as exc:
        raise UnsupportedModel(
            f"the chat template in {folder} cannot be read ({_first_line(exc)}): "
            "give a model with a valid one"
        ) from exc


def _eos_ids(loaded: Any, folder: Path) -> frozenset[int]:
    """What ends an answer: by the generation config, else the model's, else the tokenizer's."""
    asked = read_generation_defaults(folder).eos_token_ids
    if not asked and (folder / "config.json").is_file():
        asked = read_model_config(folder).eos_token_ids
    if not asked and loaded.eos_token_id is not None:
        asked = (loaded.eos_token_id,)
    return frozenset(asked)


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's letter of every byte: printable ones as they are, the rest from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(256 + index): byte for index, byte in enumerate(others)}


def _first_line(exc: BaseException) -> str:
    return (str(exc).splitlines() or [type(exc).__name__])[0][:200]
