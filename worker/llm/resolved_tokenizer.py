"""A tokenizer as transformers understands it, kept so that loading it needs no transformers.

Which class a model's files ask for, and what that class changes in tokenizer.json, is decided once:
when the artifact is made. An engine then reads the result; importing transformers takes longer than
loading a small model. Reads local files only and never runs code of the model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from models.errors import UnsafeModel, UnsupportedModel
from models.text.resolved import BACKEND_NAME, FACTS_NAME, ResolvedTokenizer, parse_resolved
from worker.llm.plain_tokenizer import CLASS_NAME, is_plain, read_plain

_SOURCE_NAMES = ("tokenizer.json", "tokenizer.model")


def has_tokenizer(folder: Path) -> bool:
    """Whether the model folder has any tokenizer that could be used."""
    return any((folder / name).is_file() for name in _SOURCE_NAMES)


def load_tokenizer(folder: Path) -> ResolvedTokenizer:
    """What `write_resolved` left in an artifact, otherwise what transformers makes of the folder.

    Raises UnsupportedModel when there is no tokenizer that can be used, UnsafeModel when it asks
    for its own code.
    """
    if (folder / FACTS_NAME).is_file():
        return _read_resolved(folder)
    return _resolve(folder)


def write_resolved(source: Path, artifact: Path) -> None:
    """Keep the tokenizer of a model folder in an artifact; raises what `load_tokenizer` raises."""
    resolved = _resolve(source)
    facts = {
        "chat_template": resolved.chat_template,
        "special_tokens": resolved.special_tokens,
        "eos_id": resolved.eos_id,
    }
    resolved.backend.save(str(artifact / BACKEND_NAME), pretty=False)
    (artifact / FACTS_NAME).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def kept_files(artifact: Path) -> dict[str, bytes]:
    """The files that `write_resolved` left there, by name; older artifacts have none."""
    paths = [artifact / name for name in (BACKEND_NAME, FACTS_NAME)]
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


def unreadable_template(folder: Path, exc: Exception) -> UnsupportedModel:
    """The error for a chat template that is no template."""
    return UnsupportedModel(
        f"the chat template in {folder} cannot be read ({_first_line(exc)}): "
        "give a model with a valid one"
    )


def _read_resolved(folder: Path) -> ResolvedTokenizer:
    try:
        return parse_resolved(kept_files(folder))
    except Exception as exc:  # damaged files fail in every way there is
        raise _unusable(folder, exc, "remove the artifact and add the model again") from exc


def _resolve(folder: Path) -> ResolvedTokenizer:
    import transformers

    if not has_tokenizer(folder):
        raise UnsupportedModel(f"{folder} has no tokenizer.json: give a model with its tokenizer")
    _refuse_code(folder)
    try:
        if not hasattr(transformers, CLASS_NAME) and is_plain(folder):
            return _whole(read_plain(folder))
        loaded = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_fast=True
        )
    except Exception as exc:  # damaged files fail in every way there is
        raise _unusable(folder, exc, "give a model with a valid tokenizer.json") from exc
    if not isinstance(loaded, transformers.PreTrainedTokenizerFast):
        raise UnsupportedModel(f"{folder} has no fast tokenizer: give a model with tokenizer.json")
    resolved = ResolvedTokenizer(
        loaded.backend_tokenizer,
        chat_template=_chat_template(loaded, folder),
        special_tokens=dict(loaded.special_tokens_map),
        eos_id=loaded.eos_token_id,
    )
    return _whole(resolved)


def _whole(resolved: ResolvedTokenizer) -> ResolvedTokenizer:
    """The same; it neither cuts nor pads."""
    resolved.backend.no_truncation()
    resolved.backend.no_padding()
    return resolved


def _chat_template(loaded: Any, folder: Path) -> str | None:
    try:
        return loaded.get_chat_template() if loaded.chat_template else None
    except ValueError as exc:  # several templates, none of them the default
        raise unreadable_template(folder, exc) from exc


def _unusable(folder: Path, exc: Exception, advice: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"the tokenizer in {folder} cannot be loaded ({_first_line(exc)}): {advice}"
    )


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


def _first_line(exc: Exception) -> str:
    return (str(exc).splitlines() or [type(exc).__name__])[0][:200]
