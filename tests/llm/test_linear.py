"""The quantized linear layers: error bounds, memory, independence of rows, the kernels taken."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.model_key import Weights
from worker.llm.linear import (
    INT4_PACK_ROWS,
    FloatLinear,
    Int4Linear,
    Int8Linear,
    Linear,
    PackedLinear,
    activation_limit,
    build_linear,
    packs_bfloat16,
    quantize_activations,
)
from worker.llm.quantize import dequantize_int4, quantize_linear, stored_layout, unpack_nibbles
from worker.llm.rows import Rows

SHAPES = [(96, 64), (64, 256), (97, 112), (50, 40), (256, 384)]  # (N, K)


def multiply(layer: Linear, x: torch.Tensor) -> torch.Tensor:
    return layer(Rows(x)).applied()


def quantized(x: torch.Tensor, limit: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Bytes (M, K) and the scale (M, 1) of each row."""
    rows = quantize_activations(x, limit)
    assert rows.scale is not None
    return rows.values, rows.scale.unsqueeze(1)


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("shape", SHAPES)
def test_int8_linear_is_within_one_percent_of_float(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weight, x, bias = (
        torch.randn(shape),
        torch.randn(33, shape[1]).bfloat16(),
        torch.randn(shape[0]),
    )
    stored = quantize_linear(weight, Weights.INT8) | {"bias": bias.bfloat16()}
    y = multiply(build_linear(stored, Weights.INT8), x)
    assert y.dtype == torch.bfloat16
    expected = x.double() @ weight.double().T + bias.double()
    assert relative_error(y, expected) < (0.012 if activation_limit() == 127 else 0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_int8_linear_computes_its_quantized_operands_exactly(shape: tuple[int, int]) -> None:
    torch.manual_seed(1)
    weight, x = torch.randn(shape), 50 * torch.randn(9, shape[1])
    stored = quantize_linear(weight, Weights.INT8)
    y = multiply(build_linear(stored, Weights.INT8, output_dtype=torch.float32), x)
    limit = activation_limit()
    values, scale = quantized(x, limit)
    exact = (values.double() - (limit + 1)) @ stored["weight"].double().T
    torch.testing.assert_close(y.double(), exact * scale * stored["scale"], rtol=1e-6, atol=0)


def test_int8_rows_do_not_depend_on_their_batch() -> None:
    torch.manual_seed(2)
    layer = build_linear(quantize_linear(torch.randn(96, 80), Weights.INT8), Weights.INT8)
    x = torch.randn(70, 80).bfloat16() * torch.logspace(-3, 3, 70).bfloat16().unsqueeze(1)
    together = multiply(layer, x)
    for rows in (slice(0, 1), slice(5, 7), slice(20, 53), slice(69, 70)):
        assert torch.equal(multiply(layer, x[rows]), together[rows])


def test_a_row_of_zeros_gives_the_bias() -> None:
    bias = torch.randn(32).bfloat16()
    stored = quantize_linear(torch.randn(32, 64), Weights.INT8) | {"bias": bias}
    y = multiply(build_linear(stored, Weights.INT8), torch.zeros(1, 64, dtype=torch.bfloat16))
    assert torch.equal(y[0], bias)


@given(st.integers(1, 9), st.integers(1, 40), st.floats(1e-6, 1e6), st.sampled_from([63, 127]))
@settings(max_examples=50, deadline=None)
def test_activations_are_off_by_half_a_step_at_most(
    rows: int, columns: int, size: float, limit: int
) -> None:
    x = size * torch.randn(rows, columns)
    values, scale = quantized(x, limit)
    assert values.min() >= 1
    assert values.max() <= 2 * limit + 1
    # The scale is rounded to bfloat16, so the largest value may be cut by 1/256 of itself.
    bound = scale * 0.5 + x.abs().amax(dim=1, keepdim=True) / 256
    assert bool((((values.float() - limit - 1) * scale - x).abs() <= bound).all())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_int4_linear_computes_what_is_stored(shape: tuple[int, int], dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    weight, x, bias = (
        torch.randn(shape),
        torch.randn(5, shape[1], dtype=dtype),
        torch.randn(shape[0]),
    )
    stored = quantize_linear(weight, Weights.INT4)
    exact = dequantize_int4(stored["weight"], stored["scale"])[:, : shape[1]].double()
    layer = Int4Linear(stored["weight"], stored["scale"].to(dtype), bias.to(dtype))
    tolerance = 5e-3 if dtype == torch.bfloat16 else 1e-6
    assert (
        relative_error(multiply(layer, x), x.double() @ exact.T + bias.to(dtype).double())
        < tolerance
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_int4_weights_are_within_ten_percent_of_float(shape: tuple[int, int]) -> None:
    torch.manual_seed(4)
    weight = torch.randn(shape)
    stored = quantize_linear(weight, Weights.INT4)
    restored = dequantize_int4(stored["weight"], stored["scale"])
    assert relative_error(restored[:, : shape[1]], weight.double()) < 0.10
    assert torch.equal(restored[:, shape[1] :], torch.zeros_like(restored[:, shape[1] :]))


@pytest.mark.parametrize("shift", [0.0, 1.0, -3.0])
def test_zero_points_come_nearer_and_are_what_the_layer_computes(shift: float) -> None:
    torch.manual_seed(5)
    weight, x = torch.randn(96, 256) + shift, torch.randn(5, 256).bfloat16()
    apart = quantize_linear(weight, Weights.INT4, 64)
    stored = quantize_linear(weight, Weights.INT4, 64, int4_zero_points=True)
    assert stored["zero"].shape == stored["scale"].shape
    restored = dequantize_int4(stored["weight"], stored["scale"], stored["zero"])
    symmetric = dequantize_int4(apart["weight"], apart["scale"])
    assert relative_error(restored, weight) < 0.98 * relative_error(symmetric, weight)
    layer = build_linear(stored, Weights.INT4)
    # the kernel takes the shift by a zero point in bfloat16
    assert relative_error(multiply(layer, x), x.double() @ restored.double().T) < 5e-3


def test_int4_weights_take_at_most_six_tenths_of_a_byte() -> None:
    for shape in [(256, 384), (1000, 448), (97, 2048)]:
        stored = quantize_linear(torch.randn(shape), Weights.INT4)
        layer = build_linear(stored, Weights.INT4)
        rows = -(-shape[0] // 16) * 16  # the kernel's outputs come in sixteens
        assert layer.weight_bytes <= 0.6 * rows * shape[1]
        assert sum(tensor.nbytes for tensor in stored.values()) <= 0.6 * shape[0] * shape[1]


def test_int8_weights_take_little_more_than_a_byte() -> None:
    stored = quantize_linear(torch.randn(512, 1024), Weights.INT8)
    assert build_linear(stored, Weights.INT8).weight_bytes <= 1.02 * 512 * 1024


def test_packing_int4_in_pieces_equals_packing_at_once() -> None:
    weight = torch.randint(0, 256, (INT4_PACK_ROWS + 80, 16), dtype=torch.uint8)
    layer = Int4Linear(weight, torch.ones(weight.size(0), 1, dtype=torch.bfloat16), None)
    whole = torch.ops.aten._convert_weight_to_int4pack_for_cpu(
        unpack_nibbles(weight).to(torch.int32), 1
    )
    assert torch.equal(layer._packed, whole)


def test_a_large_matrix_is_quantized_as_if_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(50, 64)
    for kind in (Weights.INT8, Weights.INT4):
        whole = quantize_linear(weight, kind)
        with monkeypatch.context() as patch:
            patch.setattr("worker.llm.quantize.CHUNK_ELEMENTS", 7 * 64)
            pieces = quantize_linear(weight, kind)
        assert all(torch.equal(whole[name], pieces[name]) for name in whole)


@pytest.mark.parametrize("weights", Weights)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_stored_is_laid_out_as_said(weights: Weights, shape: tuple[int, int]) -> None:
    stored = quantize_linear(torch.randn(shape), weights)
    found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in stored.items()}
    assert found == stored_layout(*shape, weights)


def test_every_format_has_its_class() -> None:
    weight = torch.randn(32, 64)
    kinds = {w: type(build_linear(quantize_linear(weight, w), w)) for w in Weights}
    assert kinds == {
        Weights.FP32: FloatLinear,
        Weights.BF16: PackedLinear if packs_bfloat16() else FloatLinear,
        Weights.INT8: Int8Linear,
        Weights.INT4: Int4Linear,
    }


needs_packing = pytest.mark.skipif(not packs_bfloat16(), reason="this CPU has no bfloat16")


@needs_packing
@pytest.mark.parametrize("shape", [*SHAPES, (1, 36), (33, 7)])
@pytest.mark.parametrize("biased", [False, True])
def test_packed_weights_compute_what_plain_ones_do(shape: tuple[int, int], biased: bool) -> None:
    torch.manual_seed(5)
    weight, bias = torch.randn(shape).bfloat16(), torch.randn(shape[0]).bfloat16()
    given = bias if biased else None
    packed, plain = PackedLinear(weight, given), FloatLinear(weight, given)
    assert packed.weight_bytes == plain.weight_bytes
    for rows in (0, 1, 2, 13, 100):
        x = torch.randn(rows, shape[1]).bfloat16()
        found, wanted = multiply(packed, x), multiply(plain, x)
        assert found.dtype is torch.bfloat16
        torch.testing.assert_close(found, wanted, rtol=0.016, atol=0.02 * shape[1] ** 0.5)
        exact = x.double() @ weight.double().T + (bias.double() if biased else 0)
        assert rows == 0 or relative_error(found, exact) < 0.004


@needs_packing
def test_packed_weights_keep_what_is_no_number() -> None:
    x = torch.zeros(2, 64).bfloat16()
    x[1, 3] = float("nan")
    y = multiply(PackedLinear(torch.randn(96, 64).bfloat16(), None), x)
    assert y.isnan().all(dim=1).tolist() == [False, True]


def test_without_onednn_bfloat16_is_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    stored = {"weight": torch.randn(32, 64).bfloat16()}
    assert type(build_linear(stored, Weights.BF16)) is FloatLinear


PROBE = """
import torch
from models.model_key import Weights
from worker.llm.linear import activation_limit, build_linear, quantize_activations
from worker.llm.quantize import quantize_linear
torch.set_num_threads(1)
torch.manual_seed(0)
worst = 0.0
for outputs, inputs in ((96, 64), (128, 256), (97, 112)):
    stored = quantize_linear(torch.randn(outputs, inputs), Weights.INT8)
    layer = build_linear(stored, Weights.INT8, output_dtype=torch.float32)
    for rows in (1, 3, 16, 64, 256):
        x = torch.randn(rows, inputs).sign()  # every value at the limit: the largest sums
        quantized = quantize_activations(x, activation_limit())
        exact = (quantized.values.double() - activation_limit() - 1) @ stored["weight"].double().T
        exact *= quantized.scale.unsqueeze(1) * stored["scale"]
        error = (layer(quantized).applied().double() - exact).abs().max()
        worst = max(worst, float(error))
print("limit", activation_limit(), "worst", worst)
"""


def run_probe(max_isa: str) -> tuple[list[str], int, float]:
    """Kernels of the matmuls, activation limit and worst error with oneDNN held to an ISA."""
    environment = os.environ | {"ONEDNN_VERBOSE": "1", "ONEDNN_MAX_CPU_ISA": max_isa}
    done = subprocess.run(
        [sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True, check=True
    )
    lines = [line.split(",") for line in done.stdout.splitlines()]
    kernels = [f[6] for f in lines if f[:4] == ["onednn_verbose", "v1", "primitive", "exec"]
               and f[5] == "matmul"]  # fmt: skip
    words = done.stdout.splitlines()[-1].split()
    return kernels, int(words[1]), float(words[3])


def test_int8_runs_on_a_fast_kernel_and_never_on_the_reference_loop() -> None:
    kernels, limit, worst = run_probe("DEFAULT")
    assert len(kernels) == 16  # 3 layers in 5 widths and the trial of the activation limit
    assert not [kernel for kernel in kernels if "ref" in kernel]
    assert worst < 1e-4
    if torch.cpu._is_vnni_supported():  # elsewhere oneDNN has no brgemm for u8 by s8 to choose
        assert limit == 127
        assert all(kernel.startswith("brg") for kernel in kernels), kernels


def test_int8_stays_exact_on_cpus_without_vnni() -> None:
    kernels, limit, worst = run_probe("AVX2")
    assert not [kernel for kernel in kernels if "ref" in kernel]
    assert limit == 63
    assert worst < 1e-4


PACKED_PROBE = """
import torch
from worker.llm.linear import PackedLinear
from worker.llm.rows import Rows
torch.set_grad_enabled(False)
for outputs, inputs in ((96, 64), (128, 256), (97, 112)):
    layer = PackedLinear(torch.randn(outputs, inputs).bfloat16(), None)
    print("packed", flush=True)
    for rows in (1, 3, 16, 64, 256):
        layer(Rows(torch.randn(rows, inputs).bfloat16()))
    print("multiplied", flush=True)
"""


@needs_packing
def test_packed_weights_are_never_ordered_again() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PACKED_PROBE], env=os.environ | {"ONEDNN_VERBOSE": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    calls = [part.split("multiplied")[0] for part in done.stdout.split("packed\n")[1:]]
    primitives = [
        line.split(",")[5] for call in calls for line in call.splitlines() if ",exec," in line
    ]
    assert primitives == ["inner_product"] * 15  # 3 layers in 5 widths, nothing beside
