"""Greedy output in float32 equals transformers' `generate` token for token, whatever the batch."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from models.model_key import Weights
from tests.engine.stand_in import request, run, tokens_of
from tests.llm.tiny_models import CONFIGURATIONS, in_memory, make_reference, save_reference
from worker.engine.config import EngineConfig
from worker.engine.engine import Engine
from worker.llm.decoder import Decoder
from worker.llm.kv_cache import KVCache

NUM_PROMPTS = 64
LONGEST_PROMPT = 300
NAMES = ("mha", "gqa", "mqa", "tied", "llama3-rope", "biases")


@dataclass(frozen=True, slots=True)
class Case:
    """One model, its prompts, and what transformers answers to each of them alone."""

    model: Decoder
    prompts: list[list[int]]
    answers: list[list[int]]


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    reference = make_reference(**CONFIGURATIONS[request.param])
    folder: Path = tmp_path_factory.mktemp(request.param)
    model = in_memory(save_reference(reference, folder), Weights.FP32)
    rng = random.Random(request.param)
    lengths = [1, 2, LONGEST_PROMPT, *(rng.randint(1, LONGEST_PROMPT) for _ in range(61))]
    prompts = [[rng.randrange(3, 97) for _ in range(length)] for length in lengths]
    answers = []
    for prompt in prompts:
        ids = reference.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            max_new_tokens=rng.randint(6, 24),
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        answers.append(ids[0, len(prompt) :].tolist())
    return Case(model, prompts, answers)


def _engine(
    model: Decoder, *, num_blocks: int, block_tokens: int = 16, prefix_cache: bool = True
) -> Engine:
    config = EngineConfig(
        max_sequences=64,
        step_tokens=128,
        num_blocks=num_blocks,
        block_tokens=block_tokens,
        context_tokens=512,
        prefix_cache=prefix_cache,
        remembered_tokens=0,  # what is asked again is computed again
    )
    cache = KVCache(model.config, num_blocks, block_tokens, torch.float32)
    return Engine(model, cache, config)


def _answers(engine: Engine, case: Case, numbers: range) -> list[list[int]]:
    for number in numbers:
        tokens = len(case.answers[number])
        engine.add(request(str(number), case.prompts[number], tokens))
    tokens_by_request = tokens_of(run(engine))
    return [tokens_by_request[str(number), 0] for number in numbers]


def test_duplicates_equal_transformers_and_are_computed_once(case: Case) -> None:
    engine = _engine(case.model, num_blocks=2048)
    for number in range(20):
        for copy in range(1 + number % 3):
            length = len(case.answers[number])
            engine.add(request(f"{number} {copy}", case.prompts[number], length, n=2))
    for (key, _), tokens in tokens_of(run(engine)).items():
        assert tokens == case.answers[int(key.split()[0])]
    assert engine.counters.output_tokens == sum(map(len, case.answers[:20]))


@pytest.mark.parametrize("batch", [1, 5, 17, NUM_PROMPTS])
def test_batches_of_mixed_lengths_equal_transformers(case: Case, batch: int) -> None:
    engine = _engine(case.model, num_blocks=2048)
    assert _answers(engine, case, range(batch)) == case.answers[:batch]
    assert engine.counters.preemptions == 0


def test_with_too_few_blocks_preempted_requests_equal_transformers(case: Case) -> None:
    engine = _engine(case.model, num_blocks=100, block_tokens=4)
    assert _answers(engine, case, range(NUM_PROMPTS)) == case.answers
    assert engine.counters.preemptions > 0


def test_cached_prefixes_equal_transformers(case: Case) -> None:
    engine = _engine(case.model, num_blocks=2048)
    _answers(engine, case, range(20))
    cached_before = engine.counters.cached_prompt_tokens
    assert _answers(engine, case, range(20)) == case.answers[:20]
    assert engine.counters.cached_prompt_tokens > cached_before


def test_without_a_prefix_cache_nothing_is_cached(case: Case) -> None:
    engine = _engine(case.model, num_blocks=2048, prefix_cache=False)
    for _ in range(2):
        assert _answers(engine, case, range(8)) == case.answers[:8]
    assert engine.counters.cached_prompt_tokens == 0
