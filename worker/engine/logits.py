"""What decoding parameters do to a batch of logits, a parameter per row.

Pure functions of tensors (R, V); each equals the processor of the same kind in transformers.
Never a loop over rows or over the vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

_CANDIDATES = 2048  # top-p first looks among so many; sorting a whole vocabulary is slow
_ROWS_AT_ONCE = 16  # bounds the memory of float64 sums over the vocabulary


def penalize(
    logits: Tensor,
    entries: tuple[Tensor, Tensor, Tensor],
    penalties: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Apply repetition, presence and frequency penalties in place.

    `entries`: row, token and times sampled (E,) of every token seen, each pair once.
    `penalties`: repetition, presence and frequency (R,). Repetition looks at prompt and output
    (as in transformers), the other two at the output only (as OpenAI documents them).
    """
    rows, ids, counts = entries
    repetition, presence, frequency = (penalty[rows] for penalty in penalties)
    values = logits[rows, ids]
    values = torch.where(values < 0, values * repetition, values / repetition)
    logits[rows, ids] = values - presence * (counts > 0) - frequency * counts


def keep_top_k(logits: Tensor, top_k: Tensor) -> Tensor:
    """Keep what is not less than the row's k-th largest; `top_k` (R,) from 1 to V."""
    largest = logits.topk(int(top_k.max()), dim=-1).values  # (R, k)
    threshold = largest.gather(-1, (top_k - 1).unsqueeze(-1))
    return logits.masked_fill(logits < threshold, -torch.inf)


def keep_top_p(logits: Tensor, top_p: Tensor) -> Tensor:
    """Keep the fewest most likely tokens whose probabilities reach `top_p` (R,), at least one."""
    total = logits.logsumexp(-1, keepdim=True)
    num = min(_CANDIDATES, logits.shape[-1])
    values, ids = logits.topk(num, dim=-1)  # descending
    reached = (values - total).exp().sum(-1)
    if num < logits.shape[-1] and bool((reached < top_p).any()):
        values, ids = logits.sort(dim=-1, descending=True)
    probabilities = (values - total).exp()
    before = probabilities.cumsum(-1) - probabilities
    kept = values.masked_fill(before >= top_p.unsqueeze(-1), -torch.inf)
    kept[:, 0] = values[:, 0]
    return torch.full_like(logits, -torch.inf).scatter_(-1, ids, kept)


def keep_min_p(logits: Tensor, min_p: Tensor) -> Tensor:
    """Keep tokens at least `min_p` (R,) times as likely as the row's most likely one."""
    threshold = logits.amax(-1) + min_p.log()  # log 0 = -inf keeps all
    return logits.masked_fill(logits < threshold.unsqueeze(-1), -torch.inf)


def draw(logits: Tensor, uniforms: Tensor) -> Tensor:
    """One token per row from softmax(logits), by the row's number in [0, 1): (R,) int64.

    Inverse of the cumulative distribution in token order: a change in the last bits of the logits
    moves a sample only when its number lies that near to a boundary.
    """
    starts = range(0, len(logits), _ROWS_AT_ONCE)
    pieces = [slice(start, start + _ROWS_AT_ONCE) for start in starts]
    return torch.cat([_draw(logits[piece], uniforms[piece]) for piece in pieces])


def _draw(logits: Tensor, uniforms: Tensor) -> Tensor:
    weights = (logits - logits.amax(-1, keepdim=True)).exp()
    cumulative = weights.cumsum(-1, dtype=torch.float64)  # (R, V)
    wanted = uniforms.unsqueeze(-1) * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, wanted, right=True).squeeze(-1)
    return tokens.clamp_(max=logits.shape[-1] - 1)
