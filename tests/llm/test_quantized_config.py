"""What is read of a `quantization_config`, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from models.errors import UnsupportedModel
from models.model_key import Weights
from tests.llm.quantized_folders import Scheme, awq_config, compressed_config, gptq_config
from worker.llm.quantized_config import read_quantized_format
from worker.llm.recipe import origin_in_words, recipe

GPTQ = gptq_config(Scheme())
COMPRESSED = compressed_config(Scheme())


def changed(**weights: Any) -> dict[str, Any]:
    group = COMPRESSED["config_groups"]["group_0"]
    return COMPRESSED | {"config_groups": {"g": group | {"weights": group["weights"] | weights}}}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"quant_method": "fp8"}, "quantized by 'fp8': give the original"),
        ({"quant_method": "bitsandbytes"}, "quantized by 'bitsandbytes'"),
        ({"bits": 4}, "quantized by None"),
        (GPTQ | {"checkpoint_format": "marlin"}, "in the format 'marlin'"),
        (GPTQ | {"is_marlin_format": True}, "in the format 'marlin'"),
        (GPTQ | {"bits": 3}, "to 3 bits"),
        (GPTQ | {"dynamic": {"-:down": {}}}, "bits that differ by layer"),
        (GPTQ | {"group_size": 0}, "group_size in quantization_config is 0"),
        (awq_config(Scheme()) | {"version": "gemv"}, "AWQ weights in the format 'gemv'"),
        (awq_config(Scheme()) | {"bits": 8}, "AWQ with 8 bits"),
        (COMPRESSED | {"format": "float-quantized"}, "in the format 'float-quantized'"),
        (COMPRESSED | {"config_groups": {}}, "other than one of config_groups"),
        (COMPRESSED | {"transform_config": {"a": 1}}, "transform_config"),
        (COMPRESSED | {"sparsity_config": {"format": "sparse-24"}}, "sparsity_config"),
        (changed(actorder="group"), "actorder 'group'"),
        (changed(type="float"), "type 'float'"),
        (changed(strategy="tensor"), "strategy 'tensor'"),
        ("gptq", "no object"),
    ],
)
def test_another_format_is_refused_by_name(said: object, message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        read_quantized_format({"quantization_config": said})


@pytest.mark.parametrize("actorder", ["weight", "static"])
def test_actorder_of_weights_alone_is_read(actorder: str) -> None:
    """It changes how integers were chosen, and not how they are stored."""
    assert read_quantized_format({"quantization_config": changed(actorder=actorder)}) is not None


@pytest.mark.parametrize(
    ("bits", "weights", "became"),
    [
        (4, Weights.INT4, "its integers are kept"),
        (8, Weights.INT4, "rounded a second time"),
        (4, Weights.INT8, "rounded a second time"),
        (4, Weights.BF16, "dequantized"),
    ],
)
def test_an_entry_says_what_became_of_the_integers(
    bits: int, weights: Weights, became: str
) -> None:
    stored = read_quantized_format({"quantization_config": gptq_config(Scheme(bits=bits))})
    assert stored is not None
    words = origin_in_words(recipe(weights) | stored.origin(weights))
    assert words == f"gptq, {bits} bits, symmetric, in groups of 32; {became}"
    assert origin_in_words(recipe(weights)) is None
