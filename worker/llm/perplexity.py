"""How likely a model finds given texts, and which token it would have written in each place.

Perplexity is exp of the mean negative log-likelihood per token, in nats, as in Jelinek et al. 1977.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.llm.kv_cache import KVCache
from worker.llm.packed import Segment, pack_step
from worker.llm.paged_model import PagedModel

_BLOCK_TOKENS = 16
_MOST_LOGITS = 1 << 25  # of one step: 128 MiB in float32
_MOST_ROWS = 512


@dataclass(frozen=True, slots=True)
class Passage:
    """Token ids that a model reads from the start; those from `scored_from` on are scored."""

    token_ids: Sequence[int]
    scored_from: int  # at least 1: the first token has nothing before it


@dataclass(frozen=True, slots=True)
class PassageScore:
    """For each scored token: its log-likelihood, and the token that the model finds likeliest."""

    log_likelihoods: tuple[float, ...]
    likeliest: tuple[int, ...]


def score_passage(model: PagedModel, passage: Passage) -> PassageScore:
    """Read one passage in steps of some hundred tokens."""
    ids = passage.token_ids
    num_blocks = -(-len(ids) // _BLOCK_TOKENS)
    cache = KVCache(model.config, num_blocks, _BLOCK_TOKENS, model.compute_dtype)
    rows = most_rows(model.config.vocab_size)
    likelihoods: list[float] = []
    likeliest: list[int] = []
    for start in range(0, len(ids) - 1, rows):
        stop = min(start + rows, len(ids) - 1)
        segment = Segment(ids[start:stop], start, range(num_blocks), sample=True)
        packed = pack_step([segment], _BLOCK_TOKENS)
        first = min(max(0, passage.scored_from - 1 - start), stop - start)
        wanted = torch.arange(first, stop - start)
        logits = model.forward(dataclasses.replace(packed, sample_rows=wanted), cache)  # (S, V)
        found = scores_of(logits, ids[start + 1 + first : stop + 1])
        likelihoods += found.log_likelihoods
        likeliest += found.likeliest
    return PassageScore(tuple(likelihoods), tuple(likeliest))


def most_rows(vocab_size: int) -> int:
    """Tokens of one step, so that their logits take little memory."""
    return max(1, min(_MOST_ROWS, _MOST_LOGITS // vocab_size))


def scores_of(logits: Tensor, following: Sequence[int]) -> PassageScore:
    """Of logits (S, V) and the tokens that come after each row."""
    targets = torch.tensor(following, dtype=torch.long).unsqueeze(1)
    scores = logits.log_softmax(dim=1).gather(1, targets).squeeze(1)
    return PassageScore(tuple(scores.tolist()), tuple(logits.argmax(dim=1).tolist()))
