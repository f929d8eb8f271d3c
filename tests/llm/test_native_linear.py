"""The compiled matmuls against exact arithmetic. See tests/llm/test_native_kernels.py."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from models.model_key import Weights
from tests.llm.native_support import needs_cpu
from tests.llm.tiny_models import in_memory, make_reference, save_reference
from worker.llm.decoder import Decoder
from worker.llm.kv_cache import KVCache
from worker.llm.linear import Int8Linear, Linear, quantize_activations
from worker.llm.loading import INT8_INPUTS
from worker.llm.native import linear as native_linear
from worker.llm.native.kernels import BLOCK_TOKENS, INPUT_MULTIPLE, Kernels, OpenedKernels
from worker.llm.native.linear import (
    CompiledLinear,
    is_compiled_faster,
)
from worker.llm.packed import Segment, pack_step
from worker.llm.quantize import dequantize_int4, quantize_linear, unpack_nibbles
from worker.llm.rows import Rows

pytestmark = needs_cpu

# outputs, inputs: whole and partial panels, groups of 128, 64 and 32, inputs filled up
SHAPES = [(96, 256), (33, 64), (100, 192), (1, 96), (130, 36), (64, 1100)]
QUANTIZED = [Weights.INT8, Weights.INT4]
LONGEST = INT8_INPUTS // INPUT_MULTIPLE * INPUT_MULTIPLE


def build(
    kernels: Kernels,
    weights: Weights,
    shape: tuple[int, int],
    *,
    bias: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Linear, Tensor]:
    """A layer of random weights, and the matrix (N, K) that it stands for."""
    stored = quantize_linear(torch.randn(*shape), weights)
    if weights is Weights.INT8:
        matrix = stored["weight"].double() * stored["scale"].double().unsqueeze(1)
    else:
        matrix = dequantize_int4(stored["weight"], stored["scale"]).double()[:, : shape[1]]
    if bias is not None:
        stored["bias"] = bias
    return CompiledLinear(kernels, stored, weights, dtype), matrix


def meant(rows: Rows) -> Tensor:
    assert rows.scale is not None
    return (rows.values.double() - 128) * rows.scale.double().unsqueeze(1)


@pytest.mark.parametrize("weights", QUANTIZED)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [1, 2, 11, 12, 13, 25, 100])
def test_the_product_is_exact(
    kernels: Kernels, weights: Weights, shape: tuple[int, int], rows: int
) -> None:
    torch.manual_seed(rows)
    bias = torch.randn(shape[0]).bfloat16()
    layer, matrix = build(kernels, weights, shape, bias=bias)
    x = quantize_activations(torch.randn(rows, shape[1]))
    expected = meant(x) @ matrix.T + bias.double()
    assert (layer(x).applied().double() - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [1, 12, 25])
def test_zero_points_of_groups_are_taken_off(
    kernels: Kernels, shape: tuple[int, int], rows: int
) -> None:
    torch.manual_seed(rows)
    stored = quantize_linear(torch.randn(*shape), Weights.INT4)
    zero = torch.randint(0, 16, stored["scale"].shape, dtype=torch.uint8)
    layer = CompiledLinear(kernels, stored | {"zero": zero}, Weights.INT4, torch.float32)
    grouped = unpack_nibbles(stored["weight"]).double().view(*zero.shape, -1)
    meant_of = (grouped - zero.double().unsqueeze(-1)) * stored["scale"].double().unsqueeze(-1)
    matrix = meant_of.flatten(1)[:, : shape[1]]
    x = quantize_activations(torch.randn(rows, shape[1]))
    expected = meant(x) @ matrix.T
    assert (layer(x).applied().double() - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("weights", QUANTIZED)
def test_extreme_bytes_do_not_saturate(kernels: Kernels, weights: Weights) -> None:
    layer, _ = build(kernels, weights, (32, 4096))
    ones = Rows(torch.full((1, 4096), 255, dtype=torch.uint8), torch.ones(1))
    least = Rows(torch.full((1, 4096), 1, dtype=torch.uint8), torch.ones(1))
    assert torch.equal(layer(ones).values, -layer(least).values)


def test_the_longest_sums_do_not_overflow(kernels: Kernels) -> None:
    for byte, weight in ((255, 127), (255, -128), (0, 127), (0, -128)):
        stored = {
            "weight": torch.full((1, LONGEST), weight, dtype=torch.int8),
            "scale": torch.ones(1),
        }
        layer = CompiledLinear(kernels, stored, Weights.INT8, torch.float32)
        x = Rows(torch.full((1, LONGEST), byte, dtype=torch.uint8), torch.ones(1))
        assert layer(x).values.item() == pytest.approx((byte - 128) * weight * LONGEST, rel=1e-6)


@pytest.mark.parametrize("weights", QUANTIZED)
def test_a_result_in_bfloat16_is_rounded_once(kernels: Kernels, weights: Weights) -> None:
    x = quantize_activations(torch.randn(20, 192))
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(3)
        results.append(build(kernels, weights, (100, 192), dtype=dtype)[0](x).values)
    assert torch.equal(results[0].bfloat16(), results[1])


@pytest.mark.parametrize("weights", QUANTIZED)
def test_a_row_does_not_depend_on_its_batch(kernels: Kernels, weights: Weights) -> None:
    layer, _ = build(kernels, weights, (100, 192))
    x = quantize_activations(torch.randn(97, 192))
    together = layer(x).values
    for row in (0, 40, 96):
        alone = Rows(x.values[row : row + 1], x.scale[row : row + 1])  # type: ignore[index]
        assert torch.equal(layer(alone).values[0], together[row])


@pytest.mark.parametrize("weights", QUANTIZED)
def test_rows_that_are_not_quantized_yet_are(kernels: Kernels, weights: Weights) -> None:
    layer, _ = build(kernels, weights, (64, 128))
    x = torch.randn(5, 128).bfloat16()
    assert torch.equal(layer(Rows(x)).values, layer(quantize_activations(x)).values)


@pytest.mark.parametrize("weights", QUANTIZED)
def test_a_row_that_is_no_number_stays_one(kernels: Kernels, weights: Weights) -> None:
    layer, _ = build(kernels, weights, (64, 128))
    x = Rows(torch.full((2, 128), 130, dtype=torch.uint8), torch.tensor([1.0, float("nan")]))
    y = layer(x).values
    assert y[0].isfinite().all()
    assert y[1].isnan().all()


def test_int4_takes_at_most_six_tenths_of_a_byte_per_weight(kernels: Kernels) -> None:
    layer, matrix = build(kernels, Weights.INT4, (512, 1024))
    assert layer.weight_bytes <= 0.53 * matrix.numel()


def test_rows_and_weights_that_do_not_fit_are_refused(kernels: Kernels) -> None:
    wide = quantize_activations(torch.randn(2, 256))
    for weights in QUANTIZED:
        layer, _ = build(kernels, weights, (64, 128))
        with pytest.raises(ValueError, match=r"give|fit"):
            layer(wide)
        with pytest.raises(ValueError, match="not quantized"):
            layer(Rows(torch.zeros(1, 128, dtype=torch.uint8)))
    with pytest.raises(ValueError, match="multiple of 4"):
        kernels.pack_int8(torch.zeros(32, 30, dtype=torch.int8))
    with pytest.raises(ValueError, match="multiple of 8"):
        kernels.pack_int4(torch.zeros(32, 30, dtype=torch.uint8))


def test_where_onednn_is_faster_it_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_compiled_faster(64, Weights.BF16)
    monkeypatch.setattr(native_linear, "has_amx", lambda: False)
    assert is_compiled_faster(64, Weights.INT8)
    monkeypatch.setattr(native_linear, "has_amx", lambda: True)
    assert not is_compiled_faster(64, Weights.INT8)
    assert is_compiled_faster(64, Weights.INT4)


def forward(model: Decoder) -> Tensor:
    """The logits after three tokens."""
    cache = KVCache(model.config, 2, BLOCK_TOKENS, model.compute_dtype)
    return model.forward(pack_step([Segment([5, 6, 7], 0, [0], True)], BLOCK_TOKENS), cache)


def test_it_agrees_with_onednn(kernels: Kernels) -> None:
    stored = quantize_linear(torch.randn(96, 128), Weights.INT8)
    layer = CompiledLinear(kernels, stored, Weights.INT8, torch.float32)
    other = Int8Linear(stored["weight"], stored["scale"], None, torch.float32)
    x = torch.randn(30, 128)
    assert torch.allclose(layer(Rows(x)).values, other(Rows(x)).applied(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weights", QUANTIZED)
def test_every_linear_of_a_model_is_compiled(
    kernels: Kernels, weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = make_reference(num_attention_heads=4, num_key_value_heads=2, head_dim=64)
    monkeypatch.setattr(native_linear, "has_amx", lambda: False)
    multiply = Mock(wraps=getattr(kernels, f"multiply_{weights}"))
    monkeypatch.setattr(kernels, f"multiply_{weights}", multiply)
    model = in_memory(save_reference(reference, tmp_path), weights, kernels)
    forward(model)
    # qkv, output, gate_up and down of each layer, and lm_head
    assert multiply.call_count == 4 * model.config.num_layers + 1


@pytest.mark.parametrize("weights", QUANTIZED)
def test_layers_whose_inputs_do_not_fit_are_left_to_pytorch(
    kernels: Kernels, weights: Weights, tmp_path: Path
) -> None:
    ragged = make_reference(
        hidden_size=30, num_attention_heads=3, num_key_value_heads=3, intermediate_size=50
    )
    saved = save_reference(ragged, tmp_path)
    with_kernels = in_memory(saved, weights, kernels)
    assert not with_kernels.has_compiled_matmuls
    assert torch.equal(forward(with_kernels), forward(in_memory(saved, weights)))


@pytest.mark.parametrize(
    ("head_dim", "weights", "told"),
    [
        (64, Weights.INT4, "compiled"),
        (64, Weights.BF16, "compiled between the matmuls"),
        (16, Weights.INT4, "compiled matmuls, else PyTorch (not made for a model of this shape)"),
        (16, Weights.BF16, "PyTorch (not made for a model of this shape)"),
    ],
)
def test_it_is_told_what_of_a_model_is_compiled(
    kernels: Kernels, head_dim: int, weights: Weights, told: str, tmp_path: Path
) -> None:
    saved = save_reference(make_reference(head_dim=head_dim), tmp_path)
    model = in_memory(saved, weights, kernels)
    opened = OpenedKernels(kernels, "")
    assert told == opened.described(
        steps=model.has_compiled_steps, matmuls=model.has_compiled_matmuls
    )
