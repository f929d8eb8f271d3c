"""The engine over a stand-in model: paging, preemption, prefix cache, stopping, cancelling."""

from __future__ import annotations

import random
import time

import pytest

from models.errors import SettingsError
from tests.engine.stand_in import (
    VOCABULARY,
    greedy_reference,
    logits_after,
    request,
    run,
    small_engine,
    tokens_of,
)
from worker.engine.config import EngineConfig
from worker.engine.request import SamplingParams


def _prompts(count: int, longest: int, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [
        [rng.randrange(VOCABULARY) for _ in range(rng.randint(1, longest))] for _ in range(count)
    ]


@pytest.mark.parametrize("step_tokens", [8, 16, 512])
@pytest.mark.parametrize("prefix_cache", [False, True])
def test_a_batch_gives_what_each_request_gives_alone(step_tokens: int, prefix_cache: bool) -> None:
    engine, _ = small_engine(step_tokens=step_tokens, prefix_cache=prefix_cache)
    prompts = _prompts(40, 60)
    for number, prompt in enumerate(prompts):
        engine.add(request(str(number), prompt, 5 + number % 20))
    tokens = tokens_of(run(engine))
    for number, prompt in enumerate(prompts):
        assert tokens[str(number), 0] == greedy_reference(prompt, 5 + number % 20)


@pytest.mark.parametrize("prefix_cache", [False, True])
def test_preempted_sequences_keep_their_tokens_and_end_the_same(prefix_cache: bool) -> None:
    engine, _ = small_engine(num_blocks=16, prefix_cache=prefix_cache)
    prompts = _prompts(12, 12)
    for number, prompt in enumerate(prompts):
        engine.add(request(str(number), prompt, 40))
    tokens = tokens_of(run(engine))
    assert engine.counters.preemptions > 0
    for number, prompt in enumerate(prompts):
        assert tokens[str(number), 0] == greedy_reference(prompt, 40)


def test_no_step_exceeds_the_token_budget_and_prompts_are_cut_into_chunks() -> None:
    engine, model = small_engine(step_tokens=8)
    engine.add(request("a", list(range(30)), 3))
    run(engine)
    assert model.rows_per_step == [8, 8, 8, 6, 1, 1]


def test_a_decoding_sequence_goes_on_while_a_prompt_is_read() -> None:
    engine, _ = small_engine(step_tokens=8)
    engine.add(request("first", [1, 2], 30))
    engine.step()
    engine.add(request("second", list(range(40)), 2))
    while engine.counters.output_tokens < 4:
        assert [output.key for output in engine.step()] == ["first"]


def test_a_known_prefix_is_not_computed_again() -> None:
    engine, model = small_engine()
    prompt = list(range(14))
    engine.add(request("a", prompt, 2))
    first = run(engine)
    model.rows_per_step.clear()
    engine.add(request("b", prompt, 2))
    second = run(engine)
    assert [o.cached_prompt_tokens for o in first] == [0, 0]
    assert [o.cached_prompt_tokens for o in second] == [12, 12]
    assert model.rows_per_step == [2, 1]
    assert [o.token_id for o in first] == [o.token_id for o in second]


def test_requests_of_one_step_share_the_prefix_that_this_step_computes() -> None:
    engine, model = small_engine(step_tokens=64)
    for key in "abc":
        engine.add(request(key, [*range(16), ord(key) % VOCABULARY], 1))
    outputs = run(engine)
    assert model.rows_per_step == [17 + 1 + 1]
    assert [o.cached_prompt_tokens for o in outputs] == [0, 16, 16]
    for key in "abc":
        prompt = [*range(16), ord(key) % VOCABULARY]
        assert tokens_of(outputs)[key, 0] == greedy_reference(prompt, 1)


def test_a_fully_cached_prompt_still_computes_its_last_token() -> None:
    engine, _ = small_engine()
    prompt = list(range(8))
    for key in "ab":
        engine.add(request(key, prompt, 4))
        outputs = run(engine)
        assert [o.token_id for o in outputs] == greedy_reference(prompt, 4)
    assert outputs[0].cached_prompt_tokens == 4


def test_the_prefix_cache_forgets_the_least_recently_used_first() -> None:
    engine, _ = small_engine(num_blocks=6, max_sequences=1)
    first, second, third = ([i] * 12 for i in (1, 2, 3))
    cached = {}
    for name, prompt in [("1", first), ("2", second), ("1 again", first), ("3", third)]:
        engine.add(request(name, prompt, 1))
        cached[name] = run(engine)[0].cached_prompt_tokens
    assert cached["1 again"] == 8
    engine.add(request("1 still", first, 1))
    assert run(engine)[0].cached_prompt_tokens == 8
    engine.add(request("2 gone", second, 1))
    assert run(engine)[0].cached_prompt_tokens == 0


def test_choices_of_one_request_share_the_prompt_and_differ() -> None:
    engine, model = small_engine(step_tokens=64)
    sampling = SamplingParams(temperature=1.0, seed=7)
    engine.add(request("a", list(range(20)), 12, n=4, sampling=sampling))
    tokens = tokens_of(run(engine))
    assert sorted(tokens) == [("a", index) for index in range(4)]
    assert len({tuple(ids) for ids in tokens.values()}) == 4
    assert model.rows_per_step[0] == 20 + 3 * 4


def test_samples_of_a_seed_do_not_depend_on_company_or_preemption() -> None:
    prompt = [3, 1, 4, 1, 5]
    sampling = SamplingParams(temperature=1.3, top_k=20, top_p=0.95, seed=11)
    alone, _ = small_engine()
    alone.add(request("a", prompt, 40, n=2, sampling=sampling))
    expected = tokens_of(run(alone))
    crowded, _ = small_engine(num_blocks=16)
    for number, other in enumerate(_prompts(6, 12)):
        crowded.add(request(f"{number}", other, 41, sampling=SamplingParams(1.0, seed=number)))
    crowded.add(request("a", prompt, 40, n=2, sampling=sampling))
    tokens = tokens_of(run(crowded))
    assert crowded.counters.preemptions > 0
    assert {key: ids for key, ids in tokens.items() if key[0] == "a"} == expected


def test_stop_ids_end_a_sequence_and_min_tokens_forbids_them() -> None:
    prompt = [5, 6, 7]
    free = greedy_reference(prompt, 8)
    engine, _ = small_engine()
    engine.add(request("stops", prompt, 50, stop_ids=[free[3]]))
    outputs = run(engine)
    assert [o.token_id for o in outputs] == free[: free.index(free[3]) + 1]
    assert outputs[-1].finish_reason == "stop"
    engine.add(request("later", prompt, 20, stop_ids=[free[3]], min_tokens=10))
    ids = [o.token_id for o in run(engine)]
    assert len(ids) > 10
    assert free[3] not in ids[:10]


def test_max_tokens_context_and_cache_end_a_sequence_with_length() -> None:
    engine, _ = small_engine(context_tokens=10)
    engine.add(request("tokens", [1], 4))
    engine.add(request("context", [1, 2], 4000))
    outputs = run(engine)
    ends = {o.key: o.finish_reason for o in outputs}
    assert ends == {"tokens": "length", "context": "length"}
    assert len(tokens_of(outputs)["context", 0]) == 8
    engine, _ = small_engine(num_blocks=2)
    engine.add(request("cache", [1, 2], 4000))
    assert len(run(engine)) == 2 * 4 + 1 - 2


def test_requests_that_could_never_run_are_refused() -> None:
    engine, _ = small_engine(context_tokens=10)
    for bad in (request("a", [], 1), request("a", [1] * 10, 1), request("a", [1], 1, n=0)):
        with pytest.raises(ValueError, match="cannot run"):
            engine.add(bad)
    engine.add(request("a", [1], 1))
    with pytest.raises(ValueError, match="another key"):
        engine.add(request("a", [1], 1))


def test_time_in_the_model_is_counted_apart() -> None:
    engine, model = small_engine()
    engine.add(request("a", [1, 2, 3], 4))
    assert engine.counters.forward_s == 0
    began_s = time.monotonic()
    seen = []
    while engine.has_work:
        engine.step()
        seen.append(engine.counters.forward_s)
    assert len(seen) == len(model.rows_per_step)
    assert seen == sorted(set(seen))
    assert 0 < seen[-1] < time.monotonic() - began_s


def test_an_engine_that_is_idle_often_checks_itself_at_most_once_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine, _ = small_engine()
    checks = []
    monkeypatch.setattr(engine._scheduler, "check_integrity", lambda: checks.append(1))
    began_s = time.monotonic()
    for number in range(20):
        engine.add(request(str(number), [1, number], 1))
        while engine.has_work:
            engine.step()
    assert 1 <= len(checks) <= 1 + (time.monotonic() - began_s)


def test_a_cancelled_request_is_gone_at_once_and_others_go_on() -> None:
    engine, _ = small_engine(max_sequences=2)
    for key in "abcd":
        engine.add(request(key, [1, 2, ord(key) % VOCABULARY], 20))
    engine.step()
    engine.cancel("a")  # running
    engine.cancel("d")  # waiting
    engine.cancel("unknown")
    engine.check_integrity()
    tokens = tokens_of(run(engine))
    assert ("a", 0) not in tokens and ("d", 0) not in tokens
    assert len(tokens["c", 0]) == 20
    assert engine.counters.kv_blocks_used == 0


def test_one_choice_can_be_ended_from_outside() -> None:
    engine, _ = small_engine()
    sampling = SamplingParams(temperature=1.0, seed=3)
    engine.add(request("a", [1, 2, 3], 10, n=2, sampling=sampling))
    engine.step()
    engine.end("a", 0)
    tokens = tokens_of(run(engine))
    assert len(tokens["a", 1]) == 9
    assert ("a", 0) not in tokens


def test_logprobs_are_those_of_the_unchanged_distribution() -> None:
    engine, _ = small_engine()
    sampling = SamplingParams(temperature=0.5, top_k=3, logit_bias=((5, 9.0),), top_logprobs=4)
    engine.add(request("a", [1, 2, 3], 1, sampling=sampling))
    (output,) = run(engine)
    expected = logits_after([1, 2, 3]).log_softmax(-1)
    assert output.logprobs is not None
    assert output.logprobs.logprob == pytest.approx(float(expected[output.token_id]))
    values, ids = expected.topk(4)
    assert [token for token, _ in output.logprobs.top] == ids.tolist()
    assert [value for _, value in output.logprobs.top] == pytest.approx(values.tolist())


def test_a_sequence_whose_logits_are_no_numbers_fails_alone() -> None:
    engine, model = small_engine()
    engine.add(request("good", [1, 2], 6))
    engine.add(request("bad", [3, 4], 6))
    engine.step()
    model.broken_after = (3, 4, greedy_reference([3, 4], 1)[0])
    outputs = run(engine)
    assert [(o.key, o.finish_reason) for o in outputs if o.failed] == [("bad", None)]
    assert len(tokens_of(outputs)["good", 0]) == 5
    assert engine.counters.kv_blocks_used == 0


def test_limits_that_could_not_work_are_refused() -> None:
    with pytest.raises(SettingsError, match="step_tokens"):
        EngineConfig(max_sequences=9, step_tokens=8, num_blocks=1, context_tokens=1)
    with pytest.raises(SettingsError, match="num_blocks"):
        EngineConfig(max_sequences=1, step_tokens=8, num_blocks=0, context_tokens=1)
