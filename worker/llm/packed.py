"""The input of one engine step: the tokens of many sequences in one row of rows, no padding.

Knows nothing of requests or scheduling: token ids, positions and cache slots only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Span:
    """One sequence's part of a step: `length` rows from `start` on, the newest tokens of it."""

    start: int
    length: int  # 1 while decoding, more for a chunk of the prompt
    context: int  # tokens in the cache after this step: position of the last row + 1
    blocks: Sequence[int]  # cache blocks in order; they hold at least `context` tokens


@dataclass(frozen=True, slots=True)
class PackedInput:
    """All rows of one step; build it with `pack_step`."""

    token_ids: Tensor  # (T,) int64
    positions: Tensor  # (T,) int64
    slots: Tensor  # (T,) int64, block * block_tokens + offset
    spans: tuple[Span, ...]
    sample_rows: Tensor  # (S,) int64, the rows whose logits are wanted


@dataclass(frozen=True, slots=True)
class Segment:
    """What one sequence adds to a step: its next tokens, the first of them at `position`."""

    token_ids: Sequence[int]
    position: int  # tokens of the sequence that are in the cache already
    blocks: Sequence[int]
    sample: bool  # whether the last token's logits are wanted


def pack_step(segments: Sequence[Segment], block_tokens: int) -> PackedInput:
    """Pack the segments into one step; row order is segment order."""
    token_ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    spans: list[Span] = []
    sample_rows: list[int] = []
    for segment in segments:
        length = len(segment.token_ids)
        context = segment.position + length
        spans.append(Span(len(token_ids), length, context, segment.blocks))
        token_ids.extend(segment.token_ids)
        for position in range(segment.position, context):
            block, offset = divmod(position, block_tokens)
            positions.append(position)
            slots.append(segment.blocks[block] * block_tokens + offset)
        if segment.sample:
            sample_rows.append(len(token_ids) - 1)
    return PackedInput(
        token_ids=torch.tensor(token_ids, dtype=torch.int64),
        positions=torch.tensor(positions, dtype=torch.int64),
        slots=torch.tensor(slots, dtype=torch.int64),
        spans=tuple(spans),
        sample_rows=torch.tensor(sample_rows, dtype=torch.int64),
    )
