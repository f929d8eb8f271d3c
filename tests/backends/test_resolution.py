"""What a request leaves open is filled in, and what cannot run is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from models.errors import RequestRefused
from models.params import DecodingParams
from worker.backends.resolution import Limits, check_prompt, resolve
from worker.llm.generation_defaults import GenerationDefaults, parse_generation_defaults

LIMITS = Limits(vocab_size=100, context_tokens=64, sequence_tokens=64)
SMALL_CACHE = Limits(vocab_size=100, context_tokens=64, sequence_tokens=33)


def _resolved(
    params: dict[str, Any] | None = None,
    defaults: dict[str, object] | None = None,
    limits: Limits = LIMITS,
) -> DecodingParams:
    return resolve(
        DecodingParams(**(params or {})), parse_generation_defaults(defaults or {}), limits, 10
    )


def test_without_any_word_openai_s_defaults_apply() -> None:
    params = _resolved()
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (1.0, 1.0, 0, 0.0)
    assert params.repetition_penalty == 1.0
    assert params.max_tokens == 54
    assert resolve(DecodingParams(), GenerationDefaults(), LIMITS, 10) == params


def test_a_model_that_is_not_to_be_sampled_is_greedy() -> None:
    assert _resolved(defaults={"do_sample": False, "temperature": 0.7}).temperature == 0.0
    assert _resolved({"temperature": 0.3}, {"do_sample": False}).temperature == 0.3


def test_the_model_decides_what_the_request_leaves_open() -> None:
    defaults: dict[str, object] = {
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.02,
        "repetition_penalty": 1.1,
        "max_new_tokens": 7,
    }
    params = _resolved(defaults=defaults)
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.6, 0.9, 40, 0.02)
    assert (params.repetition_penalty, params.max_tokens) == (1.1, 7)
    own = {
        "temperature": 0.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0,
        "max_tokens": 9,
    }  # fmt: skip
    params = _resolved(own, defaults)
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.0, 1.0, 0, 0.0)
    assert (params.repetition_penalty, params.max_tokens) == (1.0, 9)


def test_more_output_than_the_context_holds_is_capped() -> None:
    assert _resolved({"max_tokens": 1000}).max_tokens == 54
    assert _resolved(defaults={"max_new_tokens": 1000}).max_tokens == 54


def test_open_output_is_what_the_cache_holds_but_a_wish_beyond_it_is_refused() -> None:
    assert _resolved(limits=SMALL_CACHE).max_tokens == 23
    assert _resolved({"max_tokens": 23}, limits=SMALL_CACHE).max_tokens == 23
    with pytest.raises(RequestRefused, match="KV cache holds 32") as refusal:
        _resolved({"max_tokens": 24}, limits=SMALL_CACHE)
    assert (refusal.value.code, refusal.value.param) == ("kv_cache_exceeded", "max_tokens")


@pytest.mark.parametrize(
    "params", [{"logit_bias": {"100": 1.0}}, {"stop_token_ids": (3, 100)}], ids=str
)
def test_token_ids_beyond_the_vocabulary_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused, match=r"100.*end at 99") as refusal:
        _resolved(params)
    assert refusal.value.param == next(iter(params))


def test_a_prompt_over_the_context_is_refused_with_both_numbers() -> None:
    check_prompt((1,) * 63, "messages", LIMITS)
    with pytest.raises(RequestRefused, match=r"64 tokens.*has 64") as refusal:
        check_prompt((1,) * 64, "messages", LIMITS)
    assert (refusal.value.code, refusal.value.param) == ("context_length_exceeded", "messages")


def test_a_prompt_over_the_cache_an_empty_one_and_foreign_ids_are_refused() -> None:
    check_prompt((1,) * 32, "prompt", SMALL_CACHE)
    for prompt, words in (((1,) * 33, "KV cache"), ((), "no tokens"), ((1, 100), "id 100")):
        with pytest.raises(RequestRefused, match=words) as refusal:
            check_prompt(prompt, "prompt", SMALL_CACHE)
        assert refusal.value.param == "prompt"
