"""Random models of every supported kind compute what transformers computes of their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from intel_extension_for_pytorch.quantization import dequantize_per_block, dequantize_per_channel
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from models.errors import UnsupportedModel
from models.lowp import Lowp
from models.model_key import Weights
from tests.ipex.conftest import SOURCE
from tests.ipex.generating import answers_of
from worker.llm.artifact import Artifact
from worker.llm.ipex.artifact import load_ipex_model, write_ipex_artifact
from worker.llm.ipex.quantize import WEIGHT_DTYPES
from worker.llm.ipex.recipe import Activations, IpexRecipe
from worker.llm.loading import StoredTensors

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
KINDS: dict[str, dict[str, Any]] = {
    "mha": {"num_key_value_heads": 4},
    "gqa": {},
    "mqa": {"num_key_value_heads": 1},
    "tied": {"tie_word_embeddings": True},
    "llama3-rope": {"rope_scaling": LLAMA3_ROPE, "max_position_embeddings": 128},
    "long-waves": {"rope_theta": 500000.0},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "odd-vocabulary": {"vocab_size": 97},
    "narrow-keys": {"num_attention_heads": 8, "num_key_value_heads": 1},
    "mistral": {"mistral": True},
}
PROMPTS = [list(range(5, 5 + length)) for length in (3, 17, 40)]
WEIGHTS = [Weights.INT8, Weights.INT4]


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_answers_are_those_of_the_same_weights_in_transformers(
    kind: str, weights: Weights, tmp_path: Path
) -> None:
    reference = random_model(**KINDS[kind])
    recipe = IpexRecipe(weights=weights, lowp=Lowp.NONE, activations=Activations.FP32)
    artifact = stored(reference, recipe, tmp_path)
    put_quantized_weights(reference, artifact, recipe)
    expected = answers_of(reference, PROMPTS)
    answers = answers_of(load_ipex_model(artifact).model, PROMPTS)
    assert answers.tokens == expected.tokens
    torch.testing.assert_close(answers.first_logits, expected.first_logits, rtol=0, atol=2e-3)


@pytest.mark.parametrize("lowp", Lowp)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_group_may_be_longer_than_what_is_left(
    weights: Weights, lowp: Lowp, tmp_path: Path
) -> None:
    reference = random_model(intermediate_size=96)
    recipe = IpexRecipe(weights=weights, lowp=lowp, group_size=64, activations=Activations.FP32)
    artifact = stored(reference, recipe, tmp_path)
    put_quantized_weights(reference, artifact, recipe)
    expected = answers_of(reference, PROMPTS).first_logits
    answers = answers_of(load_ipex_model(artifact).model, PROMPTS).first_logits
    allowed = 0.3 if lowp is Lowp.INT8 else 0.15 if lowp is Lowp.BF16 else 0.03
    torch.testing.assert_close(answers, expected, rtol=0, atol=allowed)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"head_dim": 32}, "4 heads of 32 in a model of width 64"),
        ({"intermediate_size": 112}, "intermediate_size is 112"),
        ({"hidden_size": 80}, "hidden_size is 80"),
    ],
)
def test_what_ipex_cannot_compute_is_refused_before_anything_is_quantized(
    options: dict[str, int], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModel, match=reason):
        stored(random_model(**options), IpexRecipe(), tmp_path)


def random_model(**options: Any) -> Any:
    """A model whose logits differ clearly."""
    torch.manual_seed(7)
    settings: dict[str, Any] = {
        "vocab_size": 96,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.15,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    mistral = options.pop("mistral", False)
    if mistral:
        config: Any = MistralConfig(**settings, sliding_window=None)
    else:
        config = LlamaConfig(**(settings | options))
    model = (MistralForCausalLM if mistral else LlamaForCausalLM)(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:  # transformers starts them as 0 and 1
            parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def stored(model: Any, recipe: IpexRecipe, folder: Path) -> Artifact:
    """The model as an artifact."""
    model.save_pretrained(folder / "checkpoint")
    return write_ipex_artifact(folder / "checkpoint", folder / "artifact", recipe, source=SOURCE)


def put_quantized_weights(model: Any, artifact: Artifact, recipe: IpexRecipe) -> None:
    """Give a model of transformers the numbers that the artifact's integers stand for."""
    tensors = StoredTensors(artifact.tensor_files)
    if model.config.tie_word_embeddings:
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
    for name in [name.removesuffix(".qweight") for name in tensors if name.endswith("qweight")]:
        model.get_submodule(name).weight.data = dequantized(tensors, name, recipe)


def dequantized(tensors: StoredTensors, name: str, recipe: IpexRecipe) -> Tensor:
    """A layer's weight as floats."""
    zero_points = None if recipe.symmetric else tensors[f"{name}.zero_points"]
    stored = tensors[f"{name}.qweight"], tensors[f"{name}.scales"], zero_points
    dtype = WEIGHT_DTYPES[recipe.weights]
    found: Any
    if recipe.group_size == -1:
        found = dequantize_per_channel(*stored, dtype)
    else:
        found = dequantize_per_block(*stored, dtype, recipe.group_size)
    return torch.as_tensor(found)
