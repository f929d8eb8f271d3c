"""A causal language model of transformers that computes steps of the engine."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from models.errors import UnsupportedModel
from worker.llm.config import ModelConfig
from worker.llm.config_fields import token_ids
from worker.llm.families import FULL, SLIDING
from worker.llm.kv_cache import KVCache
from worker.llm.packed import PackedInput
from worker.llm.transformers.attention import PagedStep
from worker.llm.transformers.linear import QuantizedLinear

_KINDS = frozenset({FULL, SLIDING})


class TransformersModel:
    """All sequences of a step are one row of tokens to it; only attention tells them apart.

    That holds for models whose layers mix tokens by attention alone; `checking.py` tries it.
    """

    def __init__(self, model: PreTrainedModel, compute_dtype: torch.dtype) -> None:
        """Take a model that was made with ATTENTION_NAME; raises UnsupportedModel."""
        self.config = shape_of(model.config)
        self._windowed = [kind == SLIDING for kind in _layer_types(model.config)]
        self.compute_dtype = compute_dtype
        self._model = model.eval()

    @property
    def has_compiled_matmuls(self) -> bool:
        """Whether any matmul is our own."""
        modules = self._model.modules()
        return any(isinstance(each, QuantizedLinear) and each.is_compiled for each in modules)

    @torch.no_grad()
    def forward(self, packed: PackedInput, cache: KVCache) -> Tensor:
        """Run one step: logits (S, vocabulary) float32, one row per `packed.sample_rows`.

        Raises UnsupportedModel when not every layer attends once.
        """
        step = PagedStep(packed, cache, self._windowed)
        output = self._model(
            input_ids=packed.token_ids.unsqueeze(0),  # (1, T)
            position_ids=packed.positions.unsqueeze(0),
            use_cache=False,
            logits_to_keep=packed.sample_rows,
            paged_step=step,
        )
        if step.layers != list(range(self.config.num_layers)):
            raise UnsupportedModel(
                f"the {self.config.model_type} architecture has layers without attention, "
                "which is not supported: use another model"
            )
        logits: Tensor = output.logits.squeeze(0)
        return logits.float()


def shape_of(config: PreTrainedConfig) -> ModelConfig:
    """What engine and cache need to know of a model; raises UnsupportedModel."""
    heads = _size(config, "num_attention_heads")
    hidden = _size(config, "hidden_size")
    kinds = set(_layer_types(config))
    if kinds - _KINDS:
        raise UnsupportedModel(
            f"layers of {config.model_type} are of the kinds {', '.join(sorted(kinds))}; "
            f"only {FULL} and {SLIDING} are supported: use another model"
        )
    bos, pad = token_ids(config.bos_token_id), token_ids(config.pad_token_id)
    return ModelConfig(
        model_type=str(config.model_type),
        hidden_size=hidden,
        intermediate_size=getattr(config, "intermediate_size", None) or 4 * hidden,
        num_layers=_size(config, "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or hidden // heads,
        vocab_size=_size(config, "vocab_size"),
        max_position_embeddings=_size(config, "max_position_embeddings"),
        eos_token_ids=token_ids(config.eos_token_id),
        bos_token_id=bos[0] if bos else None,
        pad_token_id=pad[0] if pad else None,
    )


def _layer_types(config: PreTrainedConfig) -> list[str]:
    """The kind of every layer; a config without them has layers of one kind."""
    given: list[str] | None = getattr(config, "layer_types", None)
    return given if given else [FULL] * _size(config, "num_hidden_layers")


def _size(config: PreTrainedConfig, name: str) -> int:
    value = getattr(config, name, None)  # transformers maps a family's own names to these
    if not isinstance(value, int) or value < 1:
        raise UnsupportedModel(
            f"config.json of a {config.model_type} model gives no usable {name}: use another model"
        )
    return value
