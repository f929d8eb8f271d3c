"""The random model and its other formats, in the smallest shape."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from benchmarks.job import Job
from benchmarks.model import write_model
from benchmarks.peers.llama_cpp_model import gguf_name, interleave_rotary, read_bf16_tensors
from benchmarks.prepare import PROJECT
from benchmarks.shapes import SHAPES, Shape
from benchmarks.trials import check_counts, runner_command
from benchmarks.w8a8 import write_w8a8
from benchmarks.workloads import Request, Workload, write_workload
from models.model_key import Weights
from worker.llm.add import add_model
from worker.llm.config import read_model_config
from worker.llm.registry import Registry

TINY = Shape(name="tiny", hidden=64, intermediate=96, layers=1, heads=2, kv_heads=1, head_dim=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the tiny shape."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("model")
    write_model(TINY, folder)
    return folder


def test_the_model_has_the_weights_that_its_arithmetic_counts(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    linear = {name: t for name, t in tensors.items() if name.endswith("_proj.weight")}
    assert sum(tensor.numel() for tensor in linear.values()) == TINY.layer_weights
    assert tensors["lm_head.weight"].numel() == TINY.output_weights
    config = read_model_config(folder)
    assert (config.num_layers, config.head_dim, config.vocab_size) == (1, 32, 32000)
    assert not config.tie_word_embeddings


def test_the_model_depends_on_its_shape_alone(folder: Path, tmp_path: Path) -> None:
    write_model(TINY, tmp_path)
    again = (tmp_path / "model.safetensors").read_bytes()
    assert again == (folder / "model.safetensors").read_bytes()


def test_the_tokenizer_has_a_token_for_every_id(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == TINY.vocabulary
    assert tokenizer.decode(tokenizer.encode("some words, é!").ids) == "some words, é!"


def test_the_w8a8_checkpoint_is_the_same_model_within_half_a_step(
    folder: Path, tmp_path: Path
) -> None:
    write_w8a8(folder, tmp_path)
    original = load_file(folder / "model.safetensors")
    quantized = load_file(tmp_path / "model.safetensors")
    assert json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    for name, tensor in original.items():
        if not name.endswith("_proj.weight"):
            assert torch.equal(quantized[name], tensor)
            continue
        scale = quantized[f"{name}_scale"].float()  # (out, 1), rounded to bf16
        difference = (quantized[name].float() * scale - tensor.float()).abs()
        assert quantized[name].dtype == torch.int8
        assert (difference <= scale * (0.5 + 127 / 256)).all()


def test_gguf_tensors_are_those_of_the_checkpoint(folder: Path) -> None:
    original = load_file(folder / "model.safetensors")
    bits = dict(read_bf16_tensors(folder / "model.safetensors"))
    assert bits.keys() == original.keys()
    for name, tensor in original.items():
        assert np.array_equal(bits[name], tensor.view(torch.uint16).numpy())
    assert len({gguf_name(name) for name in original}) == len(original)


def test_rotary_rows_become_neighbours() -> None:
    weight = np.arange(16, dtype=np.uint16).reshape(8, 2)  # two heads of four rows
    rows = interleave_rotary(weight, heads=2)[:, 0] // 2
    assert rows.tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_our_runner_reports_exactly_the_tokens_asked_for(folder: Path, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    entry = add_model(registry, str(folder), name="tiny", weights=Weights.INT8)
    requests = tuple(Request(tuple(range(10, 10 + n)), n) for n in (3, 20, 1))
    workload = Workload("tiny", requests, (Request((30, 31, 32), 3),))  # known ones cost nothing
    write_workload(workload, tmp_path / "work.json")
    job = Job(
        model=str(entry.folder),
        workload=str(tmp_path / "work.json"),
        threads=1,
        settings={"sequences": 2, "step_tokens": 16},
    )
    command = runner_command(sys.executable, "benchmarks.engine_runner", job)
    done = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True)
    report = json.loads(done.stdout.splitlines()[-1])
    assert check_counts(report, workload) is None
    assert report["seconds"] > 0
    assert report["figures"]["output_tokens"] == workload.output_tokens + 3  # with the warm-up


def test_the_full_shape_is_a_model_of_one_billion() -> None:
    shape = SHAPES["1.1b"]
    assert shape.layer_weights + 2 * shape.output_weights == 1_099_956_224
