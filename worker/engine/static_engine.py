"""Static batches over a model that generates by itself: the same requests, the same answers.

For models whose own program owns the cache, and so decides when a sequence may join: nobody joins
or leaves a batch. Everything else (sampling, stop rules, duplicates) is the continuous engine's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Rows
from queue import Queue
from threading import Thread
from typing import Protocol

from torch import Tensor

from worker.engine.config import EngineConfig
from worker.engine.counters import EngineCounters
from worker.engine.duplicates import Duplicates
from worker.engine.output import SequenceOutput
from worker.engine.request import EngineRequest
from worker.engine.sampling import Sampler
from worker.engine.sequence import Sequence
from worker.engine.stopping import finish_reason
from worker.llm.generating import Choose

NO_TOKEN = 0  # what a row that has ended is fed until the batch has


class GeneratingModel(Protocol):
    """What a static batch needs of a model."""

    def generate(self, prompts: Rows[Rows[int]], choose: Choose) -> None:
        """Feed prompts, then tokens, until there are none.

        `choose` is given the logits (B, V) float32 of every step and gives the next token of each
        row, or None when all have ended.
        """
        ...


class StaticEngine:
    """Runs requests batch by batch; `step` until `has_work` is False.

    One thread calls all methods. Another one, of its own, is inside the model: the two take turns.
    """

    def __init__(self, model: GeneratingModel, config: EngineConfig) -> None:
        self.config = config
        self._model = model
        self._sampler = Sampler()
        self._duplicates = Duplicates(config.remembered_tokens)
        self._waiting: list[Sequence] = []
        self._rows: list[Sequence | None] = []  # of the batch that runs; None: has ended
        self._turns = _Turns(model)
        self._arrivals = self._steps = self._prompt_tokens = self._output_tokens = 0
        self._duplicate_tokens = 0
        self._forward_s = 0.0

    @property
    def has_work(self) -> bool:
        """Whether any sequence is not finished, or finished and not told to all."""
        return bool(self._waiting or self._running or self._duplicates.has_news)

    @property
    def counters(self) -> EngineCounters:
        """Figures up to now."""
        return EngineCounters(
            steps=self._steps,
            prompt_tokens=self._prompt_tokens,
            cached_prompt_tokens=self._duplicate_tokens,
            output_tokens=self._output_tokens,
            preemptions=0,
            forward_s=self._forward_s,
            running=len(self._running),
            waiting=len(self._waiting),
            kv_blocks_used=0,
        )

    def add(self, request: EngineRequest) -> None:
        """Queue a request. Raises ValueError for one that could never run to its end."""
        new = self._duplicates.admit(request, self._arrivals, self.config.sequence_tokens)
        self._duplicate_tokens += (request.n - len(new)) * len(request.prompt_ids)
        self._waiting += new
        self._arrivals += 1

    def cancel(self, key: str) -> None:
        """Forget a request; its row, if it has one, is idle until its batch ends."""
        self._drop(self._duplicates.leave(key))

    def end(self, key: str, index: int) -> None:
        """End one choice after its last token, as when its text holds a stop string."""
        self._drop(self._duplicates.leave(key, index))

    def step(self) -> list[SequenceOutput]:
        """Compute one token for every row of the batch, beginning one where none runs."""
        if not self._running and self._waiting:
            self._begin()
        if self._running:
            self._advance()
        return self._duplicates.take_news()

    @property
    def _running(self) -> list[Sequence]:
        return [sequence for sequence in self._rows if sequence is not None]

    def _begin(self) -> None:
        self._turns.finish()  # of a batch whose rows were all cancelled
        batch = next_batch(self._waiting, self.config)
        chosen = set(batch)
        self._waiting = [each for each in self._waiting if each not in chosen]
        self._rows = list(batch)
        now = time.monotonic()
        for sequence in batch:
            sequence.started_s = now
            self._prompt_tokens += sequence.num_prompt_tokens
        self._turns.begin([sequence.token_ids for sequence in batch])

    def _advance(self) -> None:
        began_s = time.monotonic()
        logits = self._turns.take()
        self._forward_s += time.monotonic() - began_s
        self._steps += 1
        tokens = [NO_TOKEN] * len(self._rows)
        live = [(row, each) for row, each in enumerate(self._rows) if each is not None]
        sampled = self._sampler.sample(logits[[row for row, _ in live]], [each for _, each in live])
        for (row, sequence), one in zip(live, sampled, strict=True):
            reason = None
            if not one.failed:
                tokens[row] = one.token_id
                sequence.token_ids.append(one.token_id)
                self._output_tokens += 1
                reason = finish_reason(sequence, self.config.sequence_tokens)
            self._duplicates.append(sequence, one, reason)
            if one.failed or reason is not None:
                self._drop([sequence])
        self._turns.give(tokens if self._running else None)

    def _drop(self, sequences: Rows[Sequence]) -> None:
        for sequence in sequences:
            self._sampler.forget(sequence)
        gone = set(sequences)
        self._waiting = [each for each in self._waiting if each not in gone]
        self._rows = [None if each in gone else each for each in self._rows]


def next_batch(waiting: Rows[Sequence], config: EngineConfig) -> list[Sequence]:
    """The sequence that waits longest, and those next to it in length, as far as they fit.

    Rows are padded to the longest prompt and run to the longest answer: together these have to
    stay within the context, and equal lengths waste least.
    """
    oldest = min(waiting, key=lambda each: (each.arrival, each.index))
    others = sorted(
        (each for each in waiting if each is not oldest),
        key=lambda each: (abs(_length(each) - _length(oldest)), each.arrival, each.index),
    )
    batch = [oldest]
    prompt, answer = oldest.num_prompt_tokens, oldest.request.stop.max_tokens
    for sequence in others:
        longest_prompt = max(prompt, sequence.num_prompt_tokens)
        longest_answer = max(answer, sequence.request.stop.max_tokens)
        padded = longest_prompt + longest_answer
        fits = padded <= config.context_tokens
        if fits and padded * (len(batch) + 1) <= config.cache_tokens:
            batch.append(sequence)
            prompt, answer = longest_prompt, longest_answer
        if len(batch) == config.max_sequences:
            break
    return batch


def _length(sequence: Sequence) -> int:
    """Tokens of prompt and answer at most."""
    return sequence.num_prompt_tokens + sequence.request.stop.max_tokens


class _Turns:
    """The engine's thread and the model's, one of which waits for the other at any time."""

    def __init__(self, model: GeneratingModel) -> None:
        self._prompts: Queue[Rows[Rows[int]]] = Queue()
        self._logits: Queue[Tensor | Exception | None] = Queue()  # None: the batch has ended
        self._tokens: Queue[list[int] | None] = Queue()
        self._model = model
        self._is_running = False
        Thread(target=self._generate, name="generate", daemon=True).start()

    def begin(self, prompts: Rows[Rows[int]]) -> None:
        """Let the model compute the first step of a batch."""
        self._is_running = True
        self._prompts.put(prompts)

    def take(self) -> Tensor:
        """The logits of a step; raises what the model raised."""
        logits = self._logits.get()
        if isinstance(logits, Exception):
            self._is_running = False
            raise logits
        if logits is None:
            raise RuntimeError("the model ended a batch by itself")
        return logits

    def give(self, tokens: list[int] | None) -> None:
        """Let the model compute the next step of these tokens, or (None) end the batch."""
        self._tokens.put(tokens)
        if tokens is None:
            self._end()

    def finish(self) -> None:
        """End a batch that runs for nobody any more."""
        if self._is_running:
            self.take()
            self.give(None)

    def _end(self) -> None:
        ended = self._logits.get()
        self._is_running = False
        if isinstance(ended, Exception):
            raise ended

    def _generate(self) -> None:
        while True:
            prompts = self._prompts.get()
            try:
                self._model.generate(prompts, self._choose)
                self._logits.put(None)
            except Exception as exc:  # it is the engine's thread that can tell somebody
                self._logits.put(exc)

    def _choose(self, logits: Tensor) -> list[int] | None:
        self._logits.put(logits)
        return self._tokens.get()
