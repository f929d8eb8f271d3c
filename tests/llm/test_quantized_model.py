"""Whole models in every format: error against float, memory, kernels, and who shares a batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from models.errors import UnsupportedModel
from models.model_key import Weights
from tests.llm.paged_session import Session, random_sequences
from tests.llm.tiny_models import CONFIGURATIONS, in_memory, make_reference, save_reference
from worker.llm.checkpoint import INDEX_NAME, Checkpoint
from worker.llm.config import read_model_config
from worker.llm.convert import convert
from worker.llm.decoder import Decoder
from worker.llm.loading import build_model
from worker.llm.quantize import dequantize_int4

WIDE = {"hidden_size": 128, "intermediate_size": 256, "num_key_value_heads": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_reference(make_reference(**WIDE), tmp_path_factory.mktemp("wide"))


def prompt_logits(model: Decoder, sequences: list[list[int]]) -> Tensor:
    session = Session(model, sequences)
    return session.step({index: len(tokens) for index, tokens in enumerate(sequences)})


@pytest.mark.parametrize(
    ("weights", "bound"), [(Weights.BF16, 0.03), (Weights.INT8, 0.06), (Weights.INT4, 0.6)]
)
@pytest.mark.parametrize("options", [WIDE, CONFIGURATIONS["tied"], CONFIGURATIONS["biases"]])
def test_logits_stay_close_to_float(
    weights: Weights, bound: float, options: dict[str, object], tmp_path: Path
) -> None:
    folder = save_reference(make_reference(**options), tmp_path)
    sequences = random_sequences([40, 3, 17, 29, 8, 1])
    exact = prompt_logits(in_memory(folder, Weights.FP32), sequences)
    found = prompt_logits(in_memory(folder, weights), sequences)
    assert found.dtype == torch.float32
    assert float((found - exact).norm() / exact.norm()) < bound


@pytest.mark.parametrize(("weights", "bound"), [(Weights.INT8, 0.08), (Weights.INT4, 0.04)])
def test_a_quantized_model_computes_its_stored_weights(
    weights: Weights, bound: float, folder: Path
) -> None:
    config = read_model_config(folder)
    stored = dict(convert(config, weights, Checkpoint(folder)))
    meant = {name: tensor.float() for name, tensor in stored.items()}
    for name in [name for name in stored if name.endswith(".scale")]:
        weight = name.replace(".scale", ".weight")
        if weights is Weights.INT4:
            meant[weight] = dequantize_int4(stored[weight], stored[name])
        else:
            meant[weight] = stored[weight].float() * stored[name].unsqueeze(1)
    sequences = random_sequences([40, 3, 17, 29, 8, 1])
    exact = prompt_logits(build_model(config, Weights.FP32, meant), sequences)
    found = prompt_logits(build_model(config, weights, stored), sequences)
    assert float((found - exact).norm() / exact.norm()) < bound


def test_smaller_formats_take_less_memory(folder: Path) -> None:
    held = {weights: in_memory(folder, weights).weight_bytes for weights in Weights}
    assert held[Weights.INT4] < held[Weights.INT8] < held[Weights.BF16] < held[Weights.FP32]
    embedding = 2 * 97 * 128
    linears = (held[Weights.BF16] - embedding) / 2  # weights in the linear layers
    padded = linears + 15 * 128  # the 97 outputs of lm_head are filled up to 112
    assert held[Weights.INT4] - embedding <= 0.6 * padded


def test_an_int8_model_whose_sums_would_overflow_is_refused(tmp_path: Path) -> None:
    wide = make_reference(hidden_size=16, intermediate_size=1 << 17, num_hidden_layers=1)
    saved = save_reference(wide, tmp_path)
    with pytest.raises(UnsupportedModel, match=r"131072 inputs.*use bf16 or int4"):
        in_memory(saved, Weights.INT8)
    in_memory(saved, Weights.INT4)


def test_int8_decoding_does_not_depend_on_who_shares_the_batch(folder: Path) -> None:
    model = in_memory(folder, Weights.INT8)
    sequences = random_sequences([24, 24, 24, 24])  # equal contexts: attention adds no padding
    together, alone = Session(model, sequences), Session(model, sequences)
    for step in range(8):
        rows = together.step(dict.fromkeys(range(4), 3 if step == 0 else 1))
        for index in range(4):
            single = alone.step({index: 3 if step == 0 else 1})
            assert torch.equal(rows[index], single[0])


@pytest.mark.parametrize("name", ["gqa", "tied", "llama3-rope"])
def test_greedy_tokens_in_fp32_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    reference = make_reference(**CONFIGURATIONS[name])
    model = in_memory(save_reference(reference, tmp_path), Weights.FP32)
    prompts = random_sequences([1, 30, 77])
    session = Session(model, [list(prompt) for prompt in prompts])
    logits = session.step({index: len(prompt) for index, prompt in enumerate(prompts)})
    for _ in range(24):
        for index, token in enumerate(logits.argmax(dim=-1).tolist()):
            session.sequences[index].append(token)
        logits = session.step(dict.fromkeys(range(3), 1))
    for prompt, found in zip(prompts, session.sequences, strict=True):
        ids = torch.tensor([prompt])
        expected = reference.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, min_new_tokens=24,
            do_sample=False, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        assert found == expected[0].tolist()


KERNELS = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from models.model_key import Weights
from worker.llm.checkpoint import Checkpoint
from worker.llm.config import read_model_config
from worker.llm.convert import convert
from worker.llm.kv_cache import KVCache
from worker.llm.loading import build_model
from worker.llm.packed import Segment, pack_step
folder = Path(sys.argv[1])
config = read_model_config(folder)
model = build_model(config, Weights.INT8, dict(convert(config, Weights.INT8, Checkpoint(folder))))
print("loaded", flush=True)
step = pack_step([Segment([5, 6, 7], 0, [0], True), Segment([8], 0, [1], True)], 4)
model.forward(step, KVCache(config, 2, 4, model.compute_dtype))
"""


def test_every_linear_of_an_int8_model_runs_on_the_fast_kernel(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KERNELS, str(folder)],
        env=os.environ | {"ONEDNN_VERBOSE": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    step = done.stdout.split("loaded")[1].splitlines()
    fields = [line.split(",") for line in step if ",exec,cpu,matmul," in line]
    linears = [f[6] for f in fields if "src:u8" in f[8] and "wei:s8" in f[8]]
    assert len(linears) == 2 * 4 + 1  # qkv, output, gate_up and down of two layers, and lm_head
    assert not [kernel for kernel in linears if "ref" in kernel]
    if torch.cpu._is_vnni_supported():  # elsewhere oneDNN has no brgemm for u8 by s8 to choose
        assert all(kernel.startswith("brg") for kernel in linears), linears


MEMORY = """
import resource, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from models.model_key import Weights
from worker.llm import artifact_writer
from worker.llm.artifact import Source
MIB = 1024**2
artifact_writer.FILE_BYTES = 8 * MIB
def write(name, weights):
    artifact_writer.write_artifact(Path(sys.argv[1]) / name, Path(sys.argv[2]) / name / weights,
                                   weights, source=Source(repository="x", digest="x"))
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 // MIB
for weights in (Weights.INT8, Weights.INT4):
    write("small", weights)
before = peak()
for weights in (Weights.INT8, Weights.INT4):
    write("large", weights)
print(peak() - before)
"""


def save_large_model(folder: Path, layers: int) -> int:
    """A model of zeros with one shard per layer; its bytes. Only its size matters."""
    options = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": layers}
    with torch.device("meta"):
        shapes = make_reference(**options)
    shapes.config.save_pretrained(folder)
    shards: dict[str, dict[str, Tensor]] = {}
    for name, tensor in shapes.state_dict().items():
        shard = name.split(".")[2] if ".layers." in name else "rest"
        tensors = shards.setdefault(f"model-{shard}.safetensors", {})
        tensors[name] = torch.zeros(tensor.shape, dtype=torch.bfloat16)
    for file, tensors in shards.items():
        save_file(tensors, folder / file)
    weight_map = {name: file for file, tensors in shards.items() for name in tensors}
    (folder / INDEX_NAME).write_text(json.dumps({"weight_map": weight_map}))
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def test_quantizing_takes_the_memory_of_a_shard_and_not_of_the_model(tmp_path: Path) -> None:
    save_large_model(tmp_path / "small", 1)
    assert save_large_model(tmp_path / "large", 30) > 150 * 1024**2
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path), str(tmp_path / "out")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    # Two shards of 6 MB, what is gathered for a file, the same being written, one matrix in float.
    assert int(done.stdout) < 60
