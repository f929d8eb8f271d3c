"""Checkpoints of GPTQ and AWQ give the answers of the numbers that they stand for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from models.errors import UnsupportedModel
from models.lowp import Lowp
from tests.ipex.generating import answers_of
from tests.ipex.test_architectures import PROMPTS, random_model
from worker.llm.ipex.low_precision import load_low_precision, read_method
from worker.llm.ipex.recipe import Activations, IpexRecipe

GROUP = 32
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
EXACT = IpexRecipe(lowp=Lowp.NONE, activations=Activations.FP32)


@pytest.mark.parametrize("method", ["gptq", "awq"])
@pytest.mark.parametrize("tied", [False, True])
def test_the_answers_are_those_of_the_same_numbers(method: str, tied: bool, tmp_path: Path) -> None:
    reference = random_model(tie_word_embeddings=tied)
    write_quantized(reference, method, tmp_path)
    expected = answers_of(reference, PROMPTS)
    answers = answers_of(load_low_precision(tmp_path, EXACT).model, PROMPTS)
    assert answers.tokens == expected.tokens
    torch.testing.assert_close(answers.first_logits, expected.first_logits, rtol=0, atol=5e-3)


@pytest.mark.parametrize("lowp", [Lowp.BF16, Lowp.INT8])
@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_they_run_in_lower_precision_too(method: str, lowp: Lowp, tmp_path: Path) -> None:
    reference = random_model()
    write_quantized(reference, method, tmp_path)
    expected = answers_of(reference, PROMPTS).first_logits
    answers = answers_of(load_low_precision(tmp_path, IpexRecipe(lowp=lowp)).model, PROMPTS)
    torch.testing.assert_close(answers.first_logits, expected, rtol=0, atol=0.3)


@pytest.mark.parametrize(
    "said",
    [
        None,
        {"quant_method": "gptq", "bits": 8, "group_size": 128},
        {"quant_method": "bitsandbytes", "bits": 4, "group_size": 128},
        {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemv"},
        {"quant_method": "awq", "bits": 4, "group_size": None},
    ],
)
def test_what_was_quantized_otherwise_is_refused(said: object) -> None:
    with pytest.raises(UnsupportedModel, match="quantiz"):
        read_method(said)


def write_quantized(model: Any, method: str, folder: Path) -> None:
    """Quantize a model of transformers, and write it as the tool of that name would."""
    tensors: dict[str, Tensor] = {}
    for name, module in model.model.named_modules(prefix="model"):
        if isinstance(module, torch.nn.Linear):
            numbers, scales, zeros = _quantize(module.weight.data)
            shifted = (numbers - zeros.repeat_interleave(GROUP, 1)).float()
            module.weight.data = shifted * scales.repeat_interleave(GROUP, 1)
            pack = _as_gptq if method == "gptq" else _as_awq
            packed = {**pack(numbers, zeros), "scales": scales.T.half()}
            tensors |= {f"{name}.{part}": kept.contiguous() for part, kept in packed.items()}
        else:
            tensors |= {f"{name}.{part}": p.data for part, p in module.named_parameters("", False)}
    if not model.config.tie_word_embeddings:
        tensors["lm_head.weight"] = model.lm_head.weight.data
    save_file(tensors, folder / "model.safetensors")
    said = {"quant_method": method, "bits": 4, "group_size": GROUP, "desc_act": False}
    config = {**model.config.to_dict(), "architectures": ["LlamaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": said}))


def _quantize(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers of 0 to 15 (N, K), scales and zero points (N, K/GROUP)."""
    groups = weight.view(len(weight), -1, GROUP)
    least, most = groups.aminmax(dim=-1)
    scales = ((most - least) / 15).half().float()
    zeros = (-least / scales).round().clamp(1, 15)
    numbers = (groups / scales[..., None] + zeros[..., None]).round().clamp(0, 15)
    return numbers.view(weight.shape).int(), scales, zeros.int()


def _as_gptq(numbers: Tensor, zeros: Tensor) -> dict[str, Tensor]:
    order = tuple(range(8))
    return {
        "qweight": _packed(numbers, order).T,  # (K/8, N)
        "qzeros": _packed((zeros - 1).T, order),  # (K/GROUP, N/8)
    }


def _as_awq(numbers: Tensor, zeros: Tensor) -> dict[str, Tensor]:
    return {
        "qweight": _packed(numbers.T, AWQ_ORDER),  # (K, N/8)
        "qzeros": _packed(zeros.T, AWQ_ORDER),  # (K/GROUP, N/8)
    }


def _packed(numbers: Tensor, order: tuple[int, ...]) -> Tensor:
    """Eight numbers of the last dimension to an int32."""
    eights = numbers.reshape(len(numbers), -1, 8).long()
    bits = sum(eights[..., column] << 4 * place for place, column in enumerate(order))
    wide = torch.as_tensor(bits)
    return torch.where(wide >= 1 << 31, wide - (1 << 32), wide).int()
