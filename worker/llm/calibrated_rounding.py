"""int4 weights rounded so that the outputs change little, rather than each weight: GPTQ.

Frantar et al. 2022 (https://arxiv.org/abs/2210.17323): inputs are rounded one after the other, and
the error of each is made up for by those that are still to come, as far as inputs go together.
Those that matter most go first. Their scales are chosen before, so groups stay neighbours and the
result is stored and computed as any other int4 weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from worker.llm.layer_weights import missing_inputs
from worker.llm.quantize import INT4_LIMIT, Int4Grid, by_rows, in_groups, int4_grid, pack_nibbles

# Of the mean of the diagonal, added to it: enough unless inputs are copies of each other.
_DAMPINGS = (0.01, 0.1, 1.0)
_ROWS = 2048  # outputs are independent; so many at once stay in the cache
_BLOCK = 64  # inputs between two corrections of all that are still to come


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the inputs of a matrix decide, for all outputs alike."""

    order: Tensor  # (K',) int64, the inputs from most to least important
    carry: Tensor  # (K', K') upper triangular: how much of an error goes to which later input


def round_calibrated(
    weight: Tensor, moment: Tensor, int4_group: int, *, int4_zero_points: bool = False
) -> dict[str, Tensor]:
    """What `quantize_linear` stores of a weight (N, K) in int4, by what its inputs were.

    `moment` (K, K) float32 is the sum of x xᵀ over inputs x. Deterministic on one machine; two may
    differ in the last bit of a sum, and so in a rounding.
    """
    missing = missing_inputs(weight.size(1))
    plan = _plan(F.pad(moment, (0, missing, 0, missing)))

    def round_rows(rows: Tensor) -> dict[str, Tensor]:
        grouped = in_groups(rows, int4_group)
        grid = int4_grid(grouped, zero_points=int4_zero_points)
        return {"weight": _nibbles(grouped, grid, plan), **grid.stored}

    return by_rows(weight, round_rows, _ROWS)


def _plan(moment: Tensor) -> _Plan:
    """With H = R Rᵀ, R upper triangular, the inverse of R is the Cholesky factor of H⁻¹."""
    order = moment.diagonal().argsort(descending=True, stable=True)
    ordered = moment[order][:, order]
    mean = ordered.diagonal().mean()
    step = torch.where(mean > 0, mean, 1.0)  # nothing seen at all: each weight for itself
    for damping in _DAMPINGS:
        damped = ordered + torch.eye(order.numel()) * (damping * step)
        lower, failed = torch.linalg.cholesky_ex(damped.flip(0, 1))
        if not failed:
            break
    else:
        raise ValueError("the moment of the inputs is no positive semidefinite matrix")
    upper = lower.flip(0, 1)
    carry = torch.linalg.solve_triangular(upper, torch.eye(order.numel()), upper=True)
    return _Plan(order, carry)


def _nibbles(grouped: Tensor, grid: Int4Grid, plan: _Plan) -> Tensor:
    """Packed nibbles (n, K'/2) of rows (n, K'/group, group)."""
    group_of = plan.order // grouped.size(2)
    scales = grid.scale.float().squeeze(-1).t()[group_of]  # (K', n)
    zeros = grid.zeros.squeeze(-1).t()[group_of]
    rest = grouped.flatten(1).t()[plan.order]  # (K', n): what is still to be rounded
    values = torch.empty(rest.shape, dtype=torch.uint8)
    for start in range(0, rest.size(0), _BLOCK):
        stop = min(start + _BLOCK, rest.size(0))
        errors = torch.empty_like(rest[start:stop])
        for row in range(start, stop):
            nibbles = (rest[row] / scales[row]).round_().add_(zeros[row]).clamp_(0, INT4_LIMIT)
            values[row] = nibbles
            meant = (nibbles - zeros[row]) * scales[row]
            error = (rest[row] - meant) / plan.carry[row, row]
            rest[row + 1 : stop].addr_(plan.carry[row, row + 1 : stop], error, alpha=-1)
            errors[row - start] = error
        rest[stop:].addmm_(plan.carry[start:stop, stop:].t(), errors, alpha=-1)
    back = torch.empty_like(plan.order)
    back[plan.order] = torch.arange(back.numel())
    return pack_nibbles(values[back].t().contiguous())
