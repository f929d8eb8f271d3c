"""Static batches over `generate` give the answers of continuous batching."""

from __future__ import annotations

from collections.abc import Sequence as Rows

import pytest
import torch

from tests.llm.paged_session import random_sequences
from tests.llm.tiny_models import make_model, make_reference
from worker.engine.config import EngineConfig
from worker.engine.output import SequenceOutput
from worker.engine.request import EngineRequest, SamplingParams, StopRules
from worker.engine.sequence import Sequence
from worker.engine.static_engine import StaticEngine, next_batch
from worker.llm.generating import Choose, Generator

CONFIG = EngineConfig(max_sequences=4, step_tokens=64, num_blocks=16, context_tokens=128)


def request(key: str, prompt: Rows[int], max_tokens: int = 8, **sampling: float) -> EngineRequest:
    return EngineRequest(
        key=key,
        prompt_ids=tuple(prompt),
        stop=StopRules(max_tokens=max_tokens),
        sampling=SamplingParams(**sampling),  # type: ignore[arg-type]
    )


def run(engine: StaticEngine) -> dict[tuple[str, int], list[SequenceOutput]]:
    outputs: dict[tuple[str, int], list[SequenceOutput]] = {}
    while engine.has_work:
        for output in engine.step():
            outputs.setdefault((output.key, output.index), []).append(output)
    return outputs


def tokens_of(outputs: Rows[SequenceOutput]) -> list[int]:
    return [output.token_id for output in outputs]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bloom"])
def test_greedy_answers_are_those_of_generate_alone(kind: str) -> None:
    model = make_reference() if kind == "llama" else make_model(kind)
    prompts = random_sequences([5, 19, 3, 11, 27, 8, 2])
    engine = StaticEngine(Generator(model, 128), CONFIG)
    for number, prompt in enumerate(prompts):
        engine.add(request(str(number), prompt, max_tokens=4 + number))
    outputs = run(engine)
    for number, prompt in enumerate(prompts):
        alone = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            do_sample=False,
            max_new_tokens=4 + number,
            eos_token_id=None,
        )
        found = outputs[str(number), 0]
        assert tokens_of(found) == alone[0, len(prompt) :].tolist()
        assert [output.finish_reason for output in found[:-1]] == [None] * (3 + number)
        assert found[-1].finish_reason == "length"
    assert engine.counters.output_tokens == sum(4 + number for number in range(7))


def test_draws_depend_on_nobody_else() -> None:
    model = Generator(make_reference(), 128)
    prompts = random_sequences([5, 19, 11])
    together = StaticEngine(model, CONFIG)
    for number, prompt in enumerate(prompts):
        together.add(request(str(number), prompt, temperature=0.9, seed=number))
    found = run(together)
    for number, prompt in enumerate(prompts):
        alone = StaticEngine(model, CONFIG)
        alone.add(request("0", prompt, temperature=0.9, seed=number))
        assert tokens_of(run(alone)["0", 0]) == tokens_of(found[str(number), 0])


def test_a_cancelled_row_is_idle_and_a_cancelled_batch_makes_room() -> None:
    engine = StaticEngine(Generator(make_reference(), 128), CONFIG)
    prompts = random_sequences([5, 6, 7])
    for number, prompt in enumerate(prompts):
        engine.add(request(str(number), prompt, max_tokens=30))
    engine.step()
    engine.cancel("1")
    assert engine.counters.running == 2
    engine.cancel("0")
    engine.cancel("2")
    assert not engine.has_work
    engine.add(request("3", prompts[0], max_tokens=3))
    assert len(run(engine)["3", 0]) == 3


class Failing:
    """A model that breaks in its first step, as out of memory."""

    def generate(self, prompts: Rows[Rows[int]], choose: Choose) -> None:  # noqa: ARG002
        raise MemoryError("no memory")


def test_what_the_model_raises_reaches_who_steps() -> None:
    engine = StaticEngine(Failing(), CONFIG)
    engine.add(request("0", [1, 2]))
    with pytest.raises(MemoryError):
        engine.step()


class Nothing:
    """A model that computes no numbers."""

    def generate(self, prompts: Rows[Rows[int]], choose: Choose) -> None:
        while choose(torch.full((len(prompts), 9), torch.nan)) is not None:
            pass


def test_a_row_without_numbers_fails_and_ends() -> None:
    engine = StaticEngine(Nothing(), CONFIG)
    engine.add(request("0", [1, 2]))
    (output,) = run(engine)["0", 0]
    assert output.failed


def sequence(arrival: int, prompt: int, output: int) -> Sequence:
    return Sequence(request(str(arrival), [1] * prompt, output), 0, arrival)


def padded_tokens(batch: Rows[Sequence]) -> int:
    """Of one row, when all of them are filled up."""
    prompts = max(each.num_prompt_tokens for each in batch)
    return prompts + max(each.request.stop.max_tokens for each in batch)


def test_a_batch_has_the_oldest_and_its_likes_within_memory() -> None:
    lengths = [(60, 10), (3, 5), (58, 10), (90, 30), (63, 10), (2, 4)]
    waiting = [sequence(number, *length) for number, length in enumerate(lengths)]
    batch = next_batch(waiting, CONFIG)
    assert [each.arrival for each in batch] == [0, 2, 4]  # 3 of 73 are 219, 4 would be 292
    small = EngineConfig(max_sequences=2, step_tokens=64, num_blocks=16, context_tokens=128)
    assert [each.arrival for each in next_batch(waiting, small)] == [0, 2]


def test_everything_is_run_however_it_is_cut() -> None:
    waiting = [sequence(n, 1 + (7 * n) % 40, 1 + (5 * n) % 60) for n in range(50)]
    seen: list[int] = []
    while waiting:
        batch = next_batch(waiting, CONFIG)
        assert len(batch) == 1 or padded_tokens(batch) * len(batch) <= CONFIG.cache_tokens
        seen += [each.arrival for each in batch]
        waiting = [each for each in waiting if each not in batch]
    assert sorted(seen) == list(range(50))


def test_a_long_prompt_and_a_long_answer_share_no_batch_that_is_longer_than_the_context() -> None:
    roomy = EngineConfig(max_sequences=4, step_tokens=64, num_blocks=64, context_tokens=128)
    engine = StaticEngine(Generator(make_reference(), 128), roomy)
    long, short = random_sequences([100, 4])
    engine.add(request("prompt", long, max_tokens=28))
    engine.add(request("answer", short, max_tokens=120))
    engine.add(request("both", long[:60], max_tokens=60))
    outputs = run(engine)
    assert {key: len(found) for (key, _), found in outputs.items()} == {
        "prompt": 28,
        "answer": 120,
        "both": 60,
    }
