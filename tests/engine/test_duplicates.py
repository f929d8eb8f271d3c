"""Identical greedy requests: computed once, each told as if it ran alone."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache
from weakref import ref

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.engine.stand_in import greedy_reference, request, run, small_engine, tokens_of
from worker.engine import sampling
from worker.engine.duplicates import ANSWER_TOKENS
from worker.engine.engine import Engine
from worker.engine.request import EngineRequest, SamplingParams
from worker.engine.token_counts import TokenCounts

PROMPT = [3, 1, 4, 1, 5, 9]
PLAIN = request("plain", PROMPT, 9)


@pytest.fixture
def remembering() -> Engine:
    """An engine that remembers four finished answers of 25 tokens."""
    return small_engine(remembered_tokens=4 * (25 + ANSWER_TOKENS))[0]


def test_duplicates_are_computed_once_and_answered_like_each_alone() -> None:
    engine, model = small_engine()
    engine.add(request("other", [7, 7], 4))
    for key in "abc":
        engine.add(request(key, PROMPT, 9))
    assert engine.counters.waiting == 2
    outputs = run(engine)
    tokens = tokens_of(outputs)
    assert tokens["other", 0] == greedy_reference([7, 7], 4)
    for key in "abc":
        assert tokens[key, 0] == greedy_reference(PROMPT, 9)
        ends = [o.finish_reason for o in outputs if o.key == key]
        assert ends == [None] * 8 + ["length"]
    assert sum(model.rows_per_step) == (2 + 3) + (6 + 8)
    assert engine.counters.prompt_tokens == 2 + 6
    assert engine.counters.output_tokens == 4 + 9
    assert engine.counters.cached_prompt_tokens == 2 * 6
    assert {(o.key, o.cached_prompt_tokens) for o in outputs} == {
        ("other", 0), ("a", 0), ("b", 6), ("c", 6),
    }  # fmt: skip


def test_greedy_choices_of_one_request_are_computed_once() -> None:
    engine, model = small_engine()
    engine.add(request("a", PROMPT, 9, n=5))
    tokens = tokens_of(run(engine))
    assert tokens == {("a", index): greedy_reference(PROMPT, 9) for index in range(5)}
    assert sum(model.rows_per_step) == 6 + 8


@pytest.mark.parametrize(
    "other",
    [
        request("other", [*PROMPT, 2], 9),
        request("other", PROMPT, 8),
        request("other", PROMPT, 9, stop_ids=[40]),
        request("other", PROMPT, 9, min_tokens=1),
        request("other", PROMPT, 9, sampling=SamplingParams(repetition_penalty=1.1)),
        request("other", PROMPT, 9, sampling=SamplingParams(presence_penalty=1.0)),
        request("other", PROMPT, 9, sampling=SamplingParams(frequency_penalty=1.0)),
        request("other", PROMPT, 9, sampling=SamplingParams(logit_bias=((5, 1.0),))),
        request("other", PROMPT, 9, sampling=SamplingParams(top_logprobs=0)),
        request("other", PROMPT, 9, sampling=SamplingParams(temperature=1.0)),
    ],
)
def test_requests_with_another_prompt_rule_or_parameter_are_computed_apart(
    other: EngineRequest,
) -> None:
    engine, _ = small_engine()
    engine.add(PLAIN)
    engine.add(other)
    assert engine.counters.waiting == 2


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(seed=7),
        SamplingParams(temperature=1e-6),
        SamplingParams(top_k=5, top_p=0.5, min_p=0.1),
    ],
)
def test_parameters_of_chance_do_not_matter_where_there_is_none(sampling: SamplingParams) -> None:
    engine, _ = small_engine()
    engine.add(PLAIN)
    engine.add(request("other", PROMPT, 9, sampling=sampling))
    assert engine.counters.waiting == 1
    assert set(map(tuple, tokens_of(run(engine)).values())) == {tuple(greedy_reference(PROMPT, 9))}


def test_requests_that_draw_are_computed_apart_even_with_one_seed(remembering: Engine) -> None:
    drawn = request("a", PROMPT, 9, sampling=SamplingParams(temperature=1.0, seed=3))
    remembering.add(drawn)
    remembering.add(replace(drawn, key="b"))
    assert remembering.counters.waiting == 2
    run(remembering)
    remembering.add(drawn)
    assert remembering.counters.waiting == 1


def test_a_late_duplicate_hears_all_tokens_so_far_and_then_follows() -> None:
    engine, model = small_engine()
    engine.add(request("early", PROMPT, 9))
    for _ in range(4):
        engine.step()
    arrived_s = time.monotonic()
    engine.add(request("late", PROMPT, 9))
    outputs = engine.step()
    assert [o.key for o in outputs] == ["early", *["late"] * 5]
    assert all(o.started_s < arrived_s for o in outputs if o.key == "early")
    assert all(o.started_s >= arrived_s for o in outputs if o.key == "late")
    assert {o.cached_prompt_tokens for o in outputs if o.key == "late"} == {6}
    outputs += run(engine)
    assert tokens_of(outputs)["late", 0] == greedy_reference(PROMPT, 9)
    assert sum(model.rows_per_step) == 6 + 8


def test_a_duplicate_may_join_while_the_prompt_is_read() -> None:
    engine, model = small_engine(step_tokens=8)
    prompt = list(range(30))
    engine.add(request("early", prompt, 3))
    engine.step()
    engine.add(request("late", prompt, 3))
    tokens = tokens_of(run(engine))
    assert tokens["early", 0] == tokens["late", 0] == greedy_reference(prompt, 3)
    assert model.rows_per_step == [8, 8, 8, 6, 1, 1]


def test_each_duplicate_hears_the_log_probabilities() -> None:
    engine, _ = small_engine()
    sampling = SamplingParams(top_logprobs=3)
    engine.add(request("a", PROMPT, 4, sampling=sampling))
    engine.step()
    engine.add(request("b", PROMPT, 4, sampling=sampling))
    engine.cancel("a")
    outputs = run(engine)
    alone, _ = small_engine()
    alone.add(request("b", PROMPT, 4, sampling=sampling))
    assert [o.logprobs for o in outputs] == [o.logprobs for o in run(alone)]
    assert None not in [o.logprobs for o in outputs]


def test_others_go_on_when_one_is_cancelled_until_nobody_is_left() -> None:
    engine, _ = small_engine()
    for key in "abc":
        engine.add(request(key, PROMPT, 9))
    engine.step()
    engine.cancel("a")
    assert {o.key for o in engine.step()} == {"b", "c"}
    engine.cancel("c")
    assert [o.key for o in engine.step()] == ["b"]
    engine.cancel("b")
    engine.check_integrity()
    assert not engine.has_work
    assert engine.counters.kv_blocks_used == engine.counters.running == 0
    engine.add(request("a", PROMPT, 9))  # what nobody followed to its end begins again
    assert len(engine.step()) == 1


def test_the_prompt_is_computed_for_the_first_that_still_waits_for_it() -> None:
    engine, _ = small_engine()
    for key in "abc":
        engine.add(request(key, PROMPT, 2))
    engine.cancel("a")
    cached = {(o.key, o.cached_prompt_tokens) for o in run(engine)}
    assert cached == {("b", 0), ("c", 6)}


def test_one_choice_can_be_ended_while_its_duplicates_go_on() -> None:
    engine, _ = small_engine()
    engine.add(request("a", PROMPT, 9, n=2))
    engine.add(request("b", PROMPT, 9))
    engine.step()
    engine.end("a", 0)
    engine.end("a", 0)  # once more is no error
    tokens = tokens_of(run(engine))
    assert ("a", 0) not in tokens
    assert tokens["a", 1] == tokens["b", 0] == greedy_reference(PROMPT, 9)[1:]


def test_all_duplicates_hear_that_a_sequence_failed_and_it_is_tried_again_later() -> None:
    engine, model = small_engine(remembered_tokens=100)
    engine.add(request("a", PROMPT, 9))
    engine.step()
    model.broken_after = (*PROMPT, greedy_reference(PROMPT, 1)[0])
    engine.add(request("b", PROMPT, 9, n=2))
    outputs = run(engine)
    failures = [(o.key, o.index, o.finish_reason) for o in outputs if o.failed]
    assert failures == [("a", 0, None), ("b", 0, None), ("b", 1, None)]
    assert [o.failed for o in outputs if (o.key, o.index) == ("b", 1)] == [False, True]
    model.broken_after = None
    engine.add(request("again", PROMPT, 9))
    assert tokens_of(run(engine))["again", 0] == greedy_reference(PROMPT, 9)


def test_duplicates_are_preempted_together_and_end_the_same() -> None:
    engine, _ = small_engine(num_blocks=16)
    prompts = [[number, number] for number in range(10)]
    for copy in "ab":
        for number, prompt in enumerate(prompts):
            engine.add(request(f"{copy}{number}", prompt, 40))
    tokens = tokens_of(run(engine))
    assert engine.counters.preemptions > 0
    for number, prompt in enumerate(prompts):
        expected = greedy_reference(prompt, 40)
        assert tokens[f"a{number}", 0] == tokens[f"b{number}", 0] == expected


def test_a_finished_answer_is_told_again_without_computing() -> None:
    engine, model = small_engine(remembered_tokens=100)
    engine.add(request("a", PROMPT, 9))
    first = run(engine)
    before = engine.counters
    model.rows_per_step.clear()
    arrived_s = time.monotonic()
    engine.add(request("b", PROMPT, 9, n=2))
    assert engine.has_work
    assert engine.counters.waiting == engine.counters.running == 0
    outputs = engine.step()
    assert not engine.has_work
    engine.check_integrity()
    assert [o.token_id for o in outputs] == [o.token_id for o in first] * 2
    assert [o.finish_reason for o in outputs] == [o.finish_reason for o in first] * 2
    assert all(o.started_s >= arrived_s for o in outputs)
    assert {o.cached_prompt_tokens for o in outputs} == {6}
    assert model.rows_per_step == []
    assert engine.counters == replace(before, cached_prompt_tokens=2 * 6)


def test_a_remembered_answer_that_nobody_waits_for_is_no_work(remembering: Engine) -> None:
    remembering.add(PLAIN)
    run(remembering)
    remembering.add(replace(PLAIN, key="b"))
    remembering.add(replace(PLAIN, key="c"))
    remembering.cancel("b")
    assert remembering.has_work
    remembering.cancel("c")
    assert not remembering.has_work
    remembering.check_integrity()


def test_the_oldest_answers_are_forgotten_for_new_ones(remembering: Engine) -> None:
    prompts = {key: [ord(key) % 40] * 20 for key in "abcd"}  # 25 tokens each with their answers

    def computed(key: str, top_logprobs: int | None = None) -> bool:
        sampling = SamplingParams(top_logprobs=top_logprobs)
        remembering.add(request(key, prompts[key], 5, sampling=sampling))
        outputs = run(remembering)
        return outputs[0].cached_prompt_tokens < 20

    assert all(computed(key) for key in "abcd")
    assert not any(computed(key) for key in "abcd")  # exactly full
    assert computed("a", top_logprobs=4)  # 5 log probabilities for each of 5 tokens: 25 more
    assert not any(computed(key) for key in "cd")
    assert computed("a", top_logprobs=3)  # 20 more, so c and d have to go
    assert all(computed(key) for key in "dcba")


@pytest.mark.parametrize(
    "large",
    [
        request("large", [1], 1, sampling=SamplingParams(logit_bias=((2, 1.0),) * 101)),
        request("large", [1], 1, stop_ids=range(101)),
    ],
)
def test_long_rules_count_as_what_they_take(large: EngineRequest) -> None:
    engine, _ = small_engine(remembered_tokens=100)
    engine.add(large)
    run(engine)
    engine.add(replace(large, key="again"))
    assert engine.counters.waiting == 1


def test_an_answer_that_is_too_long_to_be_remembered_drops_nothing_that_runs() -> None:
    engine, _ = small_engine(remembered_tokens=10)
    engine.add(request("a", PROMPT, 9))
    assert len(run(engine)) == 9
    engine.add(request("a", PROMPT, 9))
    assert engine.counters.waiting == 1


def test_what_penalties_have_counted_is_not_kept_with_an_answer(
    remembering: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[ref[TokenCounts]] = []

    class Watched(TokenCounts):
        def __init__(self, prompt_ids: tuple[int, ...]) -> None:
            super().__init__(prompt_ids)
            counted.append(ref(self))

    monkeypatch.setattr(sampling, "TokenCounts", Watched)
    remembering.add(request("a", PROMPT, 9, sampling=SamplingParams(repetition_penalty=1.1)))
    run(remembering)
    assert [kept() for kept in counted] == [None]


@cache
def _reference(prompt: tuple[int, ...]) -> list[int]:
    return greedy_reference(prompt, 12)


class DuplicatesLife(RuleBasedStateMachine):
    """Few prompts in a small cache, so that duplicates meet in every state of a sequence."""

    @initialize(num_blocks=st.integers(6, 20), remembered_tokens=st.sampled_from([0, 40, 100]))
    def start(self, num_blocks: int, remembered_tokens: int) -> None:
        self.engine, self.model = small_engine(
            num_blocks=num_blocks,
            max_sequences=3,
            step_tokens=6,
            remembered_tokens=remembered_tokens,
        )
        self.heard: dict[tuple[str, int], list[int]] = {}  # by choice that has not ended
        self.asked: dict[str, EngineRequest] = {}
        self.num_added = 0

    @rule(
        prompt=st.sampled_from([(1,), (2, 2, 2, 2, 2), (3,) * 9]),
        max_tokens=st.sampled_from([4, 12]),
        n=st.integers(1, 3),
    )
    def add(self, prompt: tuple[int, ...], max_tokens: int, n: int) -> None:
        key = str(self.num_added)
        self.num_added += 1
        self.asked[key] = request(key, prompt, max_tokens, n=n)
        self.heard |= {(key, index): [] for index in range(n)}
        self.engine.add(self.asked[key])

    @precondition(lambda self: self.heard)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        key, _ = data.draw(st.sampled_from(sorted(self.heard)))
        self.engine.cancel(key)
        self.heard = {choice: ids for choice, ids in self.heard.items() if choice[0] != key}

    @precondition(lambda self: self.heard)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        choice = data.draw(st.sampled_from(sorted(self.heard)))
        self.engine.end(*choice)
        del self.heard[choice]

    @rule()
    def step(self) -> None:
        for output in self.engine.step():
            choice, asked = (output.key, output.index), self.asked[output.key]
            self.heard[choice].append(output.token_id)
            expected = _reference(asked.prompt_ids)[: asked.stop.max_tokens]
            assert self.heard[choice] == expected[: len(self.heard[choice])]
            assert (output.finish_reason == "length") == (self.heard[choice] == expected)
            if output.finish_reason is not None:
                del self.heard[choice]

    @invariant()
    def integrity(self) -> None:
        if hasattr(self, "engine"):
            self.engine.check_integrity()
            assert self.engine.has_work == bool(self.heard)
            counters = self.engine.counters
            wanted = {self.asked[key] for key, _ in self.heard}
            identities = {(asked.prompt_ids, asked.stop) for asked in wanted}
            assert counters.running + counters.waiting <= len(identities)

    def teardown(self) -> None:
        """Every choice that was not given up hears its end."""
        if hasattr(self, "engine"):
            for _ in range(1000):
                if not self.heard:
                    break
                self.step()
            assert not self.heard
            assert self.engine.counters.kv_blocks_used == 0


TestDuplicatesLife = DuplicatesLife.TestCase
TestDuplicatesLife.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
