"""Other weights for single layers: which layer gets which, and that a model of them computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.backend_name import BackendName
from models.errors import InputError
from models.model_key import Weights
from tests.llm.tiny_models import make_reference, save_reference
from tests.llm.tiny_tokenizers import make_byte_level
from worker.llm.add import add_model
from worker.llm.artifact import open_artifact
from worker.llm.checkpoint import Checkpoint
from worker.llm.config import read_model_config
from worker.llm.convert import convert, tensor_count
from worker.llm.decoder import Decoder
from worker.llm.kv_cache import KVCache
from worker.llm.layer_weights import EMBEDDING, LayerWeights, parse_exceptions
from worker.llm.loading import StoredTensors, build_model, load_model, stored_kind
from worker.llm.packed import Segment, pack_step
from worker.llm.quantize import dequantized
from worker.llm.registry import Registry

MIXED = LayerWeights(
    Weights.INT4,
    (("layers.*", Weights.INT8), ("*.down", Weights.INT4), ("layers.1.qkv", Weights.BF16),
     ("lm_head", Weights.INT8)),
    32,
)  # fmt: skip
KINDS = {
    "layers.0.qkv": Weights.INT8,
    "layers.0.down": Weights.INT4,
    "layers.1.qkv": Weights.BF16,
    "layers.1.output": Weights.INT8,
    "layers.1.down": Weights.INT4,
    "lm_head": Weights.INT8,
}
TOKENS = list(range(3, 40))


@pytest.fixture(params=[False, True], ids=["apart", "tied"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    reference = make_reference(vocab_size=400, tie_word_embeddings=request.param)
    return make_byte_level(save_reference(reference.bfloat16(), tmp_path / "tiny"))


def logits(model: Decoder) -> torch.Tensor:
    cache = KVCache(model.config, 4, 16, model.compute_dtype)
    packed = pack_step([Segment(TOKENS, 0, range(4), sample=True)], 16)
    return model.forward(packed, cache).float()


def test_the_last_pattern_that_fits_decides() -> None:
    assert {name: MIXED.of(name) for name in KINDS} == KINDS
    assert LayerWeights(Weights.BF16).of("lm_head") is Weights.BF16
    assert MIXED.as_manifest["group"] == 32
    assert LayerWeights(Weights.INT4).as_manifest == {}


def test_a_model_of_mixed_weights_is_stored_loaded_and_near_the_full_one(
    source: Path, tmp_path: Path
) -> None:
    registry = Registry(tmp_path / "registry")
    full = add_model(registry, str(source), name="full", weights=Weights.FP32)
    plain = add_model(registry, str(source), name="plain", weights=Weights.INT4)
    mixed = add_model(registry, str(source), name="mixed", weights=Weights.INT4, layers=MIXED)
    stored = StoredTensors(open_artifact(mixed.folder, verify=True).tensor_files)
    assert {name: stored_kind(stored, name, Weights.INT4) for name in KINDS} == KINDS
    assert stored["layers.0.down.scale"].size(1) == stored["layers.0.down.weight"].size(1) * 2 // 32
    wanted, rough, ours = (
        logits(load_model(open_artifact(entry.folder, verify=False)))
        for entry in (full, plain, mixed)
    )
    error = (ours - wanted).norm() / wanted.norm()
    assert error < 0.8 * (rough - wanted).norm() / wanted.norm()


@pytest.mark.parametrize(
    "layers",
    [
        MIXED,
        LayerWeights(Weights.INT4),
        LayerWeights(Weights.BF16, (("lm_head", Weights.INT8),)),
        LayerWeights(Weights.INT4, (("lm_head", Weights.BF16),)),
        LayerWeights(Weights.BF16),
        LayerWeights(Weights.INT4, MIXED.exceptions, int4_zero_points=True),
        LayerWeights(Weights.BF16, (("embedding", Weights.INT8),)),
        LayerWeights(Weights.INT8, (("embedding", Weights.INT8),)),
        LayerWeights(Weights.INT4, (("*", Weights.INT4),), int4_zero_points=True),
    ],
)
def test_tensors_are_counted(source: Path, layers: LayerWeights) -> None:
    config = read_model_config(source)
    tensors = list(convert(config, layers, Checkpoint(source)))
    assert len(tensors) == tensor_count(config, layers)


@pytest.mark.parametrize("head", [Weights.BF16, Weights.INT8, Weights.INT4])
@pytest.mark.parametrize("usual", [Weights.BF16, Weights.INT8, Weights.INT4])
def test_the_output_layer_is_chosen_apart(
    usual: Weights, head: Weights, source: Path, tmp_path: Path
) -> None:
    layers = LayerWeights(usual, (("lm_head", head),))
    registry = Registry(tmp_path / "registry")
    entry = add_model(registry, str(source), name="x", weights=usual, layers=layers)
    model = load_model(open_artifact(entry.folder, verify=False))
    assert logits(model).isfinite().all()


@pytest.mark.parametrize("zero_points", [False, True])
@pytest.mark.parametrize("kind", [Weights.BF16, Weights.INT8, Weights.INT4])
@pytest.mark.parametrize("usual", [Weights.BF16, Weights.INT8, Weights.INT4])
def test_the_embedding_is_chosen_apart(
    usual: Weights, kind: Weights, zero_points: bool, source: Path
) -> None:
    config = read_model_config(source)
    zeros = zero_points and Weights.INT4 in (usual, kind)
    layers = LayerWeights(usual, ((EMBEDDING, kind),), int4_zero_points=zeros)
    stored = dict(convert(config, layers, Checkpoint(source)))
    rows = {name: part for name, part in stored.items() if name.startswith(EMBEDDING)}
    meant = dequantized(stored, f"{EMBEDDING}.")
    # The same, but for what the head of a tied model computes with.
    written_out = {name: part for name, part in stored.items() if name not in rows}
    written_out[f"{EMBEDDING}.weight"] = meant[:, : config.hidden_size].bfloat16()
    if config.tie_word_embeddings and "lm_head.weight" not in stored:
        written_out |= {name.replace(EMBEDDING, "lm_head"): part for name, part in rows.items()}
    ours, expected = (logits(build_model(config, usual, each)) for each in (stored, written_out))
    assert torch.equal(ours, expected)
    exact = Checkpoint(source).tensor("model.embed_tokens.weight").float()
    bound = {Weights.BF16: 0.0, Weights.INT8: 0.01, Weights.INT4: 0.15}[kind]
    assert (meant[:, : config.hidden_size] - exact).norm() <= bound * exact.norm()


@pytest.mark.parametrize("kind", [Weights.BF16, Weights.INT8, Weights.INT4])
def test_a_tied_output_layer_of_the_same_weights_is_the_embedding(
    kind: Weights, source: Path, tmp_path: Path
) -> None:
    layers = LayerWeights(Weights.INT4, ((EMBEDDING, kind), ("lm_head", kind)))
    entry = add_model(Registry(tmp_path), str(source), weights=Weights.INT4, layers=layers)
    artifact = open_artifact(entry.folder, verify=True)
    is_tied = read_model_config(source).tie_word_embeddings
    assert ("lm_head.weight" in StoredTensors(artifact.tensor_files)) is not is_tied
    assert logits(load_model(artifact)).isfinite().all()


def test_an_artifact_is_made_again_only_for_other_exceptions(source: Path, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")

    def digest(layers: LayerWeights | None) -> str:
        entry = add_model(registry, str(source), weights=Weights.INT4, name="x", layers=layers)
        return entry.digest

    mixed = digest(MIXED)
    assert digest(None) == digest(MIXED) == mixed
    plain = digest(LayerWeights(Weights.INT4))
    assert plain != mixed
    assert digest(None) == plain


def test_zero_points_are_a_recipe_of_their_own(source: Path, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    shifted = LayerWeights(Weights.INT4, int4_zero_points=True)
    entries = [
        add_model(registry, str(source), weights=Weights.INT4, name="x", layers=layers)
        for layers in (LayerWeights(Weights.INT4), shifted, None, shifted)
    ]
    assert [entry.recipe.get("zeros") for entry in entries] == [None, *["per group"] * 3]
    artifact = open_artifact(entries[-1].folder, verify=False)
    assert "layers.0.qkv.zero" in StoredTensors(artifact.tensor_files)
    assert logits(load_model(artifact)).isfinite().all()


def test_exceptions_are_read_from_text() -> None:
    assert parse_exceptions(["lm_head=int8", "layers.0.*=bf16"]) == (
        ("lm_head", Weights.INT8), ("layers.0.*", Weights.BF16)
    )  # fmt: skip
    for text in ("lm_head", "=int8", "lm_head=int3", "a,b=int8"):
        with pytest.raises(InputError, match="--except"):
            parse_exceptions([text])


def test_what_does_not_go_together_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fp32"):
        LayerWeights(Weights.FP32, (("lm_head", Weights.INT8),))
    with pytest.raises(InputError, match="fp32"):
        LayerWeights(Weights.INT8, (("lm_head", Weights.FP32),))
    with pytest.raises(InputError, match="128, 64, 32"):
        LayerWeights(Weights.INT4, int4_group=16)
    for options in ({"int4_group": 32}, {"int4_zero_points": True}):
        with pytest.raises(InputError, match="no layer gets int4"):
            LayerWeights(Weights.INT8, **options)
    for pattern in ("model.layers.0.*", "layers.2.qkv", "lm_heads"):
        layers = LayerWeights(Weights.INT4, (("layers.*", Weights.INT8), (pattern, Weights.BF16)))
        with pytest.raises(InputError, match=r"fits no layer .* layers\.0\.down"):
            add_model(
                Registry(tmp_path / "native"), str(source), weights=layers.usual, layers=layers
            )
    other = Registry(tmp_path / "registry", BackendName.TRANSFORMERS)
    with pytest.raises(InputError, match="--backend native"):
        add_model(other, str(source), name="x", weights=Weights.INT4, layers=MIXED)
