"""Random lives of requests: blocks are never lost, limits always hold, everything ends."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.engine.stand_in import greedy_reference, request, run, small_engine, tokens_of
from worker.engine.block_manager import BlockManager
from worker.engine.config import EngineConfig
from worker.engine.scheduler import Part, Scheduler
from worker.engine.sequence import Phase, Sequence
from worker.engine.waiting_order import WINDOW_REQUESTS, in_starting_order

# Few token ids and short blocks, so that prefixes meet often.
token_lists = st.lists(st.integers(0, 2), min_size=1, max_size=30)


class BlockLife(RuleBasedStateMachine):
    """A block manager under any order of admissions, growth and release."""

    @initialize(num_blocks=st.integers(1, 12), prefix_cache=st.booleans())
    def start(self, num_blocks: int, prefix_cache: bool) -> None:
        self.blocks = BlockManager(num_blocks, 3, prefix_cache=prefix_cache)
        self.running: list[Sequence] = []

    @rule(tokens=token_lists, headroom=st.integers(0, 3))
    def admit(self, tokens: list[int], headroom: int) -> None:
        sequence = Sequence(request("r", tokens, 1), 0, 0)
        free = self.blocks.num_free
        if self.blocks.admit(sequence, headroom=headroom):
            self.running.append(sequence)
            assert sequence.num_computed < sequence.num_tokens
            assert len(sequence.blocks) == self.blocks.blocks_for(sequence.num_tokens)
            assert self.blocks.num_free >= headroom
        else:
            assert (self.blocks.num_free, sequence.blocks) == (free, [])

    @precondition(lambda self: self.running)
    @rule(data=st.data(), token=st.integers(0, 2))
    def compute_and_append(self, data: st.DataObject, token: int) -> None:
        sequence = data.draw(st.sampled_from(self.running))
        self.blocks.learn(sequence, sequence.num_tokens)
        sequence.num_computed = sequence.num_tokens
        sequence.token_ids.append(token)
        if not self.blocks.append(sequence):
            assert self.blocks.num_free == 0
            self.blocks.free(sequence)
            self.running.remove(sequence)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(self.running))
        self.blocks.free(sequence)
        self.running.remove(sequence)
        assert sequence.blocks == []

    @invariant()
    def integrity(self) -> None:
        if hasattr(self, "blocks"):
            self.blocks.check_integrity(self.running)


class SchedulerLife(RuleBasedStateMachine):
    """A scheduler whose steps compute nothing, with requests that come and go at any time."""

    @initialize(
        max_sequences=st.integers(1, 5),
        more_tokens=st.integers(0, 12),
        num_blocks=st.integers(4, 14),
        prefix_cache=st.booleans(),
    )
    def start(
        self, max_sequences: int, more_tokens: int, num_blocks: int, prefix_cache: bool
    ) -> None:
        self.config = EngineConfig(
            max_sequences=max_sequences,
            step_tokens=max_sequences + more_tokens,
            num_blocks=num_blocks,
            context_tokens=1000,
            block_tokens=3,
            prefix_cache=prefix_cache,
        )
        self.scheduler = Scheduler(self.config)
        self.live: list[Sequence] = []
        self.arrivals = 0

    @rule(tokens=token_lists, max_tokens=st.integers(1, 20), n=st.integers(1, 3))
    def add(self, tokens: list[int], max_tokens: int, n: int) -> None:
        prompt = tokens[: self.config.sequence_tokens - 1]
        made = request(str(self.arrivals), prompt, max_tokens, n=n)
        for index in range(n):
            sequence = Sequence(made, index, self.arrivals)
            self.scheduler.add(sequence)
            self.live.append(sequence)
        self.arrivals += 1

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self._remove(data.draw(st.sampled_from(self.live)))

    @rule(token=st.integers(0, 2))
    def step(self, token: int) -> None:
        parts = self.scheduler.schedule()
        assert bool(parts) == bool(self.live)
        self._check(parts)
        for part in parts:
            samples = part.samples
            self.scheduler.computed(part)
            if samples:
                self._append(part.sequence, token)

    @invariant()
    def integrity(self) -> None:
        if hasattr(self, "scheduler"):
            self.scheduler.check_integrity()
            assert self.scheduler.has_work == bool(self.live)

    def teardown(self) -> None:
        """Everything that was added comes to an end, and every block is free then."""
        if hasattr(self, "scheduler"):
            for _ in range(5000):
                if not self.live:
                    break
                self.step(0)
            assert not self.live
            assert self.scheduler.blocks_used == 0

    def _check(self, parts: list[Part]) -> None:
        sequences = [part.sequence for part in parts]
        assert sum(part.length for part in parts) <= self.config.step_tokens
        assert self.scheduler.num_running <= self.config.max_sequences
        assert len(set(map(id, sequences))) == len(sequences)
        for part in parts:
            assert part.sequence.phase is Phase.RUNNING
            assert part.start == part.sequence.num_computed
            assert part.length >= 1
            assert len(part.sequence.blocks) * 3 >= part.start + part.length

    def _append(self, sequence: Sequence, token: int) -> None:
        sequence.token_ids.append(token)
        full = sequence.num_tokens >= self.config.sequence_tokens
        if full or sequence.num_output_tokens >= sequence.request.stop.max_tokens:
            self._remove(sequence)

    def _remove(self, sequence: Sequence) -> None:
        self.scheduler.remove(sequence)
        self.live.remove(sequence)


TestBlockLife = BlockLife.TestCase
TestBlockLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSchedulerLife = SchedulerLife.TestCase
TestSchedulerLife.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


@settings(max_examples=40, deadline=None)
@given(
    prompts=st.lists(token_lists, min_size=1, max_size=10),
    num_blocks=st.integers(13, 30),
    max_sequences=st.integers(1, 6),
    more_tokens=st.integers(0, 20),
    cancelled=st.sets(st.integers(0, 9)),
)
def test_any_mix_gives_the_tokens_of_each_request_alone(
    prompts: list[list[int]],
    num_blocks: int,
    max_sequences: int,
    more_tokens: int,
    cancelled: set[int],
) -> None:
    engine, _ = small_engine(
        num_blocks=num_blocks,
        max_sequences=max_sequences,
        step_tokens=max_sequences + more_tokens,
    )
    for number, prompt in enumerate(prompts):
        engine.add(request(str(number), prompt, 1 + 7 * number % 20))
    outputs = engine.step()
    gone = {str(number) for number in cancelled}
    for key in gone:
        engine.cancel(key)
    tokens = tokens_of(outputs + run(engine))
    for number, prompt in enumerate(prompts):
        if str(number) not in gone:
            expected = greedy_reference(prompt, 1 + 7 * number % 20)
            assert tokens[str(number), 0] == expected


def _waiting(entries: list[tuple[list[int], int]], arrival: int = 0) -> list[Sequence]:
    return [
        Sequence(request(str(i), prompt, max_tokens), 0, arrival + i)
        for i, (prompt, max_tokens) in enumerate(entries)
    ]


def test_the_longest_expected_output_starts_first_and_shared_prefixes_together() -> None:
    shared = [7] * 64
    entries = [([1], 5), ([*shared, 1], 3), ([2], 9), ([*shared, 2], 20), ([3], 20)]
    order = [int(s.request.key) for s in in_starting_order(_waiting(entries))]
    assert order == [3, 1, 4, 2, 0]


def test_a_request_is_not_overtaken_by_much_later_ones() -> None:
    early = _waiting([([1], 1)])
    late = _waiting([([2], 1000)], arrival=WINDOW_REQUESTS)
    assert in_starting_order([*late, *early]) == [*early, *late]
