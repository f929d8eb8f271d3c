"""Fills in what a request left open and refuses what cannot run.

The request decides, then the model's generation_config, then OpenAI's defaults. Torch-free.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from models.errors import RequestRefused
from models.params import DecodingParams
from models.text.prompt_encoder import check_length
from worker.llm.generation_defaults import GenerationDefaults

_INVALID_VALUE = "invalid_value"
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Limits:
    """What the loaded model and its cache can hold."""

    vocab_size: int
    context_tokens: int
    sequence_tokens: int  # the longest sequence that can run: less where the cache is small


def resolve(
    params: DecodingParams, defaults: GenerationDefaults, limits: Limits, num_prompt_tokens: int
) -> DecodingParams:
    """The parameters with every None but the seed's replaced; raises RequestRefused."""
    _check_ids(params.logit_bias or (), "logit_bias", limits)
    _check_ids(params.stop_token_ids, "stop_token_ids", limits)
    temperature = 0.0 if defaults.do_sample is False else _first(defaults.temperature, 1.0)
    return params.model_copy(
        update={
            "max_tokens": _max_tokens(params, defaults, limits, num_prompt_tokens),
            "temperature": _first(params.temperature, temperature),
            "top_p": _first(params.top_p, _first(defaults.top_p, 1.0)),
            "top_k": max(0, _first(params.top_k, _first(defaults.top_k, 0))),
            "min_p": _first(params.min_p, _first(defaults.min_p, 0.0)),
            "repetition_penalty": _first(
                params.repetition_penalty, _first(defaults.repetition_penalty, 1.0)
            ),
            "logit_bias": params.logit_bias or {},
        }
    )


def check_prompt(prompt_ids: tuple[int, ...], param: str, limits: Limits) -> None:
    """Raise RequestRefused for a prompt that leaves no room for one token of output."""
    num = len(prompt_ids)
    check_length(num, limits.context_tokens, param)
    if num >= limits.sequence_tokens:
        raise _too_big_for_cache(f"{param} has {num} tokens", limits, param)
    _check_ids(prompt_ids, param, limits)


def _max_tokens(
    params: DecodingParams, defaults: GenerationDefaults, limits: Limits, num_prompt_tokens: int
) -> int:
    """What is wanted, at most what the context holds; open: what can run."""
    context = limits.context_tokens - num_prompt_tokens
    room = limits.sequence_tokens - num_prompt_tokens
    if params.max_tokens is None:
        return min(room, _first(defaults.max_new_tokens, room))
    wanted = min(params.max_tokens, context)
    if wanted > room:
        together = f"{num_prompt_tokens} prompt tokens and {wanted} of output"
        raise _too_big_for_cache(together, limits, "max_tokens")
    return wanted


def _too_big_for_cache(what: str, limits: Limits, param: str) -> RequestRefused:
    return RequestRefused(
        f"{what}, and this worker's KV cache holds {limits.sequence_tokens - 1}: "
        "raise NIGHTSHIFT_KV_CACHE_BYTES or ask for less",
        code="kv_cache_exceeded",
        param=param,
    )


def _check_ids(ids: Iterable[int], param: str, limits: Limits) -> None:
    for token in ids:
        if not 0 <= token < limits.vocab_size:
            raise RequestRefused(
                f"{param} holds token id {token}, and the model's ids end at "
                f"{limits.vocab_size - 1}",
                code=_INVALID_VALUE,
                param=param,
            )


def _first(value: _Value | None, otherwise: _Value) -> _Value:
    return otherwise if value is None else value
