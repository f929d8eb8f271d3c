"""Attention of transformers' models over the paged cache.

transformers asks a function by name for the attention of each layer; ours finds what belongs to
the step among the arguments that every layer hands down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from torch import Tensor, nn
from transformers import AttentionInterface

from models.errors import UnsupportedModel
from worker.llm.attention import AttentionPlan, attend, plan_attention
from worker.llm.kv_cache import KVCache
from worker.llm.packed import PackedInput

ATTENTION_NAME: Final = "nightshift"
_CHANGES_SCORES: Final = ("s_aux", "position_bias", "head_mask")


class PagedStep:
    """One step's rows, their places in the cache, and which layers have attended.

    `windowed` says of each layer whether it must attend to a window.
    """

    def __init__(self, packed: PackedInput, cache: KVCache, windowed: Sequence[bool]) -> None:
        self._packed = packed
        self._cache = cache
        self._windowed = windowed
        self._plans: dict[int | None, AttentionPlan] = {}
        self.layers: list[int] = []

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        window_tokens: int | None,
        softcap: float | None,
    ) -> Tensor:
        """Write keys and values (T, kv heads, d), attend queries; returns (T, heads, d).

        Raises UnsupportedModel for keys that the cache is not made for, or without a window that
        there must be.
        """
        self.layers.append(layer)
        if self._windowed[layer] and window_tokens is None:
            raise UnsupportedModel(f"layer {layer} does not say what its window is")
        cache = self._cache
        if key.shape[1:] != cache.keys[layer].shape[1:] or value.shape != key.shape:
            raise UnsupportedModel(
                f"layer {layer} has keys {tuple(key.shape[1:])} and values "
                f"{tuple(value.shape[1:])}, its cache {tuple(cache.keys[layer].shape[1:])}: "
                "this kind of attention is not supported"
            )
        cache.write(layer, self._packed.slots, key, value)
        plan = self._plan(window_tokens)
        return attend(query, cache.keys[layer], cache.values[layer], plan, softcap)

    def _plan(self, window_tokens: int | None) -> AttentionPlan:
        if window_tokens not in self._plans:
            self._plans[window_tokens] = plan_attention(
                self._packed, self._cache.block_tokens, self._cache.dtype, window_tokens
            )
        return self._plans[window_tokens]


def register_attention() -> None:
    """Make the function known to transformers under ATTENTION_NAME; again changes nothing."""
    AttentionInterface.register(ATTENTION_NAME, _attend_layer)


def _attend_layer(
    module: nn.Module,
    query: Tensor,  # (1, heads, T, d)
    key: Tensor,  # (1, kv heads, T, d)
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    paged_step: PagedStep,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in each layer; returns (1, T, heads, d)."""
    for name in _CHANGES_SCORES:
        if others.get(name) is not None:
            raise UnsupportedModel(f"attention with {name} is not supported: use another model")
    if attention_mask is not None:
        raise UnsupportedModel("attention with a mask is not supported: use another model")
    factor = 1.0 if scaling is None else scaling * math.sqrt(query.size(-1))
    if not math.isclose(factor, 1.0, rel_tol=1e-6):
        query = query * factor
    rows = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))
    layer = int(str(module.layer_idx))
    out = paged_step.attend(layer, *rows, window_tokens=sliding_window, softcap=softcap)
    return out.unsqueeze(0), None
