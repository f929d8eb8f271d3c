"""Checkpoints that are quantized already: the integers that are kept, and the models they make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from models.errors import UnsupportedModel
from models.model_key import Weights
from tests.llm.native_support import needs_cpu
from tests.llm.paged_session import Session, assert_logits_of, random_sequences
from tests.llm.quantized_folders import (
    Layer,
    Packer,
    Scheme,
    awq,
    awq_config,
    compressed_config,
    gptq,
    gptq_config,
    int_quantized,
    pack_quantized,
    save_quantized,
)
from tests.llm.tiny_models import make_model
from tests.llm.tiny_tokenizers import make_byte_level
from worker.llm.add import add_model
from worker.llm.artifact import Artifact, Source, open_artifact
from worker.llm.artifact_writer import write_artifact
from worker.llm.layer_weights import LayerWeights
from worker.llm.loading import StoredTensors, fastest_linear, linear_parts, load_model
from worker.llm.native.kernels import Kernels
from worker.llm.quantize import unpack_nibbles
from worker.llm.recipe import is_recipe, recipe
from worker.llm.registry import Registry, RegistryEntry

SOURCE = Source(repository="x", digest="x")
SHAPE = {"hidden_size": 128, "intermediate_size": 256, "num_key_value_heads": 2}
Case = tuple[Packer, dict[str, Any], Scheme]


def gptq_case(**options: Any) -> Case:
    scheme = Scheme(**options)
    return gptq, gptq_config(scheme), scheme


def awq_case(**options: Any) -> Case:
    scheme = Scheme(symmetric=False, **options)
    return awq, awq_config(scheme), scheme


def compressed_case(**options: Any) -> Case:
    scheme = Scheme(**options)
    return pack_quantized, compressed_config(scheme), scheme


def bytes_case() -> Case:
    scheme = Scheme(bits=8, group=-1)
    return int_quantized, compressed_config(scheme, "int-quantized"), scheme


KEPT_INT4 = {
    "gptq, 32": gptq_case(),
    "gptq, 64": gptq_case(group=64),
    "gptq, 128": gptq_case(group=128),
    "gptq, per output": gptq_case(group=-1),
    "gptq_v2": gptq_case(zeros_less_one=False),
    "awq, 32": awq_case(),
    "awq, 128": awq_case(group=128),
    "gptq, asymmetric": gptq_case(symmetric=False),
    "gptq_v2, asymmetric": gptq_case(symmetric=False, zeros_less_one=False),
    "compressed, asymmetric": compressed_case(symmetric=False),
    "compressed, 32": compressed_case(),
    "compressed, 128": compressed_case(group=128),
    "compressed, per output": compressed_case(group=-1),
}
KEPT_INT8 = {
    "gptq": gptq_case(bits=8, group=-1),
    "compressed": compressed_case(bits=8, group=-1),
    "int-quantized": bytes_case(),
}
OTHERS = {
    "gptq, act-order": gptq_case(act_order=True),
    "gptq, 8 bits": gptq_case(bits=8),
    "gptq, groups of 16": gptq_case(group=16),
    "compressed, 8 bits": compressed_case(bits=8),
}
ALL = KEPT_INT4 | {f"int8, {name}": case for name, case in KEPT_INT8.items()} | OTHERS


def save(
    case: Case, folder: Path, kind: str = "llama", **options: Any
) -> tuple[PreTrainedModel, dict[str, Layer]]:
    """A random model of the case in `folder`; the same as it means, and its quantized layers."""
    pack, said, scheme = case
    model = make_model(kind, **(SHAPE | options))
    layers = save_quantized(model, folder, said, lambda weight: pack(weight, scheme))
    return model, layers


def added(folder: Path, weights: Weights) -> Artifact:
    return write_artifact(folder, folder / f"made-{weights}", weights, source=SOURCE)


def error(model: PreTrainedModel, artifact: Artifact, kernels: Kernels | None = None) -> float:
    tokens = random_sequences([24])
    found = Session(load_model(artifact, kernels), tokens).step({0: 24})[0]
    with torch.no_grad():
        exact = model(torch.tensor(tokens)).logits[0, -1]
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize("name", ALL)
def test_in_fp32_the_model_is_what_the_format_means(name: str, tmp_path: Path) -> None:
    model, _ = save(ALL[name], tmp_path)
    assert_logits_of(model, load_model(added(tmp_path, Weights.FP32)), 1e-4)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("name", KEPT_INT4)
def test_int4_keeps_the_integers_of_a_checkpoint(name: str, kind: str, tmp_path: Path) -> None:
    model, layers = save(KEPT_INT4[name], tmp_path, kind)
    artifact = added(tmp_path, Weights.INT4)
    stored = StoredTensors(artifact.tensor_files)
    for ours, theirs in (
        ("qkv", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
        ("output", ("self_attn.o_proj",)),
        ("gate_up", ("mlp.gate_proj", "mlp.up_proj")),
        ("down", ("mlp.down_proj",)),
    ):
        parts = [layers[f"model.layers.1.{part}"] for part in theirs]
        values = torch.cat([part.values for part in parts])  # (N, K)
        scales = torch.cat([part.scales for part in parts])  # (N, groups)
        zeros = torch.cat([part.zeros for part in parts])  # (N, groups)
        kept = stored[f"layers.1.{ours}.scale"]
        assert torch.equal(unpack_nibbles(stored[f"layers.1.{ours}.weight"]).long(), values)
        repeats = kept.size(1) // scales.size(1)
        assert torch.equal(kept, scales.to(torch.bfloat16).repeat_interleave(repeats, dim=1))
        if not KEPT_INT4[name][2].symmetric:
            assert torch.equal(stored[f"layers.1.{ours}.zero"].long(), zeros)
    assert error(model, artifact) < 0.2  # lm_head goes by our recipe, activations are bfloat16
    assert artifact.manifest.recipe["rounding"] == name.split(",")[0].replace(
        "compressed", "compressed-tensors"
    ).removesuffix("_v2")


@needs_cpu
@pytest.mark.parametrize("name", ["gptq, 32", "gptq, per output", "compressed, 128", "awq, 32"])
def test_kept_integers_run_beside_the_compiled_kernels(
    name: str, kernels: Kernels, tmp_path: Path
) -> None:
    model, _ = save(KEPT_INT4[name], tmp_path)
    artifact = added(tmp_path, Weights.INT4)
    stored = StoredTensors(artifact.tensor_files)
    parts = linear_parts(stored, "layers.0.down", Weights.INT4, (128, 256))
    layer = fastest_linear(parts, 256, Weights.INT4, kernels)
    assert layer.is_compiled
    assert error(model, artifact, kernels) < 0.2


@pytest.mark.parametrize("name", KEPT_INT8)
def test_int8_keeps_the_integers_of_a_symmetric_checkpoint(name: str, tmp_path: Path) -> None:
    model, layers = save(KEPT_INT8[name], tmp_path)
    artifact = added(tmp_path, Weights.INT8)
    stored = StoredTensors(artifact.tensor_files)
    down = layers["model.layers.0.mlp.down_proj"]
    assert torch.equal(stored["layers.0.down.weight"].long() + 128, down.values)
    assert torch.equal(stored["layers.0.down.scale"], down.scales.float().squeeze(1))
    assert error(model, artifact) < 0.05


@pytest.mark.parametrize("name", OTHERS)
def test_what_cannot_be_kept_is_close_in_int8(name: str, tmp_path: Path) -> None:
    model, _ = save(OTHERS[name], tmp_path)
    artifact = added(tmp_path, Weights.INT8)
    assert error(model, artifact) < 0.08
    assert artifact.manifest.recipe["rounding"] == "nearest"


@pytest.mark.parametrize("case", [gptq_case(), awq_case()], ids=["gptq", "awq"])
def test_layers_that_were_left_as_they_are_go_by_our_recipe(case: Case, tmp_path: Path) -> None:
    pack, said, scheme = case
    model = make_model("llama", **SHAPE)
    ignored = ("lm_head", "layers.0.mlp.down_proj", "layers.1.self_attn.k_proj")
    save_quantized(model, tmp_path, said, lambda weight: pack(weight, scheme), ignored)
    assert_logits_of(model, load_model(added(tmp_path, Weights.FP32)), 1e-4)
    artifact = added(tmp_path, Weights.INT4)
    stored = StoredTensors(artifact.tensor_files)
    assert stored["layers.0.down.scale"].size(1) == 2  # groups of 128, as ours are
    assert stored["layers.1.qkv.scale"].size(1) == 4  # of 32, as those beside it
    assert error(model, artifact) < 0.3


def test_gemma_scales_its_queries_beside_kept_integers(tmp_path: Path) -> None:
    options = {"head_dim": 32, "query_pre_attn_scalar": 20}
    for weights in (Weights.INT4, Weights.FP32):
        folder = tmp_path / weights
        model, _ = save(KEPT_INT4["gptq, 32"], folder, "gemma2", **options)
        assert error(model, added(folder, weights)) < 0.2


def test_the_manifest_tells_of_the_checkpoint_and_stays_current(tmp_path: Path) -> None:
    save(KEPT_INT4["gptq, 64"], tmp_path)
    said = added(tmp_path, Weights.INT4).manifest.recipe
    assert said["checkpoint"] == "gptq, 4 bits, symmetric, in groups of 64"
    assert (said["rounding"], said["group"]) == ("gptq", 64)
    assert is_recipe(said, recipe(Weights.INT4), is_asked=True)
    assert not is_recipe(said, recipe(Weights.INT8), is_asked=True)
    assert not is_recipe(said | {"version": 0}, recipe(Weights.INT4), is_asked=True)
    assert not is_recipe(
        recipe(Weights.INT4) | {"rounding": "nearest"}, recipe(Weights.INT4), is_asked=True
    )


def test_an_artifact_of_a_quantized_checkpoint_is_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save(KEPT_INT4["awq, 32"], make_byte_level(folder), vocab_size=400)
    registry, heard = Registry(tmp_path / "registry"), []

    def add() -> RegistryEntry:
        return add_model(
            registry, str(folder), name="x", weights=Weights.INT4,
            progress=lambda *counts: heard.append(counts),
        )  # fmt: skip

    first = add()
    assert first.checkpoint == ("awq, 4 bits, asymmetric, in groups of 32; its integers are kept")
    assert heard[-1] == (len(heard), len(heard))
    heard.clear()
    assert add() == first
    assert not heard


@pytest.mark.parametrize("zero_points", [False, True])
@pytest.mark.parametrize("pattern", ["layers.0.*", "*"])
@pytest.mark.parametrize("usual", [Weights.BF16, Weights.INT4])
def test_no_more_tensors_are_made_than_were_told(
    usual: Weights, pattern: str, zero_points: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    save(KEPT_INT4["gptq, asymmetric"], make_byte_level(folder), vocab_size=400)
    layers = LayerWeights(usual, ((pattern, Weights.INT4),), int4_zero_points=zero_points)
    heard: list[tuple[int, int]] = []
    add_model(
        Registry(tmp_path / "registry"), str(folder), name="x", weights=usual, layers=layers,
        progress=lambda *counts: heard.append(counts),
    )  # fmt: skip
    assert all(done <= total for done, total in heard)


def test_other_groups_of_weights_that_are_rounded_again_are_made(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save(OTHERS["gptq, 8 bits"], make_byte_level(folder), vocab_size=400)
    registry = Registry(tmp_path / "registry")

    def group(layers: LayerWeights | None) -> str | int:
        weights = Weights.INT4
        entry = add_model(registry, str(folder), name="x", weights=weights, layers=layers)
        return open_artifact(entry.folder, verify=False).manifest.recipe["group"]

    assert group(None) == 128
    assert group(LayerWeights(Weights.INT4, int4_group=32)) == 32
    assert group(None) == 32


def test_int4_of_act_order_is_refused(tmp_path: Path) -> None:
    save(OTHERS["gptq, act-order"], tmp_path)
    with pytest.raises(UnsupportedModel, match=r"act-order.*use --weights int8 or bf16"):
        added(tmp_path, Weights.INT4)


@pytest.mark.parametrize("change", [{"group_size": 64}, {"bits": 8}])
def test_tensors_of_another_shape_than_said_are_refused(
    change: dict[str, object], tmp_path: Path
) -> None:
    pack, said, scheme = gptq_case()
    model = make_model("llama", **SHAPE)
    save_quantized(model, tmp_path, said | change, lambda weight: pack(weight, scheme))
    with pytest.raises(UnsupportedModel, match="do not fit together"):
        added(tmp_path, Weights.BF16)
