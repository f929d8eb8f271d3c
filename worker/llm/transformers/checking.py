"""Tries a model before it is accepted: many sequences in one step must not see each other.

An architecture that keeps state beside attention, or that counts positions itself, would compute
something else when sequences share a row. The trial runs each sequence alone with transformers'
own attention, and all of them together, in pieces, over the paged cache.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from models.errors import UnsupportedModel
from worker.llm.kv_cache import KVCache
from worker.llm.packed import PackedInput, Segment, pack_step
from worker.llm.transformers.attention import ATTENTION_NAME
from worker.llm.transformers.model import TransformersModel

_LENGTHS = (21, 7, 13)
_FAILURES = (RuntimeError, TypeError, ValueError, LookupError, AttributeError)
_PIECE = 11  # no sequence's length is a multiple
_BLOCK_TOKENS = 4
_BLOCKS = 6  # of each sequence
# Of the spread of the logits: rounding of 16-bit weights stays far below, a mix-up far above.
_MOST_DIFFERENCE = 0.5


@torch.no_grad()
def check_paged(model: PreTrainedModel) -> None:
    """Raise UnsupportedModel when the model computes something else together than alone."""
    paged = TransformersModel(model, model.dtype)
    prompts = _prompts(paged.config.vocab_size)
    try:
        together, alone = _together(paged, prompts), _alone(model, prompts)
    except _FAILURES as exc:
        raise UnsupportedModel(
            f"the {model.config.model_type} architecture cannot run on paged attention "
            f"({type(exc).__name__}: {exc}): use another model"
        ) from exc
    difference = (together - alone).abs().amax(dim=1)
    spread = alone.std(dim=1).clamp_min(1e-6)
    if not bool((difference <= _MOST_DIFFERENCE * spread).all()):
        raise UnsupportedModel(
            f"the {model.config.model_type} architecture cannot compute several sequences in one "
            "step: use another model"
        )


def _prompts(vocab_size: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(vocab_size, (n,), generator=generator).tolist() for n in _LENGTHS]


def _alone(model: PreTrainedModel, prompts: list[list[int]]) -> Tensor:
    """The logits (sequences, vocabulary) of each last token."""
    model.set_attn_implementation("eager")
    try:
        return torch.cat(
            [model(input_ids=torch.tensor([ids]), use_cache=False).logits[:, -1] for ids in prompts]
        ).float()
    finally:
        model.set_attn_implementation(ATTENTION_NAME)


def _together(model: TransformersModel, prompts: list[list[int]]) -> Tensor:
    """The same, a piece of every sequence in each step."""
    cache = KVCache(model.config, _BLOCKS * len(prompts), _BLOCK_TOKENS, model.compute_dtype)
    last: dict[int, Tensor] = {}
    for start in range(0, max(_LENGTHS), _PIECE):
        going = [number for number, ids in enumerate(prompts) if len(ids) > start]
        logits = model.forward(_step(prompts, going, start), cache)
        last.update(zip(going, logits, strict=True))
    return torch.stack([last[number] for number in range(len(prompts))])


def _step(prompts: list[list[int]], going: list[int], start: int) -> PackedInput:
    segments = [
        Segment(
            token_ids=prompts[number][start : start + _PIECE],
            position=start,
            blocks=range(number * _BLOCKS, (number + 1) * _BLOCKS),
            sample=True,
        )
        for number in going
    ]
    return pack_step(segments, _BLOCK_TOKENS)
