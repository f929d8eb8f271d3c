"""From a checkpoint that transformers reads to the tensors of an artifact.

Names are those of transformers' modules. Unlike the native conversion this holds the whole model
in memory, because transformers renames, merges and ties tensors while it loads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from models.model_key import Weights
from worker.llm.artifact_contents import Contents
from worker.llm.config import read_config_json
from worker.llm.convert import QUANTIZED, compute_dtype
from worker.llm.quantize import quantize_linear
from worker.llm.transformers.checking import check_paged
from worker.llm.transformers.checkpoint import read_checkpoint
from worker.llm.transformers.linear import check_share, quantizable
from worker.llm.transformers.model import shape_of

# Of config.json: the dtype is that of the weights, the rest is code of others.
_NOT_KEPT = frozenset({"dtype", "torch_dtype", "auto_map", "transformers_version"})


def transformers_contents(folder: Path, weights: Weights) -> Contents:
    """Read and check the model; raises UnsafeModel, UnsupportedModel."""
    raw_config = read_config_json(folder)
    model = read_checkpoint(folder, raw_config)
    check_paged(model)
    if weights in QUANTIZED:
        check_share(model)
    names = [name for name, _ in quantizable(model)] if weights in QUANTIZED else []
    plain = _plain_tensors(model, names)
    return Contents(
        architecture=shape_of(model.config).architecture,
        config={key: value for key, value in raw_config.items() if key not in _NOT_KEPT},
        tensors=_tensors(model, plain, names, weights),
        n_tensors=len(plain) + 2 * len(names),
    )


def _tensors(
    model: PreTrainedModel, plain: Mapping[str, Tensor], names: Sequence[str], weights: Weights
) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in plain.items():
        yield name, tensor.to(compute_dtype(weights)) if tensor.is_floating_point() else tensor
    for name in names:
        linear = model.get_submodule(name)
        for suffix, tensor in quantize_linear(linear.weight.detach(), weights).items():
            yield f"{name}.{suffix}", tensor


def _plain_tensors(model: PreTrainedModel, quantized: Sequence[str]) -> dict[str, Tensor]:
    """What is stored as it is: all but the weights to quantize and copies of a tied tensor."""
    left_out = {f"{name}.weight" for name in quantized}
    seen: set[int] = set()
    plain = {}
    for name, tensor in model.state_dict().items():
        if name in left_out or tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        plain[name] = tensor
    return plain
