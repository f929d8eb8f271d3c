"""What a worker takes is what its engine will take."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from models.errors import UnsupportedModel
from models.model_key import Weights
from tests.cli.demo import MODEL
from worker.llm.add import add_model
from worker.llm.artifact import open_artifact
from worker.llm.config import read_model_config
from worker.llm.convert import compute_dtype
from worker.llm.kv_cache import block_bytes
from worker.llm.layer_weights import LayerWeights, parse_exceptions
from worker.llm.loading import load_model
from worker.llm.registry import Registry
from worker.planning.cache_shape import CacheShape, read_cache_shape
from worker.planning.demand import PROCESSES_BYTES, demand_of


@pytest.mark.parametrize("weights", list(Weights))
def test_a_token_takes_what_it_takes_in_the_cache(weights: Weights) -> None:
    config = read_model_config(MODEL)
    token_bytes = read_cache_shape(MODEL).bytes_per_token(weights)
    assert 16 * token_bytes == block_bytes(config, 16, compute_dtype(weights))


def test_a_family_that_is_not_built_is_read_by_the_usual_names(tmp_path: Path) -> None:
    config = {"model_type": "other", "num_attention_heads": 8, "hidden_size": 64}
    config |= {"num_hidden_layers": 3, "max_position_embeddings": 128}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    assert read_cache_shape(tmp_path) == CacheShape(3, 8, 8, 128)
    path.write_text(json.dumps({**config, "num_key_value_heads": 2, "head_dim": 16}))
    assert read_cache_shape(tmp_path) == CacheShape(3, 2, 16, 128)
    path.write_text(json.dumps({"model_type": "other", "n_head": 8}))
    with pytest.raises(UnsupportedModel, match="gives no num_attention_heads"):
        read_cache_shape(tmp_path)


def test_a_registered_model_is_read_without_its_tensors(tmp_path: Path) -> None:
    entry = add_model(Registry(tmp_path), str(MODEL), name="demo-model", weights=Weights.INT8)
    demand = demand_of(
        entry, max_sequences=8, context_tokens=None, threads=None, kv_cache_bytes=None
    )
    tensors = entry.folder.glob("*.safetensors")
    assert demand.weight_bytes == sum(path.stat().st_size for path in tensors)
    assert demand.context_tokens == read_model_config(MODEL).max_position_embeddings
    assert demand.is_tiny
    assert demand.least_kv_bytes <= demand.good_kv_bytes <= demand.most_kv_bytes


@pytest.mark.parametrize("exceptions", [(), ("embedding=int8",), ("*=int4",)])
def test_weights_take_what_the_engine_holds(exceptions: tuple[str, ...], tmp_path: Path) -> None:
    layers = LayerWeights(Weights.INT8, parse_exceptions(exceptions))
    entry = add_model(Registry(tmp_path), str(MODEL), name="x", weights=Weights.INT8, layers=layers)
    demand = demand_of(
        entry, max_sequences=8, context_tokens=None, threads=None, kv_cache_bytes=None
    )
    held = load_model(open_artifact(entry.folder, verify=False)).weight_bytes
    assert demand.fixed_bytes - PROCESSES_BYTES == pytest.approx(held, rel=0.03)


def test_memory_that_the_user_gives_is_what_it_takes(tmp_path: Path) -> None:
    entry = add_model(Registry(tmp_path), str(MODEL), name="demo-model", weights=Weights.INT8)
    demand = demand_of(entry, max_sequences=8, context_tokens=100, threads=3, kv_cache_bytes=12345)
    assert demand.context_tokens == 100
    kv_bytes = (demand.least_kv_bytes, demand.good_kv_bytes, demand.most_kv_bytes)
    assert kv_bytes == (12345, 12345, 12345)
