"""The decoding parameters that a model asks for itself, from its generation_config.json.

Must not know torch or transformers: a few numbers from a JSON file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from models.errors import UnsupportedModel
from worker.llm.config_fields import token_ids


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """What applies to a request that does not say otherwise; None: the model does not say either.

    As in transformers, temperature, top_p, top_k and min_p count only for a model that asks to be
    sampled from: `do_sample` None or False means greedy there, and they are None here.
    """

    do_sample: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None


def read_generation_defaults(folder: Path) -> GenerationDefaults:
    """The defaults of a model folder or artifact; a folder without generation_config.json has none.

    Values out of range are left out. Raises UnsupportedModel for a file that is not JSON.
    """
    path = folder / "generation_config.json"
    if not path.is_file():
        return GenerationDefaults()
    try:
        raw = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as exc:
        raise UnsupportedModel(f"{path} is not JSON: download the model again") from exc
    return parse_generation_defaults(raw if isinstance(raw, dict) else {})


def parse_generation_defaults(raw: Mapping[str, object]) -> GenerationDefaults:
    """The defaults in the object of a generation_config.json."""
    sampled = raw if raw.get("do_sample") is True else {}
    top_k = _number(sampled, "top_k", 0, 1 << 31)
    max_new_tokens = _number(raw, "max_new_tokens", 1, 1 << 31)
    do_sample = raw.get("do_sample")
    pad = token_ids(raw.get("pad_token_id"))
    return GenerationDefaults(
        do_sample=do_sample if isinstance(do_sample, bool) else None,
        temperature=_number(sampled, "temperature", 0, 2),
        top_p=_number(sampled, "top_p", 1e-9, 1),
        top_k=None if top_k is None else int(top_k),
        min_p=_number(sampled, "min_p", 0, 1),
        repetition_penalty=_number(raw, "repetition_penalty", 1e-9, 1e9),
        max_new_tokens=None if max_new_tokens is None else int(max_new_tokens),
        eos_token_ids=token_ids(raw.get("eos_token_id")),
        pad_token_id=pad[0] if pad else None,
    )


def _number(raw: Mapping[str, object], key: str, least: float, most: float) -> float | None:
    value = raw.get(key)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return float(value) if least <= value <= most else None
