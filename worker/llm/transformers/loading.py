"""From an artifact to a model of transformers that runs on the engine; quantizes nothing."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.initialization import no_init_weights

from models.errors import ArtifactError
from models.model_key import Weights
from worker.llm.artifact import Artifact
from worker.llm.convert import QUANTIZED, compute_dtype
from worker.llm.loading import StoredTensors, linear_parts
from worker.llm.native.kernels import Kernels
from worker.llm.transformers.attention import ATTENTION_NAME, register_attention
from worker.llm.transformers.checkpoint import read_config
from worker.llm.transformers.linear import QuantizedLinear, quantizable
from worker.llm.transformers.model import TransformersModel


def load_transformers_model(artifact: Artifact, kernels: Kernels | None) -> TransformersModel:
    """Load an artifact; raises ArtifactError when its tensors are not what its config asks for."""
    weights = artifact.weights
    register_attention()
    with no_init_weights():  # memory that is not written to costs nothing
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            read_config(artifact.folder),
            dtype=compute_dtype(weights),
            attn_implementation=ATTENTION_NAME,
        )
    stored = StoredTensors(artifact.tensor_files)
    used = _replace_linears(model, stored, weights, kernels) if weights in QUANTIZED else set()
    _assign(model, {name: stored[name] for name in stored if name not in used})
    return TransformersModel(model, compute_dtype(weights))


def _replace_linears(
    model: PreTrainedModel, stored: Mapping[str, Tensor], weights: Weights, kernels: Kernels | None
) -> set[str]:
    """Put quantized layers where they belong; returns the names of the tensors that they took."""
    used: set[str] = set()
    head = model.get_output_embeddings()
    for name, linear in list(quantizable(model)):
        size = (linear.out_features, linear.in_features)
        parts = linear_parts(stored, name, weights, size, biased=linear.bias is not None)
        # Logits are integer sums: rounding them to bf16 would only lose.
        output_dtype = torch.float32 if linear is head else torch.bfloat16
        quantized = QuantizedLinear(parts, linear.in_features, weights, kernels, output_dtype)
        model.set_submodule(name, quantized)
        used.update(f"{name}.{suffix}" for suffix in parts)
    return used


def _assign(model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> None:
    """Make the stored tensors the model's own."""
    try:
        left = model.load_state_dict(dict(tensors), strict=False, assign=True)
    except RuntimeError as exc:  # other shapes
        raise _other_model() from exc
    tied = set(model.all_tied_weights_keys)
    if left.unexpected_keys or set(left.missing_keys) - tied:
        raise _other_model()
    if left.missing_keys:  # a quantized head is one of its own
        model.tie_weights()
    if any(_is_of_other_dtype(parameter, model.dtype) for parameter in model.parameters()):
        raise _other_model()


def _is_of_other_dtype(parameter: nn.Parameter, dtype: torch.dtype) -> bool:
    return parameter.is_floating_point() and parameter.dtype is not dtype


def _other_model() -> ArtifactError:
    return ArtifactError(
        "the artifact's tensors are not those that this version of transformers asks for: "
        "remove it and add the model again"
    )
