"""Weight-only-quantized layers in the place of `nn.Linear`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from models.errors import UnsupportedModel
from models.model_key import Weights
from worker.llm.linear import Linear
from worker.llm.loading import fastest_linear
from worker.llm.native.kernels import Kernels
from worker.llm.rows import Rows

LEAST_OUTPUTS = 64  # narrower ones route between experts: too small to matter, too touchy to round
LEAST_SHARE = 0.5  # of all weights beside the embeddings


class QuantizedLinear(nn.Module):
    """A linear layer of this project as a module; rows in, rows out."""

    def __init__(
        self,
        stored: Mapping[str, Tensor],
        inputs: int,
        weights: Weights,
        kernels: Kernels | None,
        output_dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self._linear: Linear = fastest_linear(stored, inputs, weights, kernels, output_dtype)

    @property
    def is_compiled(self) -> bool:
        """Whether the kernel is our own."""
        return self._linear.is_compiled

    def forward(self, x: Tensor) -> Tensor:
        """x (…, K) to (…, N)."""
        rows = self._linear(Rows(x.reshape(-1, x.size(-1)).contiguous())).applied()
        return rows.view(*x.shape[:-1], -1)


def quantizable(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """The layers to quantize, by their full names."""
    for name, module in model.named_modules():
        if type(module) is nn.Linear and module.out_features >= LEAST_OUTPUTS:
            yield name, module


def check_share(model: nn.Module) -> None:
    """Raise UnsupportedModel when quantizing would leave most of the model as it is."""
    embeddings = [each for each in model.modules() if isinstance(each, nn.Embedding)]
    total = sum(each.numel() for each in model.parameters())
    total -= sum(each.weight.numel() for each in embeddings)
    quantized = sum(module.weight.numel() for _, module in quantizable(model))
    if quantized < LEAST_SHARE * total:
        raise UnsupportedModel(
            f"only {quantized / max(1, total):.0%} of this model's weights are in linear layers, "
            "which are what is quantized: use bf16"
        )
