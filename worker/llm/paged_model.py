"""What everything that computes steps over the paged cache has, whichever backend loaded it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from worker.llm.config import ModelConfig
    from worker.llm.kv_cache import KVCache
    from worker.llm.packed import PackedInput


class PagedModel(Protocol):
    """See worker.engine.engine.Model for `forward`."""

    @property
    def config(self) -> ModelConfig:
        """The shape of the model, and so of its cache."""
        ...

    @property
    def compute_dtype(self) -> torch.dtype:
        """Of activations, and so of the cache."""
        ...

    def forward(self, packed: PackedInput, cache: KVCache) -> Tensor: ...
