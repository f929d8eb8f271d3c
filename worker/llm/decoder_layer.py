"""One layer of a decoder: its weights, and its steps in order.

Knows neither the layers around it nor where rows come from, so that a layer can be run alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from worker.llm.linear import Linear
from worker.llm.operations import Attention, HeadNorms, Operations, rms_norm
from worker.llm.rows import Rows


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """The weights of one layer; qkv and gate_up are concatenated along their outputs.

    Norms stand before the layer's two blocks, after them, or both; those that are not there are
    None.
    """

    qkv: Linear  # hidden → (heads + 2 * kv heads) * d
    output: Linear  # heads * d → hidden
    gate_up: Linear  # hidden → 2 * intermediate
    down: Linear  # intermediate → hidden
    attention_norm: Tensor | None = None  # (hidden,)
    attention_post_norm: Tensor | None = None
    mlp_norm: Tensor | None = None
    mlp_post_norm: Tensor | None = None
    head_norms: HeadNorms | None = None


class LayerSteps:
    """Runs layers on the operations of one model."""

    def __init__(self, operations: Operations, rms_norm_eps: float) -> None:
        self._operations = operations
        self._eps = rms_norm_eps

    def run(
        self, layer: DecoderLayer, index: int, x: Tensor, delta: Rows | None, attend: Attention
    ) -> Rows:
        """x (T, hidden) += delta in place, then the layer; what it would add to x is returned.

        `index` is the layer's place in the model: `attend` keeps its keys and values there.
        """
        normed = self.before(x, delta, layer.attention_norm, layer.qkv)
        qkv = layer.qkv(normed)
        attended = attend(index, qkv, layer.head_norms, quantize=layer.output.takes_bytes)
        delta = self._after(layer.output(attended), layer.attention_post_norm)
        normed = self.before(x, delta, layer.mlp_norm, layer.gate_up)
        gated = self._operations.gate(layer.gate_up(normed), quantize=layer.down.takes_bytes)
        return self._after(layer.down(gated), layer.mlp_post_norm)

    def before(self, x: Tensor, delta: Rows | None, norm: Tensor | None, linear: Linear) -> Rows:
        """x += delta in place; what goes into the linear layer."""
        if norm is not None:
            return self._operations.add_norm(x, delta, norm, quantize=linear.takes_bytes)
        if delta is not None:
            x.add_(delta.applied())
        return Rows(x)

    def _after(self, delta: Rows, norm: Tensor | None) -> Rows:
        """A block's result, normed where the family norms it."""
        if norm is None:
            return delta
        return Rows(rms_norm(delta.applied(), norm, self._eps))
