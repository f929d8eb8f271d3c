"""The compiled kernels against the PyTorch operations that they replace.

They need a CPU with AVX512_BF16 and a compiler; elsewhere the model runs without them
(tests/llm/test_llama.py), and the reason is said (tests/llm/test_native_build.py).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.model_key import Weights
from tests.llm.native_support import needs_cpu
from tests.llm.tiny_models import in_memory, make_reference, save_reference
from worker.llm.config import ModelConfig, read_model_config
from worker.llm.decoder import Decoder
from worker.llm.kv_cache import KVCache
from worker.llm.native.kernels import BLOCK_TOKENS, Kernels
from worker.llm.native.operations import NativeOperations
from worker.llm.operations import Operations, TorchOperations
from worker.llm.packed import Segment, pack_step
from worker.llm.rows import Rows

NUM_BLOCKS = 64

# heads, kv heads, head_dim
SHAPES = {"mha": (4, 4, 64), "gqa": (8, 2, 64), "mqa": (8, 1, 64), "wide": (4, 2, 128)}
# (tokens in the cache before, tokens of this step) per sequence
STEPS = {
    "decodes": [(0, 1), (15, 1), (16, 1), (127, 1), (128, 1), (300, 1)],
    "prompts": [(0, 5), (0, 16), (0, 150)],
    "mixed": [(40, 1), (0, 33), (100, 29), (7, 1), (129, 2)],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernels")


def shape_of(folder: Path, name: str) -> ModelConfig:
    heads, kv_heads, head_dim = SHAPES[name]
    reference = make_reference(
        num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim
    )
    return read_model_config(save_reference(reference, folder / name))


def random_rows(rows: int, width: int, *, scaled: bool) -> Rows:
    values = torch.randn(rows, width).bfloat16()
    return Rows(values, torch.rand(rows) * 3 if scaled else None)


def close(found: Tensor, wanted: Tensor, tolerance: float = 0.01) -> bool:
    return float((found.float() - wanted.float()).norm() / wanted.float().norm()) < tolerance


def dequantized(rows: Rows) -> Tensor:
    assert rows.scale is not None
    return (rows.values.float() - 128) * rows.scale.unsqueeze(1)


@needs_cpu
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_add_norm_and_gate_equal_pytorch(
    kernels: Kernels, folder: Path, rows: int, scaled: bool
) -> None:
    torch.manual_seed(rows)
    config = shape_of(folder, "gqa")
    weight = torch.randn(config.hidden_size).bfloat16()
    for run in ({"quantize": False}, {"quantize": True}):
        residual = torch.randn(rows, config.hidden_size).bfloat16()
        delta = random_rows(rows, config.hidden_size, scaled=scaled)
        gate_up = random_rows(rows, 2 * config.intermediate_size, scaled=scaled)
        other = residual.clone()
        native = NativeOperations(config, kernels)
        reference = TorchOperations(config, torch.bfloat16)
        pairs = [
            (
                native.add_norm(residual, delta, weight, **run),
                reference.add_norm(other, delta, weight, **run),
            ),
            (native.gate(gate_up, **run), reference.gate(gate_up, **run)),
        ]
        assert close(residual, other)
        for found, wanted in pairs:
            values = dequantized(found) if run["quantize"] else found.applied()
            assert close(values, wanted.applied(), 0.02 if run["quantize"] else 0.01)


@needs_cpu
def test_quantized_rows_are_exact_to_half_a_step_and_keep_zeros(kernels: Kernels) -> None:
    torch.manual_seed(1)
    x = torch.randn(9, 80).bfloat16() * torch.logspace(-5, 5, 9).bfloat16().unsqueeze(1)
    x[4] = 0
    rows = kernels.quantize(x)
    assert rows.scale is not None
    assert int(rows.values.min()) >= 1
    bound = rows.scale.unsqueeze(1) * 0.51 + x.float().abs().amax(dim=1, keepdim=True) / 256
    assert bool(((dequantized(rows) - x.float()).abs() <= bound).all())
    assert bool((rows.values[4] == 128).all())


@needs_cpu
@pytest.mark.parametrize("column", [0, 37, 79])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_not_rounded_to_one(
    kernels: Kernels, value: float, column: int
) -> None:
    torch.manual_seed(2)
    x = torch.randn(3, 80).bfloat16()
    x[1, column] = value
    doubled = Rows(torch.cat((x, x), dim=1))
    for rows in (
        kernels.quantize(x),
        kernels.gate(doubled, quantize=True),
        kernels.add_norm(x.clone(), None, torch.ones(80).bfloat16(), 1e-6, quantize=True),
    ):
        assert dequantized(rows).isfinite().all(dim=1).tolist() == [True, False, True]


@needs_cpu
def test_a_key_that_is_no_number_makes_the_answer_none(kernels: Kernels, folder: Path) -> None:
    config = shape_of(folder, "gqa")
    steps = Steps(config, NativeOperations(config, kernels), seed=5)
    steps.rows_of_nan = 1
    found = steps.run([(0, 5), (0, 20)])  # the first row of the first sequence
    assert found.isnan().any(dim=1).tolist() == [True] * 5 + [False] * 20


class Steps:
    """A cache in which sequences have grown to given lengths, and one step more."""

    def __init__(self, config: ModelConfig, operations: Operations, seed: int) -> None:
        self._config = config
        self._operations = operations
        self._source = torch.Generator().manual_seed(seed)
        self.cache = KVCache(config, NUM_BLOCKS, BLOCK_TOKENS, torch.bfloat16)
        self._free = list(range(NUM_BLOCKS))
        self.rows_of_nan = 0  # so many leading rows of keys are no numbers
        random.Random(2).shuffle(self._free)

    def run(self, lengths: Sequence[tuple[int, int]]) -> Tensor:
        tables = [
            tuple(self._free.pop() for _ in range(-(-(before + now) // BLOCK_TOKENS)))
            for before, now in lengths
        ]
        grown = [(0, before, t) for (before, _), t in zip(lengths, tables, strict=True) if before]
        if grown:
            self._step(grown)
        return self._step([(b, n, t) for (b, n), t in zip(lengths, tables, strict=True)])

    def _step(self, parts: Sequence[tuple[int, int, tuple[int, ...]]]) -> Tensor:
        segments = [Segment([0] * now, start, table, False) for start, now, table in parts]
        packed = pack_step(segments, BLOCK_TOKENS)
        shape = self._config
        width = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim
        rows = packed.token_ids.numel()
        qkv = Rows(
            torch.randn(rows, width, generator=self._source).bfloat16(),
            1 + torch.rand(rows, generator=self._source),
        )
        queries = shape.num_heads * shape.head_dim
        qkv.values[: self.rows_of_nan, queries : queries + shape.head_dim] = float("nan")
        attend = self._operations.attention(packed, self.cache)
        return attend(0, qkv, None, quantize=False).applied()


@needs_cpu
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("shape", SHAPES)
def test_attention_equals_pytorch(kernels: Kernels, folder: Path, shape: str, step: str) -> None:
    config = shape_of(folder, shape)
    found = Steps(config, NativeOperations(config, kernels), seed=3).run(STEPS[step])
    wanted = Steps(config, TorchOperations(config, torch.bfloat16), seed=3).run(STEPS[step])
    assert close(found, wanted, 0.02)


@needs_cpu
def test_what_an_earlier_owner_left_in_a_block_does_not_matter(
    kernels: Kernels, folder: Path
) -> None:
    config = shape_of(folder, "gqa")
    clean, dirty = (Steps(config, NativeOperations(config, kernels), seed=4) for _ in range(2))
    for memory in (*dirty.cache.keys, *dirty.cache.values):
        memory.fill_(float("nan"))
    assert torch.equal(clean.run(STEPS["mixed"]), dirty.run(STEPS["mixed"]))


@pytest.fixture
def one_thread_again() -> Iterator[None]:
    yield
    torch.set_num_threads(1)


@needs_cpu
@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.usefixtures("one_thread_again")
def test_attention_does_not_depend_on_the_number_of_threads(
    kernels: Kernels, folder: Path, threads: int
) -> None:
    config = shape_of(folder, "gqa")
    alone = Steps(config, NativeOperations(config, kernels), seed=7).run(STEPS["mixed"])
    torch.set_num_threads(threads)  # they meet in the middle of blocks that were used before
    shared = Steps(config, NativeOperations(config, kernels), seed=7)
    for memory in (*shared.cache.keys, *shared.cache.values):
        memory.fill_(float("nan"))
    assert torch.equal(shared.run(STEPS["mixed"]), alone)


def forward(model: Decoder, prompts: Sequence[Sequence[int]], steps: int) -> list[list[int]]:
    """Greedy continuations of all prompts together, each in blocks of its own."""
    cache = KVCache(model.config, NUM_BLOCKS, BLOCK_TOKENS, model.compute_dtype)
    per_prompt = NUM_BLOCKS // len(prompts)
    tables = [tuple(range(i * per_prompt, (i + 1) * per_prompt)) for i in range(len(prompts))]
    outputs: list[list[int]] = [[] for _ in prompts]
    new = [list(prompt) for prompt in prompts]
    done = [0] * len(prompts)
    for _ in range(steps):
        segments = [Segment(new[i], done[i], table, True) for i, table in enumerate(tables)]
        logits = model.forward(pack_step(segments, BLOCK_TOKENS), cache)
        for i, token in enumerate(logits.argmax(dim=-1).tolist()):
            done[i] += len(new[i])
            new[i] = [token]
            outputs[i].append(token)
    return outputs


@needs_cpu
@pytest.mark.parametrize("weights", [Weights.INT8, Weights.INT4])
def test_answers_are_the_same_alone_and_among_others(
    kernels: Kernels, folder: Path, weights: Weights
) -> None:
    reference = make_reference(num_attention_heads=4, num_key_value_heads=2, head_dim=64)
    model = in_memory(save_reference(reference, folder / "alone"), weights, kernels)
    source = random.Random(9)
    prompts = [[source.randrange(97) for _ in range(n)] for n in (1, 5, 17, 40, 33, 16, 8, 21)]
    together = forward(model, prompts, steps=12)
    assert together == [forward(model, [prompt], steps=12)[0] for prompt in prompts]


@needs_cpu
@pytest.mark.parametrize("weights", [Weights.BF16, Weights.INT8, Weights.INT4])
def test_logits_of_a_whole_model_equal_pytorch(
    kernels: Kernels, folder: Path, weights: Weights
) -> None:
    reference = make_reference(
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        attention_bias=True,
        mlp_bias=True,
    )
    saved = save_reference(reference, folder / "whole")
    source = random.Random(4)
    segments = [
        Segment([source.randrange(97) for _ in range(n)], 0, tuple(range(8 * i, 8 * i + 8)), True)
        for i, n in enumerate((3, 50, 100))
    ]
    logits = [
        model.forward(
            pack_step(segments, BLOCK_TOKENS),
            KVCache(model.config, NUM_BLOCKS, BLOCK_TOKENS, model.compute_dtype),
        )
        for model in (in_memory(saved, weights, kernels), in_memory(saved, weights))
    ]
    assert close(logits[0], logits[1], 0.04)
