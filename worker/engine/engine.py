"""Continuous batching over one model: token ids in, token ids out.

Knows nothing of text, processes or time limits. One thread calls all methods.
"""

from __future__ import annotations

import math
import time
from typing import Protocol

from torch import Tensor

from worker.engine.config import EngineConfig
from worker.engine.counters import EngineCounters
from worker.engine.duplicates import Duplicates
from worker.engine.output import SequenceOutput
from worker.engine.request import EngineRequest
from worker.engine.sampling import Sampled, Sampler
from worker.engine.scheduler import Part, Scheduler
from worker.engine.sequence import Sequence
from worker.engine.stopping import finish_reason
from worker.llm.kv_cache import KVCache
from worker.llm.packed import PackedInput, Segment, pack_step

_CHECK_PERIOD_S = 1.0


class Model(Protocol):
    """What the engine needs of a model.

    In each layer the keys and values of all rows are written before any row attends: sequences
    of one step may share blocks that the same step fills.
    """

    def forward(self, packed: PackedInput, cache: KVCache) -> Tensor:
        """Logits (S, vocabulary) float32, one row per `packed.sample_rows`."""
        ...


class Engine:
    """Runs requests together; `step` until `has_work` is False."""

    def __init__(self, model: Model, cache: KVCache, config: EngineConfig) -> None:
        self.config = config
        self._model = model
        self._cache = cache
        self._scheduler = Scheduler(config)
        self._sampler = Sampler()
        self._duplicates = Duplicates(config.remembered_tokens)
        self._arrivals = 0
        self._steps = self._prompt_tokens = self._cached_tokens = self._output_tokens = 0
        self._forward_s = 0.0
        self._checked_at = -math.inf

    @property
    def has_work(self) -> bool:
        """Whether any sequence is not finished, or finished and not told to all."""
        return self._scheduler.has_work or self._duplicates.has_news

    @property
    def counters(self) -> EngineCounters:
        """Figures up to now."""
        return EngineCounters(
            steps=self._steps,
            prompt_tokens=self._prompt_tokens,
            cached_prompt_tokens=self._cached_tokens,
            output_tokens=self._output_tokens,
            preemptions=self._scheduler.preemptions,
            forward_s=self._forward_s,
            running=self._scheduler.num_running,
            waiting=self._scheduler.num_waiting,
            kv_blocks_used=self._scheduler.blocks_used,
        )

    def add(self, request: EngineRequest) -> None:
        """Queue a request. Raises ValueError for one that could never run to its end."""
        new = self._duplicates.admit(request, self._arrivals, self.config.sequence_tokens)
        self._cached_tokens += (request.n - len(new)) * len(request.prompt_ids)
        for sequence in new:
            self._scheduler.add(sequence)
        self._arrivals += 1

    def cancel(self, key: str) -> None:
        """Forget a request at once; unknown and finished ones are no error."""
        for sequence in self._duplicates.leave(key):
            self._scheduler.remove(sequence)

    def end(self, key: str, index: int) -> None:
        """End one choice after its last token, as when its text holds a stop string."""
        for sequence in self._duplicates.leave(key, index):
            self._scheduler.remove(sequence)

    def step(self) -> list[SequenceOutput]:
        """Run one step: schedule → forward → postprocess.

        One choice may get several tokens; whoever ends it has to ignore those that follow.
        """
        parts = self._scheduler.schedule()
        if not parts:
            return self._duplicates.take_news()
        logits = self._forward(self._pack(parts))
        sampled = self._sampler.sample(logits, [p.sequence for p in parts if p.samples])
        return self._postprocess(parts, sampled)

    def check_integrity(self) -> None:
        """Raise RuntimeError when the bookkeeping is broken; called by itself at times when idle.

        It looks at every block, and a small model is idle hundreds of times a second.
        """
        self._checked_at = time.monotonic()
        self._scheduler.check_integrity()
        self._duplicates.check_integrity()
        if not self.has_work and (self._duplicates.has_followers or self._scheduler.blocks_used):
            raise RuntimeError("the engine's bookkeeping is broken: idle, but something is held")

    def _forward(self, packed: PackedInput) -> Tensor:
        began_s = time.monotonic()
        logits = self._model.forward(packed, self._cache)
        self._forward_s += time.monotonic() - began_s
        return logits

    def _pack(self, parts: list[Part]) -> PackedInput:
        now = time.monotonic()
        segments = []
        for part in parts:
            sequence = part.sequence
            if sequence.started_s is None:
                sequence.started_s = now
                self._cached_tokens += sequence.cached_prompt_tokens or 0
            ids = sequence.token_ids[part.start : part.start + part.length]
            segments.append(Segment(ids, part.start, sequence.blocks, part.samples))
        return pack_step(segments, self.config.block_tokens)

    def _postprocess(self, parts: list[Part], sampled: list[Sampled]) -> list[SequenceOutput]:
        tokens = iter(sampled)
        self._steps += 1
        for part in parts:
            samples = part.samples
            self._scheduler.computed(part)
            self._prompt_tokens += part.length - samples * (part.sequence.num_output_tokens > 0)
            if samples:
                self._append(part.sequence, next(tokens))
        outputs = self._duplicates.take_news()
        if not self.has_work and time.monotonic() - self._checked_at >= _CHECK_PERIOD_S:
            self.check_integrity()
        return outputs

    def _append(self, sequence: Sequence, sampled: Sampled) -> None:
        reason = None
        if not sampled.failed:
            sequence.token_ids.append(sampled.token_id)
            self._output_tokens += 1
            reason = finish_reason(sequence, self.config.sequence_tokens)
        if sampled.failed or reason is not None:
            self._scheduler.remove(sequence)
            self._sampler.forget(sequence)
        self._duplicates.append(sequence, sampled, reason)
