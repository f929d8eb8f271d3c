"""Which tokens of which sequences run in the next step. Torch-free.

Every step takes one token of each decoding sequence, then fills up to the token budget with
chunks of prompts. When blocks run out, the sequence admitted last gives its blocks back and is
computed again later; its sampled tokens are kept. The one admitted first always goes on, so all
requests that fit alone come to an end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from worker.engine.block_manager import BlockManager
from worker.engine.config import EngineConfig
from worker.engine.sequence import Phase, Sequence
from worker.engine.waiting_order import in_starting_order


@dataclass(frozen=True, slots=True)
class Part:
    """One sequence's part of a step: `length` tokens from `start` on."""

    sequence: Sequence
    start: int
    length: int

    @property
    def samples(self) -> bool:
        """Whether the part ends with the sequence's last token, so that the next is sampled."""
        return self.start + self.length == self.sequence.num_tokens


class Scheduler:
    """Owns the waiting and running sequences and their blocks."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._blocks = BlockManager(
            config.num_blocks, config.block_tokens, prefix_cache=config.prefix_cache
        )
        self._waiting: list[Sequence] = []
        self._waiting_sorted = True
        self._preempted: deque[Sequence] = deque()  # they start again before anything else
        self._running: list[Sequence] = []  # in order of admission
        self.preemptions = 0

    @property
    def num_running(self) -> int:
        """Sequences with blocks."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences without blocks."""
        return len(self._waiting) + len(self._preempted)

    @property
    def blocks_used(self) -> int:
        """Blocks held by running sequences."""
        return self._blocks.num_blocks - self._blocks.num_free

    @property
    def has_work(self) -> bool:
        """Whether any sequence is not finished."""
        return bool(self._running or self._waiting or self._preempted)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence that fits into the cache alone."""
        self._waiting.append(sequence)
        self._waiting_sorted = False

    def schedule(self) -> list[Part]:
        """The parts of the next step; at least one when there is work.

        The caller must run them all and then report each with `computed`.
        """
        preemptions_before = self.preemptions
        parts = list(self._decodes())
        budget = self._config.step_tokens - len(parts)
        for part in self._prompt_chunks(budget):
            parts.append(part)
            budget -= part.length
        if self.preemptions == preemptions_before:  # blocks are short: let others finish first
            parts.extend(self._admissions(budget))
        return parts

    def computed(self, part: Part) -> None:
        """Note that the part's keys and values are in the cache."""
        part.sequence.num_computed = part.start + part.length

    def remove(self, sequence: Sequence) -> None:
        """End a sequence, wherever it is; its blocks are free at once."""
        if sequence.phase is Phase.RUNNING:
            self._running.remove(sequence)
            self._blocks.free(sequence)
        elif sequence in self._preempted:
            self._preempted.remove(sequence)
        elif sequence.phase is Phase.WAITING:
            self._waiting.remove(sequence)
        sequence.phase = Phase.FINISHED

    def check_integrity(self) -> None:
        """Raise RuntimeError unless queues, phases and blocks agree; call between steps."""
        self._blocks.check_integrity(self._running)
        queued = [*self._waiting, *self._preempted]
        if any(s.phase is not Phase.RUNNING for s in self._running) or any(
            s.phase is not Phase.WAITING or s.blocks for s in queued
        ):
            raise RuntimeError("the scheduler's bookkeeping is broken: a queue holds a wrong phase")
        if len(self._running) > self._config.max_sequences:
            raise RuntimeError("the scheduler's bookkeeping is broken: too many sequences run")

    def _decodes(self) -> Iterator[Part]:
        """One token of every sequence that has just one to run, in order of admission."""
        position = 0
        while position < len(self._running):  # preemption shortens the list from its end
            sequence = self._running[position]
            position += 1
            if sequence.num_uncomputed == 1 and self._make_room(sequence):
                yield self._part(sequence, 1)

    def _prompt_chunks(self, budget: int) -> Iterator[Part]:
        """Go on with prompts that are running; their blocks were given at admission."""
        for sequence in self._running:
            if sequence.num_uncomputed > 1 and budget > 0:
                length = min(budget, sequence.num_uncomputed)
                budget -= length
                yield self._part(sequence, length)

    def _admissions(self, budget: int) -> Iterator[Part]:
        """Start waiting sequences while tokens, places and blocks last."""
        while budget > 0 and len(self._running) < self._config.max_sequences:
            sequence = self._next_waiting()
            if sequence is None or not self._blocks.admit(sequence, headroom=self._headroom):
                return
            self._pop_waiting()
            self._running.append(sequence)
            sequence.phase = Phase.RUNNING
            if sequence.cached_prompt_tokens is None:
                sequence.cached_prompt_tokens = sequence.num_computed
            length = min(budget, sequence.num_uncomputed)
            budget -= length
            yield self._part(sequence, length)

    def _part(self, sequence: Sequence, length: int) -> Part:
        """A part that is going to run for sure: what it completes is known from now on."""
        start = sequence.num_computed
        self._blocks.learn(sequence, start + length)
        return Part(sequence, start, length)

    def _make_room(self, sequence: Sequence) -> bool:
        """Find a slot for the newest token; False when the sequence itself had to go.

        Only sequences admitted later go, and none of them is part of this step yet.
        """
        while not self._blocks.append(sequence):
            last = self._running[-1]
            self._preempt(last)
            if last is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._blocks.free(sequence)
        sequence.phase = Phase.WAITING
        sequence.preemptions += 1
        self.preemptions += 1
        self._preempted.appendleft(sequence)

    @property
    def _headroom(self) -> int:
        """Blocks kept free at admission, so that what runs can grow before anything must go."""
        return max(1, self._config.num_blocks // 64) if self._running else 0

    def _next_waiting(self) -> Sequence | None:
        if self._preempted:
            return self._preempted[0]
        if not self._waiting_sorted:
            self._waiting = in_starting_order(self._waiting)
            self._waiting_sorted = True
        return self._waiting[0] if self._waiting else None

    def _pop_waiting(self) -> None:
        if self._preempted:
            self._preempted.popleft()
        else:
            self._waiting.pop(0)
