"""int4 rounded by what its inputs are: the algorithm of GPTQ, and what it is for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.model_key import Weights
from worker.llm.calibrated_rounding import round_calibrated
from worker.llm.quantize import dequantize_int4, int4_grid, quantize_linear, unpack_nibbles

SHAPES = [(5, 32, 128), (48, 112, 32), (33, 160, 64), (17, 384, 128), (3000, 64, 32), (9, 50, 128)]


def inputs_that_go_together(columns: int, rows: int = 600) -> Tensor:
    """Rows of few independent sources, some inputs far larger than others."""
    mixing = torch.randn(max(4, columns // 4), columns) * torch.rand(columns).mul(3).exp()
    return torch.randn(rows, mixing.size(0)) @ mixing + 0.1 * torch.randn(rows, columns)


def restored(stored: dict[str, Tensor], columns: int) -> Tensor:
    return dequantize_int4(stored["weight"], stored["scale"], stored.get("zero"))[:, :columns]


@pytest.mark.parametrize("zero_points", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_are_nearer_than_those_of_weights_rounded_apart(
    shape: tuple[int, int, int], zero_points: bool
) -> None:
    torch.manual_seed(3)
    outputs, columns, group = shape
    weight, seen = torch.randn(outputs, columns), inputs_that_go_together(columns)
    apart = quantize_linear(weight, Weights.INT4, group, int4_zero_points=zero_points)
    moment = seen.t() @ seen
    calibrated = round_calibrated(weight, moment, group, int4_zero_points=zero_points)

    def error(stored: dict[str, Tensor]) -> float:
        return (seen @ (restored(stored, columns) - weight).t()).square().sum().item()

    assert error(calibrated) < 0.5 * error(apart)
    assert {name: tensor.shape for name, tensor in calibrated.items()} == {
        name: tensor.shape for name, tensor in apart.items()
    }
    assert ("zero" in apart) is zero_points
    for part in apart.keys() - {"weight"}:
        assert torch.equal(calibrated[part], apart[part])


@pytest.mark.parametrize("moment", [torch.eye(96) * 5, torch.zeros(96, 96)])
def test_inputs_that_have_nothing_to_do_with_each_other_change_nothing(moment: Tensor) -> None:
    torch.manual_seed(4)
    weight = torch.randn(40, 96)
    apart = quantize_linear(weight, Weights.INT4, 32)
    calibrated = round_calibrated(weight, moment, 32)
    assert torch.equal(calibrated["weight"], apart["weight"])


def test_inputs_that_are_copies_of_each_other_are_no_obstacle() -> None:
    torch.manual_seed(5)
    seen = torch.randn(200, 1).repeat(1, 64)
    weight = torch.randn(8, 64)
    stored = round_calibrated(weight, seen.t() @ seen, 32)
    exact, rounded = weight.sum(1), restored(stored, 64).sum(1)  # all that matters of them
    apart = restored(quantize_linear(weight, Weights.INT4, 32), 64).sum(1)
    assert (rounded - exact).abs().mean() < 0.5 * (apart - exact).abs().mean()


def test_it_is_gptq() -> None:
    """Against the recursion as the paper writes it, on the inverse of H, in float64."""
    torch.manual_seed(6)
    weight, seen = torch.randn(24, 128), inputs_that_go_together(128)
    moment = seen.t() @ seen
    stored = round_calibrated(weight, moment, 32)
    values = unpack_nibbles(stored["weight"]).double() - 8
    expected = textbook(weight, moment)
    assert (values == expected).double().mean() > 0.999  # a tie may fall either way


def textbook(weight: Tensor, moment: Tensor) -> Tensor:
    grid = int4_grid(weight.view(24, 4, 32), zero_points=False)
    scale = grid.scale.squeeze(-1).double().repeat_interleave(32, 1)
    damping = 0.01 * moment.diagonal().mean()
    inverse = (moment + damping * torch.eye(128)).double().inverse()
    rest, values = weight.double().clone(), torch.zeros(24, 128, dtype=torch.float64)
    left = set(range(128))
    for column in moment.diagonal().argsort(descending=True, stable=True).tolist():
        values[:, column] = (rest[:, column] / scale[:, column]).round().clamp(-8, 7)
        error = rest[:, column] - values[:, column] * scale[:, column]
        left.remove(column)
        others = sorted(left)
        share = inverse[column, others] / inverse[column, column]
        rest[:, others] -= error.unsqueeze(1) * share
        column_of = inverse[:, column].clone()
        inverse = inverse - column_of.outer(column_of) / column_of[column]
    return values
