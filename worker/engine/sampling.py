"""The next token of every row of a step, each by the parameters of its own request.

Order as in transformers: bias, penalties, minimum length, temperature, top-k, top-p, min-p.
Knows token ids only. Rows that need nothing but the most likely token are one argmax.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from worker.engine.logits import draw, keep_min_p, keep_top_k, keep_top_p, penalize
from worker.engine.random_numbers import uniform
from worker.engine.request import SamplingParams
from worker.engine.sequence import Sequence
from worker.engine.token_counts import TokenCounts

MIN_LOGPROB = -9999.0  # stands for what JSON does not have: minus infinity, not a number


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural log probabilities at one position, of the model's own distribution."""

    logprob: float  # of the chosen token
    top: tuple[tuple[int, float], ...]  # token and log probability, most likely first


@dataclass(frozen=True, slots=True)
class Sampled:
    """What was chosen for one row; nothing that means anything when the row was no numbers."""

    token_id: int
    logprobs: TokenLogprobs | None
    failed: bool = False  # the model computed NaN or infinity


class Sampler:
    """Chooses tokens; remembers per sequence which tokens were seen, while penalties need it."""

    def __init__(self) -> None:
        self._counts: WeakKeyDictionary[Sequence, TokenCounts] = WeakKeyDictionary()

    @torch.no_grad()
    def sample(self, logits: Tensor, sequences: Rows[Sequence]) -> list[Sampled]:
        """Choose a token per row of `logits` (R, V) float32, row i for `sequences[i]`."""
        if not sequences:
            return []
        largest, tokens = logits.max(-1)  # (R,), NaN where any logit is
        likeliest = zip(sequences, tokens.tolist(), strict=True)
        special = [row for row, likely in enumerate(likeliest) if _is_special(*likely)]
        if special:
            rows = torch.tensor(special)
            tokens[rows] = self._choose(logits[rows], [sequences[row] for row in special])
        logprobs = _logprobs(logits, tokens, [s.request.sampling for s in sequences])
        failed = largest.isfinite().logical_not_().tolist()
        return [Sampled(*row) for row in zip(tokens.tolist(), logprobs, failed, strict=True)]

    def forget(self, sequence: Sequence) -> None:
        """Take no memory for a sequence that has ended, whoever keeps it."""
        self._counts.pop(sequence, None)

    def process(self, logits: Tensor, sequences: Rows[Sequence]) -> Tensor:
        """The logits after bias, penalties and minimum length; changes `logits` (R, V)."""
        _add_bias(logits, [s.request.sampling for s in sequences])
        self._penalize(logits, sequences)
        _suppress(logits, sequences)
        return logits

    def _choose(self, logits: Tensor, sequences: Rows[Sequence]) -> Tensor:
        logits = self.process(logits, sequences)
        tokens = logits.argmax(-1)
        drawing = [row for row, s in enumerate(sequences) if not s.request.sampling.greedy]
        if drawing:
            rows = torch.tensor(drawing)
            drawn = [sequences[row] for row in drawing]
            warped = warp(logits[rows], [s.request.sampling for s in drawn])
            numbers = [_uniform(sequence) for sequence in drawn]
            tokens[rows] = draw(warped, torch.tensor(numbers, dtype=torch.float64))
        return tokens

    def _penalize(self, logits: Tensor, sequences: Rows[Sequence]) -> None:
        penalized = [(row, s) for row, s in enumerate(sequences) if s.request.sampling.penalizes]
        if not penalized:
            return
        counts = [self._counted(sequence) for _, sequence in penalized]
        sizes = torch.tensor([len(count.ids) for count in counts])
        rows = torch.tensor([row for row, _ in penalized]).repeat_interleave(sizes)
        ids = torch.cat([count.ids for count in counts])
        times = torch.cat([count.counts for count in counts])
        params = [s.request.sampling for s in sequences]
        penalties = (
            _column(params, lambda p: p.repetition_penalty),
            _column(params, lambda p: p.presence_penalty),
            _column(params, lambda p: p.frequency_penalty),
        )
        penalize(logits, (rows, ids, times), penalties)

    def _counted(self, sequence: Sequence) -> TokenCounts:
        counts = self._counts.get(sequence)
        if counts is None:
            counts = self._counts[sequence] = TokenCounts(sequence.request.prompt_ids)
        counts.catch_up(sequence.output_ids)
        return counts


def warp(logits: Tensor, params: Rows[SamplingParams]) -> Tensor:
    """The logits (R, V) to draw from: temperature, then top-k, top-p and min-p where given."""
    vocabulary = logits.shape[-1]
    logits = logits / _column(params, lambda p: p.temperature).unsqueeze(-1)
    logits = _where(
        logits, params, lambda p: 0 < p.top_k < vocabulary, lambda p: p.top_k, keep_top_k
    )
    logits = _where(logits, params, lambda p: p.top_p < 1, lambda p: p.top_p, keep_top_p)
    return _where(logits, params, lambda p: p.min_p > 0, lambda p: p.min_p, keep_min_p)


def _where(
    logits: Tensor,
    params: Rows[SamplingParams],
    wanted: Callable[[SamplingParams], bool],
    value: Callable[[SamplingParams], float],
    apply: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Apply to the rows that ask for it."""
    chosen = [row for row, p in enumerate(params) if wanted(p)]
    if not chosen:
        return logits
    values = torch.tensor([value(params[row]) for row in chosen])
    if len(chosen) == len(params):
        return apply(logits, values)
    rows = torch.tensor(chosen)
    return logits.index_copy(0, rows, apply(logits[rows], values))


def _add_bias(logits: Tensor, params: Rows[SamplingParams]) -> None:
    entries = [(row, i, bias) for row, p in enumerate(params) for i, bias in p.logit_bias]
    if entries:
        rows, ids, values = zip(*entries, strict=True)
        place = (torch.tensor(rows), torch.tensor(ids))
        logits.index_put_(place, torch.tensor(values, dtype=logits.dtype), accumulate=True)


def _suppress(logits: Tensor, sequences: Rows[Sequence]) -> None:
    """Make the ends impossible where min_tokens is not reached."""
    entries = [
        (row, token)
        for row, sequence in enumerate(sequences)
        if sequence.must_not_stop
        for token in sequence.request.stop.suppressed_ids
    ]
    if entries:
        rows, ids = zip(*entries, strict=True)
        logits[torch.tensor(rows), torch.tensor(ids)] = -torch.inf


def _logprobs(
    logits: Tensor, tokens: Tensor, params: Rows[SamplingParams]
) -> list[TokenLogprobs | None]:
    result: list[TokenLogprobs | None] = [None] * len(params)
    wanted = [(row, p.top_logprobs) for row, p in enumerate(params) if p.top_logprobs is not None]
    if not wanted:
        return result
    rows = torch.tensor([row for row, _ in wanted])
    all_logprobs = logits[rows].log_softmax(-1)  # (W, V)
    all_logprobs = all_logprobs.nan_to_num(nan=MIN_LOGPROB, neginf=MIN_LOGPROB)
    chosen = all_logprobs.gather(-1, tokens[rows].unsqueeze(-1)).squeeze(-1).tolist()
    largest = all_logprobs.topk(max(num for _, num in wanted), dim=-1)
    top = zip(largest.indices.tolist(), largest.values.tolist(), strict=True)
    for (row, num), logprob, (ids, values) in zip(wanted, chosen, top, strict=True):
        pairs = tuple(zip(ids[:num], values[:num], strict=True))
        result[row] = TokenLogprobs(logprob, pairs)
    return result


def _is_special(sequence: Sequence, likeliest: int) -> bool:
    """Whether anything but the most likely token may be taken."""
    params = sequence.request.sampling
    may_not_be = likeliest in sequence.request.stop.suppressed_ids and sequence.must_not_stop
    return not params.greedy or params.penalizes or bool(params.logit_bias) or may_not_be


def _uniform(sequence: Sequence) -> float:
    """The random number of the sequence's next token."""
    return uniform(sequence.request.sampling.seed, sequence.index, sequence.num_output_tokens)


def _column(params: Iterable[SamplingParams], value: Callable[[SamplingParams], float]) -> Tensor:
    return torch.tensor([value(p) for p in params], dtype=torch.float32)
