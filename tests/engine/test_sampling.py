"""Every decoding parameter against transformers' own processors, on random logits."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from worker.engine import logits as functions
from worker.engine.logits import draw, keep_top_p
from worker.engine.random_numbers import uniform
from worker.engine.request import EngineRequest, SamplingParams, StopRules
from worker.engine.sampling import MIN_LOGPROB, Sampler, warp
from worker.engine.sequence import Sequence

VOCABULARY = 500


def sequence(
    params: SamplingParams,
    prompt: list[int],
    output: list[int],
    *,
    min_tokens: int = 0,
    ends: tuple[int, ...] = (),
    index: int = 0,
) -> Sequence:
    rules = StopRules(1000, min_tokens, frozenset(ends), ends)
    made = Sequence(EngineRequest("r", tuple(prompt), rules, params), index, 0)
    made.token_ids.extend(output)
    return made


def random_ids(rng: random.Random, most: int) -> list[int]:
    return [rng.randrange(VOCABULARY) for _ in range(rng.randint(1, most))]


def expected_logits(logits: Tensor, seq: Sequence) -> Tensor:
    """One row (V,) through transformers' processors, in transformers' order."""
    params, rules = seq.request.sampling, seq.request.stop
    ids = torch.tensor([seq.token_ids])
    row = logits.clone()
    for token, bias in params.logit_bias:
        row[token] += bias
    processors = LogitsProcessorList()
    if params.repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    row = processors(ids, row.unsqueeze(0))[0]
    for token, count in Counter(seq.output_ids).items():  # as OpenAI documents them
        row[token] -= params.frequency_penalty * count + params.presence_penalty
    later = LogitsProcessorList()
    if rules.min_tokens:
        later.append(
            MinNewTokensLengthLogitsProcessor(
                seq.num_prompt_tokens, rules.min_tokens, list(rules.suppressed_ids)
            )
        )
    if params.temperature > 0:
        later.append(TemperatureLogitsWarper(params.temperature))
        if params.top_k > 0:
            later.append(TopKLogitsWarper(params.top_k))
        if params.top_p < 1:
            later.append(TopPLogitsWarper(params.top_p))
        if params.min_p > 0:
            later.append(MinPLogitsWarper(params.min_p))
    result: Tensor = later(ids, row.unsqueeze(0))[0]
    return result


def processed(logits: Tensor, sequences: list[Sequence]) -> Tensor:
    """Our logits (R, V) just before a token is drawn or the largest taken."""
    result = Sampler().process(logits.clone(), sequences)
    rows = [i for i, s in enumerate(sequences) if not s.request.sampling.greedy]
    if rows:
        result[rows] = warp(result[rows], [sequences[i].request.sampling for i in rows])
    return result


SINGLE = {
    "repetition penalty up": SamplingParams(repetition_penalty=1.5),
    "repetition penalty down": SamplingParams(repetition_penalty=0.7),
    "presence penalty": SamplingParams(presence_penalty=1.2),
    "negative presence penalty": SamplingParams(presence_penalty=-1.2),
    "frequency penalty": SamplingParams(frequency_penalty=0.8),
    "bias": SamplingParams(logit_bias=((3, 100.0), (7, -100.0), (499, 1.5))),
    "temperature": SamplingParams(temperature=0.3),
    "high temperature": SamplingParams(temperature=2.0),
    "top-k": SamplingParams(temperature=1.0, top_k=7),
    "top-k of one": SamplingParams(temperature=1.0, top_k=1),
    "top-k beyond the vocabulary": SamplingParams(temperature=1.0, top_k=5000),
    "top-p": SamplingParams(temperature=1.0, top_p=0.8),
    "tiny top-p": SamplingParams(temperature=1.0, top_p=1e-6),
    "min-p": SamplingParams(temperature=1.0, min_p=0.1),
    "min-p of one": SamplingParams(temperature=1.0, min_p=1.0),
}


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("min_tokens", [0, 30])
def test_each_parameter_equals_transformers(name: str, min_tokens: int) -> None:
    rng = random.Random(name)
    torch.manual_seed(1)
    logits = torch.randn(12, VOCABULARY) * 4
    sequences = [
        sequence(
            SINGLE[name],
            random_ids(rng, 40),
            random_ids(rng, 60),
            min_tokens=min_tokens,
            ends=(2, 11),
        )
        for _ in range(12)
    ]
    expected = torch.stack(list(map(expected_logits, logits, sequences)))
    torch.testing.assert_close(processed(logits, sequences), expected)


def test_combinations_equal_transformers_with_other_parameters_in_every_row() -> None:
    rng = random.Random(5)
    torch.manual_seed(2)
    choices = itertools.product((0.0, 0.6, 1.4), (0, 3, 60), (1.0, 0.9, 0.4), (0.0, 0.05))
    sequences = [
        sequence(
            SamplingParams(
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                min_p=min_p,
                repetition_penalty=rng.choice([1.0, 1.3]),
                presence_penalty=rng.choice([0.0, 0.5]),
                frequency_penalty=rng.choice([0.0, -0.3]),
                logit_bias=rng.choice([(), ((9, 4.0), (10, -4.0))]),
            ),
            random_ids(rng, 40),
            random_ids(rng, 60),
            min_tokens=rng.choice([0, 200]),
            ends=(2, 3),
        )
        for temperature, top_k, top_p, min_p in choices
    ]
    logits = torch.randn(len(sequences), VOCABULARY) * 3
    expected = torch.stack(list(map(expected_logits, logits, sequences)))
    torch.testing.assert_close(processed(logits, sequences), expected)


def test_top_p_sorts_the_whole_vocabulary_only_where_it_must(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(3)
    peaked = torch.randn(3, 300) * 8
    mixed = torch.cat([peaked, torch.randn(2, 300) * 0.01])
    top_p = torch.tensor([0.5, 0.9, 0.99, 0.5, 0.99])
    whole = keep_top_p(mixed, top_p)
    monkeypatch.setattr(functions, "_CANDIDATES", 64)
    assert torch.equal(keep_top_p(peaked, top_p[:3]), whole[:3])
    assert torch.equal(keep_top_p(mixed, top_p), whole)
    assert ((whole > -torch.inf).sum(-1) > 64).tolist() == [False, False, False, True, True]


def test_the_most_likely_token_is_taken_without_copying_plain_rows() -> None:
    torch.manual_seed(4)
    logits = torch.randn(4, VOCABULARY)
    before = logits.clone()
    plain, biased = SamplingParams(), SamplingParams(logit_bias=((17, 50.0),))
    sequences = [sequence(p, [1], []) for p in (plain, biased, plain, plain)]
    tokens = [sampled.token_id for sampled in Sampler().sample(logits, sequences)]
    best = before.argmax(-1).tolist()
    assert tokens == [best[0], 17, best[2], best[3]]
    assert torch.equal(logits, before)


def test_penalties_follow_the_output_as_it_grows() -> None:
    torch.manual_seed(5)
    sampler = Sampler()
    params = SamplingParams(repetition_penalty=1.2, presence_penalty=0.4, frequency_penalty=0.3)
    grown = sequence(params, [1, 2, 2], [])
    rng = random.Random(6)
    for _ in range(60):
        row = torch.randn(1, VOCABULARY) * 3
        expected = expected_logits(row[0], grown)
        torch.testing.assert_close(sampler.process(row.clone(), [grown])[0], expected)
        grown.token_ids.append(rng.randrange(30))


def test_draws_follow_the_distribution() -> None:
    torch.manual_seed(6)
    logits = torch.randn(1, 20) * 2
    numbers = torch.tensor([uniform(1, 0, step) for step in range(10_000)], dtype=torch.float64)
    tokens = draw(logits.expand(len(numbers), -1), numbers)
    shares = torch.bincount(tokens, minlength=20) / len(numbers)
    # four standard deviations of a share near one half are 0.02
    torch.testing.assert_close(shares, logits[0].softmax(-1), atol=0.02, rtol=0)


def test_draws_never_leave_the_kept_tokens_at_the_edges_of_the_unit_interval() -> None:
    row = torch.full((2, 6), -torch.inf)
    row[:, 2], row[:, 4] = 0.0, 1.0
    numbers = torch.tensor([0.0, (2**48 - 1) / 2**48], dtype=torch.float64)
    assert draw(row, numbers).tolist() == [2, 4]


def test_random_numbers_belong_to_seed_choice_and_step() -> None:
    values = {uniform(s, c, t) for s in (0, 1, 2**63 - 1) for c in range(4) for t in range(100)}
    assert len(values) == 3 * 4 * 100
    assert all(0 <= value < 1 for value in values)
    assert uniform(5, 1, 2) == uniform(5, 1, 2)


def test_a_row_samples_the_same_beside_any_other_rows() -> None:
    torch.manual_seed(7)
    params = SamplingParams(temperature=0.9, top_k=40, top_p=0.9, min_p=0.01, seed=3)
    mine = sequence(params, [4, 5], [6, 7], index=2)
    row = torch.randn(1, VOCABULARY) * 2
    alone = Sampler().sample(row, [mine])[0].token_id
    others = [
        sequence(SamplingParams(temperature=1.5, top_k=k, seed=k), [1], [2]) for k in range(30)
    ]
    logits = torch.cat([torch.randn(15, VOCABULARY), row, torch.randn(15, VOCABULARY)])
    together = Sampler().sample(logits, [*others[:15], mine, *others[15:]])
    assert together[15].token_id == alone


@pytest.mark.parametrize("temperature", [1e-5, 1e-6, 1e-30, 1e-40, 1e-60])
def test_a_temperature_next_to_zero_takes_the_most_likely_token(temperature: float) -> None:
    logits = torch.tensor([[1.0, 30.0, -5.0, 29.0]])
    drawn = sequence(SamplingParams(temperature=temperature, seed=4), [0], [])
    assert Sampler().sample(logits, [drawn])[0].token_id == 1


def test_impossible_tokens_have_a_finite_log_probability() -> None:
    logits = torch.tensor([[0.0, -torch.inf, 1.0]])
    params = SamplingParams(top_logprobs=3)
    (sampled,) = Sampler().sample(logits, [sequence(params, [0], [])])
    assert sampled.logprobs is not None
    assert sampled.logprobs.top[-1] == (1, MIN_LOGPROB)


def test_without_rows_nothing_is_sampled() -> None:
    assert Sampler().sample(torch.empty(0, VOCABULARY), []) == []
