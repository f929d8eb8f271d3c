"""The compiled kernels take addresses: a tensor of another kind would be read past its end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.llm.native_support import needs_cpu
from tests.llm.tiny_models import make_reference, save_reference
from worker.llm.config import read_model_config
from worker.llm.kv_cache import KVCache
from worker.llm.native.kernels import BLOCK_TOKENS, Kernels
from worker.llm.native.operations import NativeOperations
from worker.llm.packed import Segment, pack_step
from worker.llm.rows import Rows

pytestmark = needs_cpu
NUM_BLOCKS = 4


def zeros(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


def norm(kernels: Kernels, **changed: Tensor) -> None:
    """2 rows of 32, one of the tensors another one."""
    scale = changed.get("scale", zeros(2, dtype=torch.float32))
    delta = Rows(changed.get("delta", zeros(2, 32)), scale)
    residual, weight = changed.get("residual", zeros(2, 32)), changed.get("weight", zeros(32))
    kernels.add_norm(residual, delta, weight, 1e-6, quantize=True)


def cache_rows(kernels: Kernels, **changed: Tensor) -> None:
    """2 rows with 4 heads and 1 key head of 64 into 2 blocks."""
    angles = zeros(2, 32, dtype=torch.float32)
    kernels.rotate_and_cache(
        Rows(changed.get("qkv", zeros(2, 6 * 64))),
        cos=changed.get("cos", angles),
        sin=changed.get("sin", angles),
        slots=changed.get("slots", zeros(2, dtype=torch.int32)),
        keys=changed.get("keys", zeros(2, 1, 16 * 64)),
        values=changed.get("values", zeros(2, 1, 16 * 64)),
        heads=4,
    )


def attend_rows(kernels: Kernels, **changed: Tensor) -> None:
    """One row that sees one key."""
    kernels.attend(
        changed.get("queries", zeros(1, 4, 64)),
        keys=changed.get("keys", zeros(2, 1, 16 * 64)),
        values=changed.get("values", zeros(2, 1, 16 * 64)),
        spans=changed.get("spans", torch.tensor([[0, 1, 1, 0]], dtype=torch.int32)),
        tables=changed.get("tables", zeros(1, dtype=torch.int32)),
    )


WRONG = [
    (norm, "residual", zeros(2, 32, dtype=torch.float32)),
    (norm, "residual", zeros(32, 2).t()),
    (norm, "residual", zeros(2, 24)),
    (norm, "delta", zeros(1, 32)),
    (norm, "delta", zeros(2, 64)[:, ::2]),
    (norm, "scale", zeros(2)),
    (norm, "scale", zeros(1, dtype=torch.float32)),
    (norm, "weight", zeros(16)),
    (norm, "weight", zeros(32, dtype=torch.float32)),
    (cache_rows, "qkv", zeros(2, 5 * 64)),
    (cache_rows, "cos", zeros(1, 32, dtype=torch.float32)),
    (cache_rows, "sin", zeros(2, 32)),
    (cache_rows, "slots", zeros(2, dtype=torch.int64)),
    (cache_rows, "slots", zeros(1, dtype=torch.int32)),
    (cache_rows, "keys", zeros(2, 1, 16 * 32)),
    (cache_rows, "values", zeros(1, 1, 16 * 64)),
    (cache_rows, "values", zeros(2, 1, 16 * 64, dtype=torch.float32)),
    (attend_rows, "queries", zeros(1, 64, 4).transpose(1, 2)),
    (attend_rows, "queries", zeros(1, 4, 128)),
    (attend_rows, "keys", zeros(2, 3, 16 * 64)),
    (attend_rows, "values", zeros(2, 2, 16 * 64)),
    (attend_rows, "spans", zeros(1, 3, dtype=torch.int32)),
    (attend_rows, "spans", zeros(1, 4, dtype=torch.int64)),
    (attend_rows, "tables", zeros(1, dtype=torch.int64)),
]


@pytest.mark.parametrize("run", [norm, cache_rows, attend_rows])
def test_tensors_of_the_right_kind_are_taken(kernels: Kernels, run: Callable[..., None]) -> None:
    run(kernels)


@pytest.mark.parametrize(("run", "name", "tensor"), WRONG)
def test_tensors_that_would_be_read_past_their_end_are_refused(
    kernels: Kernels, run: Callable[..., None], name: str, tensor: Tensor
) -> None:
    with pytest.raises(ValueError, match="give"):
        run(kernels, **{name: tensor})


@pytest.mark.parametrize(
    ("block_tokens", "block"), [(BLOCK_TOKENS, NUM_BLOCKS), (BLOCK_TOKENS, -1), (4, 0)]
)
def test_blocks_outside_of_the_cache_are_refused(
    kernels: Kernels, tmp_path: Path, block_tokens: int, block: int
) -> None:
    config = read_model_config(save_reference(make_reference(head_dim=64), tmp_path))
    cache = KVCache(config, NUM_BLOCKS, block_tokens, torch.bfloat16)
    packed = pack_step([Segment([0], 0, (block,), True)], block_tokens)
    with pytest.raises(ValueError, match="blocks"):
        NativeOperations(config, kernels).attention(packed, cache)
