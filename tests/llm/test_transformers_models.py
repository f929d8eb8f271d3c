"""Architectures of transformers over the paged cache, against transformers itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import Module
from transformers import PreTrainedModel

from models.backend_name import BackendName
from models.errors import ArtifactError, NightshiftError, UnsafeModel, UnsupportedModel
from models.model_key import Weights
from tests.llm.paged_session import Session, assert_logits_of, random_sequences
from tests.llm.tiny_models import make_model
from worker.llm.artifact import Artifact, Source
from worker.llm.artifact_writer import write_artifact
from worker.llm.config import read_config_json
from worker.llm.native.kernels import Kernels
from worker.llm.transformers.checking import check_paged
from worker.llm.transformers.checkpoint import read_checkpoint
from worker.llm.transformers.loading import load_transformers_model

# What the native decoder has not: other norms, activations, biases, positions, no gate, experts.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "cohere": {"num_key_value_heads": 2},
    "cohere2": {"num_key_value_heads": 2, "sliding_window": 9, "sliding_window_pattern": 2},
    "gemma": {"num_key_value_heads": 2, "head_dim": 32},
    "gemma2": {"num_key_value_heads": 2, "head_dim": 32, "sliding_window": 12},
    "gpt2": {},
    "gpt_neox": {},
    "granite": {"num_key_value_heads": 2, "attention_multiplier": 0.2},
    "llama": {"num_key_value_heads": 1},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 7},
    "opt": {},
    "phi": {},
    "qwen3_moe": {"num_key_value_heads": 2, "head_dim": 16, "moe_intermediate_size": 32},
    "starcoder2": {"num_key_value_heads": 2, "sliding_window": None},
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "mamba": ({}, "paged attention"),
    "bloom": ({}, "paged attention"),
    "gpt_oss": ({"num_key_value_heads": 2, "head_dim": 16}, "s_aux"),
    "minimax": ({"num_key_value_heads": 2}, "linear_attention"),
    "diffllama": ({"num_key_value_heads": 2}, "layers without attention"),
}


def write(model: PreTrainedModel, folder: Path, weights: Weights) -> Artifact:
    """The artifact for the transformers backend."""
    model.save_pretrained(folder / "source")
    return write_again(folder, weights)


def write_again(folder: Path, weights: Weights) -> Artifact:
    return write_artifact(
        folder / "source",
        folder / "artifact",
        weights,
        source=Source(repository="random", digest="0" * 64),
        backend=BackendName.TRANSFORMERS,
    )


@torch.no_grad()
def logits_of(model: PreTrainedModel, tokens: list[int]) -> torch.Tensor:
    logits: torch.Tensor = model(torch.tensor([tokens]), use_cache=False).logits[0]
    return logits


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_mixed_chunks_and_decodes_give_the_logits_of_transformers(
    kind: str, tmp_path: Path
) -> None:
    reference = make_model(kind, **ARCHITECTURES[kind])
    model = load_transformers_model(write(reference, tmp_path, Weights.FP32), None)
    assert_logits_of(reference, model, 5e-5)


@pytest.mark.parametrize("kind", ["gpt_neox", "llama", "phi"])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_int8_comes_close_and_int4_does_not_go_far(
    kind: str, *, compiled: bool, tied: bool, tmp_path: Path, kernels: Kernels
) -> None:
    options = ARCHITECTURES[kind] | {"tie_word_embeddings": tied, "hidden_size": 128}
    reference = make_model(kind, **options)
    tokens = random_sequences([24])
    expected = logits_of(reference, tokens[0])[-1]
    errors = {}
    for weights in (Weights.BF16, Weights.INT8, Weights.INT4):
        artifact = write(reference, tmp_path / weights, weights)
        model = load_transformers_model(artifact, kernels if compiled else None)
        assert model.has_compiled_matmuls is (compiled and weights is not Weights.BF16)
        logits = Session(model, tokens).step({0: 24})[0]
        errors[weights] = ((logits - expected).norm() / expected.norm()).item()
    assert errors[Weights.BF16] < 0.05
    assert errors[Weights.INT8] < 0.1
    assert errors[Weights.INT8] < errors[Weights.INT4] < 0.8


@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_come_out_wrong_is_refused(kind: str, tmp_path: Path) -> None:
    options, reason = REFUSED[kind]
    with pytest.raises(UnsupportedModel, match=reason):
        write(make_model(kind, **options), tmp_path, Weights.FP32)
    assert not (tmp_path / "artifact").exists()


def test_a_model_that_counts_positions_itself_is_refused(tmp_path: Path) -> None:
    make_model("llama").save_pretrained(tmp_path)
    model = read_checkpoint(tmp_path, read_config_json(tmp_path))
    check_paged(model)

    def count(_: Module, args: tuple[Any], values: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        positions = torch.arange(values["input_ids"].size(1)).unsqueeze(0)
        return args, values | {"position_ids": positions}

    model.register_forward_pre_hook(count, with_kwargs=True)
    with pytest.raises(UnsupportedModel, match="several sequences"):
        check_paged(model)


def test_a_model_that_is_hardly_linear_layers_is_not_quantized(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="use bf16"):
        write(make_model("gpt2"), tmp_path, Weights.INT8)


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"auto_map": {"AutoModelForCausalLM": "code.Model"}}, UnsafeModel, "auto_map"),
        ({"model_type": "invented"}, UnsupportedModel, "invented"),
        ({"quantization_config": {"quant_method": "gptq"}}, UnsupportedModel, "already quantized"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused_in_a_sentence(
    changes: dict[str, object], error: type[NightshiftError], reason: str, tmp_path: Path
) -> None:
    make_model("llama").save_pretrained(tmp_path / "source")
    change_config(tmp_path / "source", **changes)
    with pytest.raises(error, match=reason):
        write_again(tmp_path, Weights.INT8)


def test_an_artifact_of_another_shape_is_refused(tmp_path: Path) -> None:
    artifact = write(make_model("phi"), tmp_path, Weights.INT8)
    change_config(artifact.folder, num_hidden_layers=3)
    with pytest.raises(ArtifactError, match="add the model again"):
        load_transformers_model(artifact, None)
    change_config(artifact.folder, num_hidden_layers=2, vocab_size=98)
    with pytest.raises(ArtifactError, match="add the model again"):
        load_transformers_model(artifact, None)
