"""Runs a model layer by layer over sample texts, to see what its matrices are multiplied with.

Each layer sees what the quantized ones before it make of the texts, so that it can make up for
them. Memory holds one layer in float32 and the rows between two layers, never the model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from models.model_key import Weights
from worker.llm.calibration_texts import TEXT_TOKENS
from worker.llm.config import ModelConfig
from worker.llm.convert import linears
from worker.llm.decoder_layer import DecoderLayer, LayerSteps
from worker.llm.embedding import Embedding
from worker.llm.kv_cache import KVCache
from worker.llm.linear import Linear
from worker.llm.loading import build_layer
from worker.llm.operations import TorchOperations
from worker.llm.packed import PackedInput, Segment, pack_step
from worker.llm.quantize import dequantized
from worker.llm.rows import Rows

_BLOCK_TOKENS: Final = 16
_STEP_BLOCKS: Final = TEXT_TOKENS // _BLOCK_TOKENS  # of the texts that are run together


class Calibration:
    """The rows of all texts on their way through the layers, from the first to the last."""

    def __init__(
        self, config: ModelConfig, texts: Sequence[Sequence[int]], embed: Embedding
    ) -> None:
        """Embed the texts, each of 1 to TEXT_TOKENS token ids; `embed` gives rows in float32."""
        self._config = config
        self._operations = TorchOperations(config, torch.float32)
        self._steps = LayerSteps(self._operations, config.rms_norm_eps)
        self._packed = list(_packed(texts))
        self._cache = KVCache(config, _STEP_BLOCKS, _BLOCK_TOKENS, torch.float32)
        self._rows = [embed(each.token_ids) for each in self._packed]

    def moments(
        self, index: int, full: Mapping[str, Tensor], names: Collection[str]
    ) -> dict[str, Tensor]:
        """For these matrices of a layer, by their names in the artifact, the sum of x xᵀ.

        `full` are the layer's tensors as `convert` yields them for fp32.
        """
        if not names:
            return {}
        prefix = f"layers.{index}"
        layer = build_layer(self._config, Weights.FP32, full, prefix, None)
        seen = {name: _Recorded(getattr(layer, name)) for name in names}
        recorded = replace(
            layer,
            qkv=seen.get("qkv", layer.qkv),
            output=seen.get("output", layer.output),
            gate_up=seen.get("gate_up", layer.gate_up),
            down=seen.get("down", layer.down),
        )
        self._run(index, recorded, in_place=False)
        return {f"{prefix}.{name}": linear.moment for name, linear in seen.items()}

    def pass_layer(
        self, index: int, full: Mapping[str, Tensor], stored: Mapping[str, Tensor]
    ) -> None:
        """Go on behind a layer, of which `stored` is what the artifact will have."""
        prefix = f"layers.{index}"
        meant = dict(full)
        for name, shape in linears(self._config, prefix).items():
            matrix = dequantized(stored, f"{prefix}.{name}.")  # (N, K')
            meant[f"{prefix}.{name}.weight"] = matrix[:, : shape.inputs]
        layer = build_layer(self._config, Weights.FP32, meant, prefix, None)
        self._run(index, layer, in_place=True)

    def head_moment(self, norm: Tensor) -> Tensor:
        """The sum of x xᵀ over the inputs of the output layer, behind the last norm (hidden,)."""
        moment = torch.zeros(norm.numel(), norm.numel())
        for x in self._rows:
            normed = self._operations.add_norm(x, None, norm.float(), quantize=False).values
            moment.addmm_(normed.t(), normed)
        return moment

    @torch.no_grad()
    def _run(self, index: int, layer: DecoderLayer, *, in_place: bool) -> None:
        for packed, x in zip(self._packed, self._rows, strict=True):
            attend = self._operations.attention(packed, self._cache)
            rows = x if in_place else x.clone()
            delta = self._steps.run(layer, index, rows, None, attend)
            if in_place:
                rows.add_(delta.applied())


class _Recorded:
    """A linear layer that adds up x xᵀ of its inputs."""

    is_compiled = False
    takes_bytes = False
    weight_bytes = 0

    def __init__(self, linear: Linear) -> None:
        self._linear = linear
        self._moment: Tensor | None = None

    def __call__(self, x: Rows) -> Rows:
        values = x.applied()  # (T, K)
        if self._moment is None:
            self._moment = torch.zeros(values.size(1), values.size(1))
        self._moment.addmm_(values.t(), values)
        return self._linear(x)

    @property
    def moment(self) -> Tensor:
        """(K, K); raises ValueError before the first call."""
        if self._moment is None:
            raise ValueError("the layer was not run")
        return self._moment


def _packed(texts: Sequence[Sequence[int]]) -> Iterator[PackedInput]:
    """Steps of as many texts as fit, each text in whole, in blocks of its own."""
    segments: list[Segment] = []
    first = 0
    for ids in texts:
        past = first + -(-len(ids) // _BLOCK_TOKENS)
        if past > _STEP_BLOCKS and segments:
            yield pack_step(segments, _BLOCK_TOKENS)
            segments, first, past = [], 0, past - first
        segments.append(Segment(ids, 0, range(first, past), sample=False))
        first = past
    yield pack_step(segments, _BLOCK_TOKENS)
