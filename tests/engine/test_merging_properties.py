"""Whatever comes and goes: answers are the same whether duplicates are merged or not."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.stand_in import VOCABULARY, greedy_reference, request, small_engine
from worker.engine import duplicates
from worker.engine.output import SequenceOutput
from worker.engine.request import EngineRequest, SamplingParams

PROMPTS = [(1,), (3,) * 9]  # few of everything, so that many are alike
RULES = [(3, (), 0), (12, (), 0), (12, tuple(range(0, VOCABULARY, 6)), 2)]
SAMPLINGS = [
    SamplingParams(),
    SamplingParams(seed=5, top_k=3),
    SamplingParams(top_logprobs=2),
    SamplingParams(repetition_penalty=1.3, frequency_penalty=0.5),
    SamplingParams(logit_bias=((7, 3.0), (8, -3.0))),
    SamplingParams(temperature=1.0, seed=1),
]


@dataclass(frozen=True)
class Steps:
    """So many steps of the engine, as long as it has work."""

    count: int


@dataclass(frozen=True)
class Arrival:
    """A request whose choices have a stop string at their `stops_at`-th token."""

    wanted: EngineRequest
    stops_at: int


@dataclass(frozen=True)
class Cancellation:
    """Of the request that came so many requests ago."""

    ago: int


Event = Steps | Arrival | Cancellation

arrivals = st.builds(
    lambda prompt, rules, n, sampling, stops_at: Arrival(
        request(
            "", prompt, rules[0], stop_ids=rules[1], min_tokens=rules[2], n=n, sampling=sampling
        ),
        stops_at,
    ),
    st.sampled_from(PROMPTS),
    st.sampled_from(RULES),
    st.integers(1, 3),
    st.sampled_from(SAMPLINGS),
    st.sampled_from([1, 4, 100]),
)
steps, cancellations = (
    st.builds(Steps, st.integers(1, 6)),
    st.builds(Cancellation, st.integers(1, 5)),
)
scripts = st.lists(arrivals | steps | cancellations, min_size=2, max_size=24)


class Listener:
    """Plays events to an engine, and hears it as the backend does."""

    def __init__(self, broken_after: tuple[int, ...] | None, **limits: int) -> None:
        self.engine, model = small_engine(max_sequences=3, step_tokens=6, **limits)
        model.broken_after = broken_after
        self.heard: list[dict[int, list[SequenceOutput]]] = []  # by number of the request, index
        self.cancelled: set[int] = set()
        self._stops: list[int] = []

    def play(self, event: Event) -> None:
        match event:
            case Steps():
                for _ in range(event.count):
                    if self.engine.has_work:
                        self._step()
            case Arrival():
                key = str(len(self.heard))
                self.heard.append({index: [] for index in range(event.wanted.n)})
                self._stops.append(event.stops_at)
                self.engine.add(replace(event.wanted, key=key))
            case Cancellation():
                number = len(self.heard) - event.ago
                if number >= 0:
                    self.cancelled.add(number)
                    self.engine.cancel(str(number))
        self.engine.check_integrity()

    def answers(self, number: int) -> list[list[object]]:
        """What was heard of each choice of a request; a token that failed means nothing."""
        return [
            [o.failed or (o.token_id, o.finish_reason, o.logprobs) for o in outputs]
            for outputs in self.heard[number].values()
        ]

    def _step(self) -> None:
        for output in self.engine.step():
            number = int(output.key)
            assert number not in self.cancelled
            heard = self.heard[number][output.index]
            if len(heard) < self._stops[number]:
                heard.append(output)
                if len(heard) == self._stops[number]:
                    self.engine.end(output.key, output.index)


def play(script: list[Event], broken_after: tuple[int, ...] | None, **limits: int) -> Listener:
    """The whole script, and on until everything has ended."""
    listener = Listener(broken_after, **limits)
    for event in (*script, Steps(2000)):
        listener.play(event)
    assert not listener.engine.has_work
    assert listener.engine.counters.kv_blocks_used == 0
    return listener


@settings(max_examples=150, deadline=None)
@given(
    script=scripts,
    num_blocks=st.integers(6, 20),
    remembered_tokens=st.sampled_from([0, 60, 1000]),
    broken_after=st.sampled_from([None, None, (1, *greedy_reference([1], 2))]),
)
def test_merging_changes_no_answer(
    script: list[Event],
    num_blocks: int,
    remembered_tokens: int,
    broken_after: tuple[int, ...] | None,
) -> None:
    limits = {"num_blocks": num_blocks, "remembered_tokens": remembered_tokens}
    merged = play(script, broken_after, **limits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_identity", lambda _: None)
        apart = play(script, broken_after, **limits)
    for number in range(len(merged.heard)):
        for one, other in zip(merged.answers(number), apart.answers(number), strict=True):
            if number in merged.cancelled:  # perhaps earlier or later in its answer
                shared = min(len(one), len(other))
                one, other = one[:shared], other[:shared]
            assert one == other
    if not merged.cancelled:
        assert merged.engine.counters.output_tokens <= apart.engine.counters.output_tokens
