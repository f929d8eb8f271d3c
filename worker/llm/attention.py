"""Attention of packed rows over the paged cache.

The plan (which slots to read, which keys a row may see) is made once per step and used by every
layer. A sequence reads only slots that it has written itself: padding repeats its own last slot,
so that nothing another request left in the cache can reach it, not even a NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from worker.llm.packed import PackedInput, Span

# Decoding sequences are attended together while padding them to the longest stays cheap.
MAX_PADDING = 1.25
MAX_GROUP_TOKENS = 8192  # bounds the memory of one gather


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Sequences with one row each, their contexts padded to the longest."""

    rows: Tensor  # (B,)
    slots: Tensor  # (B, C)
    mask: Tensor | None  # (B, 1, 1, C), 0 or -inf; None when all see equally many


@dataclass(frozen=True, slots=True)
class PromptSpan:
    """One sequence with several rows."""

    start: int
    stop: int
    slots: Tensor  # (C,)
    mask: Tensor | None  # (L, C), 0 or -inf; None when the span starts its sequence


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """Every row of a step, once."""

    groups: tuple[DecodeGroup, ...]
    prompts: tuple[PromptSpan, ...]


def plan_attention(
    packed: PackedInput, block_tokens: int, dtype: torch.dtype, window_tokens: int | None = None
) -> AttentionPlan:
    """Plan a step for a cache of `block_tokens` slots per block and queries of `dtype`.

    With a window each row sees so many newest tokens, its own among them.
    """
    window = window_tokens or max((span.context for span in packed.spans), default=1)
    decodes = sorted((s for s in packed.spans if s.length == 1), key=lambda span: span.context)
    return AttentionPlan(
        groups=tuple(
            _decode_group(g, block_tokens, dtype, window) for g in _grouped(decodes, window)
        ),
        prompts=tuple(
            _prompt_span(span, block_tokens, dtype, window)
            for span in packed.spans
            if span.length > 1
        ),
    )


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    plan: AttentionPlan,
    softcap: float | None = None,
) -> Tensor:
    """Causal attention of query rows (T, heads, d) over cache slots (N, kv heads, d).

    Returns (T, heads, d). The scores are scaled by 1/sqrt(d), and bent to stay below `softcap`;
    the softmax is float32 inside.
    """
    output = torch.empty_like(query)
    for group in plan.groups:
        output.index_copy_(0, group.rows, _attend_group(query, keys, values, group, softcap))
    for span in plan.prompts:
        output[span.start : span.stop] = _attend_prompt(query, keys, values, span, softcap)
    return output


def soft_capped(x: Tensor, cap: float) -> Tensor:
    """Nearly x where it is small, and never above `cap`."""
    return torch.tanh(x / cap) * cap


def _attend_group(
    query: Tensor, keys: Tensor, values: Tensor, group: DecodeGroup, softcap: float | None
) -> Tensor:
    batch, context = group.slots.shape
    _, kv_heads, head_dim = keys.shape
    slots = group.slots.reshape(-1)
    # The query heads that share a key head are rows of one small product with it.
    q = query.index_select(0, group.rows).view(batch, kv_heads, -1, head_dim)
    k = keys.index_select(0, slots).view(batch, context, kv_heads, head_dim).transpose(1, 2)
    v = values.index_select(0, slots).view(batch, context, kv_heads, head_dim).transpose(1, 2)
    if softcap is None:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=group.mask)  # (B, kv heads, g, d)
    else:
        out = _capped_attention(q, k, v, group.mask, softcap)
    return out.reshape(batch, -1, head_dim)


def _attend_prompt(
    query: Tensor, keys: Tensor, values: Tensor, span: PromptSpan, softcap: float | None
) -> Tensor:
    _, kv_heads, head_dim = keys.shape
    length = span.stop - span.start
    shared = query.shape[1] // kv_heads
    q = query[span.start : span.stop].view(length, kv_heads, shared, head_dim).permute(1, 2, 0, 3)
    k = keys.index_select(0, span.slots).transpose(0, 1).unsqueeze(1)  # (kv heads, 1, C, d)
    v = values.index_select(0, span.slots).transpose(0, 1).unsqueeze(1)
    if softcap is None:
        out = F.scaled_dot_product_attention(
            q,
            k.expand(-1, shared, -1, -1),
            v.expand(-1, shared, -1, -1),
            attn_mask=span.mask,
            is_causal=span.mask is None,
        )  # (kv heads, shared, L, d)
    else:
        mask = _causal(length, q.dtype) if span.mask is None else span.mask
        out = _capped_attention(q, k, v, mask, softcap)
    return out.permute(2, 0, 1, 3).reshape(length, -1, head_dim)


def _capped_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, softcap: float
) -> Tensor:
    """As torch's, with the scores bent before the mask."""
    scores = q @ k.transpose(-1, -2) * q.size(-1) ** -0.5
    scores = soft_capped(scores, softcap)
    if mask is not None:
        scores = scores + mask
    return scores.softmax(dim=-1, dtype=torch.float32).to(q.dtype) @ v


def _causal(length: int, dtype: torch.dtype) -> Tensor:
    places = torch.arange(length)
    return _additive(places <= places[:, None], dtype)  # (L, L)


def _grouped(decodes: Sequence[Span], window: int) -> list[list[Span]]:
    """Cut spans in order of context into groups that waste little on padding."""
    groups: list[list[Span]] = []
    for span in decodes:
        if groups and _fits(groups[-1], span, window):
            groups[-1].append(span)
        else:
            groups.append([span])
    return groups


def _fits(group: Sequence[Span], span: Span, window: int) -> bool:
    seen = min(span.context, window)
    padded = seen * (len(group) + 1)
    wanted = sum(min(member.context, window) for member in group) + seen
    return padded <= MAX_GROUP_TOKENS and padded <= MAX_PADDING * wanted


def _decode_group(
    spans: Sequence[Span], block_tokens: int, dtype: torch.dtype, window: int
) -> DecodeGroup:
    longest = spans[-1].context
    contexts = torch.tensor([span.context for span in spans]).unsqueeze(1)  # (B, 1)
    places = torch.arange(min(longest, window)) + (contexts - window).clamp_min(0)  # (B, C)
    table = torch.tensor(_block_table(spans, -(-longest // block_tokens)))
    own = torch.minimum(places, contexts - 1)
    slots = table.gather(1, own // block_tokens) * block_tokens + own % block_tokens
    mask = None
    if min(spans[0].context, window) != min(longest, window):
        mask = _additive(places < contexts, dtype)[:, None, None, :]
    return DecodeGroup(torch.tensor([span.start for span in spans]), slots, mask)


def _block_table(spans: Sequence[Span], num_blocks: int) -> list[list[int]]:
    tables = [list(span.blocks[:num_blocks]) for span in spans]
    return [table + table[:1] * (num_blocks - len(table)) for table in tables]


def _prompt_span(span: Span, block_tokens: int, dtype: torch.dtype, window: int) -> PromptSpan:
    blocks = torch.tensor(list(span.blocks[: -(-span.context // block_tokens)]))
    slots = (blocks[:, None] * block_tokens + torch.arange(block_tokens)).flatten()
    first = max(0, span.context - span.length - window + 1)  # what the first row sees
    slots = slots[first : span.context]
    mask = None
    if span.context > span.length or span.length > window:
        newest = torch.arange(span.context - span.length, span.context)[:, None]
        places = torch.arange(first, span.context)
        mask = _additive((places <= newest) & (places > newest - window), dtype)
    return PromptSpan(span.start, span.start + span.length, slots, mask)


def _additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, float("-inf"))
