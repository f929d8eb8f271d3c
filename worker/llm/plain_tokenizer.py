"""A tokenizer whose tokenizer.json is all there is to it, read without transformers.

transformers 5 names such tokenizers `TokenizersBackend` when it saves them; releases before it,
one of which IPEX needs, refuse that name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from models.text.resolved import ResolvedTokenizer

CLASS_NAME = "TokenizersBackend"
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token",
            "mask_token")  # fmt: skip


def is_plain(folder: Path) -> bool:
    """Whether the model's tokenizer asks for nothing but its tokenizer.json."""
    if not all((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        return False
    named: bool = _config(folder).get("tokenizer_class") == CLASS_NAME
    return named


def read_plain(folder: Path) -> ResolvedTokenizer:
    """The tokenizer of a folder that `is_plain`; damaged files fail in every way there is."""
    from tokenizers import Tokenizer as Backend

    config = _config(folder)
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    special = {name: _content(config[name]) for name in _SPECIAL if config.get(name)}
    return ResolvedTokenizer(
        backend,
        chat_template=_chat_template(folder, config),
        special_tokens=special,
        eos_id=backend.token_to_id(special["eos_token"]) if "eos_token" in special else None,
    )


def _config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_bytes())
    return config


def _chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = config.get("chat_template")
    return template if isinstance(template, str) else None


def _content(token: str | dict[str, Any]) -> str:
    return token if isinstance(token, str) else str(token["content"])
