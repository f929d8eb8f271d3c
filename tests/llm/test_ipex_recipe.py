"""What may be asked of IPEX, what a manifest says of it, and which CPUs it was written for."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.backend_name import BackendName
from models.errors import ArtifactError, InputError
from models.lowp import Lowp
from models.model_key import Weights
from worker.llm.ipex.cpu import missing_instructions, slow_cpu_warning
from worker.llm.ipex.recipe import (
    Activations,
    ActQuant,
    IpexRecipe,
    is_ipex,
    parse_options,
    read_recipe,
)
from worker.llm.recipe import is_recipe, recipe

SAPPHIRE_RAPIDS = "avx512f avx512_fp16 avx512_bf16 amx_bf16 amx_tile amx_int8"
GENOA = "avx512f avx512_bf16 avx512_vnni"


@pytest.mark.parametrize("weights", [Weights.BF16, Weights.FP32])
def test_only_what_ipex_quantizes_to_is_a_recipe(weights: Weights) -> None:
    with pytest.raises(InputError, match=f"int8 or int4, not to {weights}"):
        IpexRecipe(weights=weights)


def test_options_are_read_from_text() -> None:
    texts = ["lowp=int8", "group_size=64", "act_quant=per_batch", "activations=fp32"]
    assert parse_options(Weights.INT4, texts) == IpexRecipe(
        weights=Weights.INT4,
        lowp=Lowp.INT8,
        group_size=64,
        act_quant=ActQuant.PER_BATCH,
        activations=Activations.FP32,
    )
    assert parse_options(Weights.INT8, ["lowp=none"]) == IpexRecipe(lowp=Lowp.NONE)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("weights=int4", "KEY is lowp or group_size or act_quant or activations"),
        ("lowp", "lowp is none or fp16 or bf16 or int8"),
        ("lowp=fp8", "lowp is none or fp16 or bf16 or int8"),
        ("group_size=wide", "group_size is -1 or a power of 2"),
        ("group_size=96", "a group of 96 inputs"),
        ("act_quant=per_row", "per_tensor or per_ic_block or per_batch"),
        ("activations=fp16", "activations is bf16 or fp32"),
    ],
)
def test_any_other_option_is_told_what_there_is(text: str, advice: str) -> None:
    with pytest.raises(InputError, match=advice):
        parse_options(Weights.INT8, [text])


def test_options_are_for_ipex_alone_and_count_only_when_asked_for() -> None:
    asked = parse_options(Weights.INT8, ["group_size=64"])
    with pytest.raises(InputError, match="native backend has none of IPEX's options"):
        recipe(Weights.INT8, BackendName.NATIVE, ipex=asked)
    there = recipe(Weights.INT8, BackendName.IPEX, ipex=asked)
    usual = recipe(Weights.INT8, BackendName.IPEX)
    assert there != usual
    assert is_recipe(there, usual, is_asked=False)
    assert not is_recipe(there, usual, is_asked=True)
    assert is_recipe(there, there, is_asked=True)
    assert not is_recipe(there | {"version": 0}, usual, is_asked=False)


@pytest.mark.parametrize("size", [0, 1, -2, 96, -128])
def test_groups_are_powers_of_2_or_whole_rows(size: int) -> None:
    with pytest.raises(InputError, match=f"a group of {size} inputs"):
        IpexRecipe(group_size=size)
    assert IpexRecipe(group_size=128).group_size == 128


def test_weights_have_no_zero_points_where_sums_would_overflow() -> None:
    symmetric = {
        (weights, lowp)
        for weights in (Weights.INT8, Weights.INT4)
        for lowp in Lowp
        if IpexRecipe(weights=weights, lowp=lowp).symmetric
    }
    assert symmetric == {(Weights.INT8, Lowp.INT8)}


def test_the_same_weights_serve_every_precision_but_for_int8_sums() -> None:
    assert IpexRecipe().with_lowp(Lowp.FP16) == IpexRecipe(lowp=Lowp.FP16)
    int4 = IpexRecipe(weights=Weights.INT4)
    assert int4.with_lowp(Lowp.INT8).lowp is Lowp.INT8
    with pytest.raises(InputError, match="add the model again with --ipex-option lowp=int8"):
        IpexRecipe().with_lowp(Lowp.INT8)
    with pytest.raises(InputError, match="add the model again with --ipex-option lowp=none"):
        IpexRecipe(lowp=Lowp.INT8).with_lowp(Lowp.NONE)


def test_a_manifest_gives_back_the_recipe() -> None:
    chosen = IpexRecipe(
        weights=Weights.INT4,
        lowp=Lowp.INT8,
        group_size=64,
        act_quant=ActQuant.PER_BATCH,
        activations=Activations.FP32,
    )
    assert read_recipe(chosen.as_manifest()) == chosen


@pytest.mark.parametrize(
    "change", [{"tool": "other"}, {"version": 0}, {"lowp": "fp64"}, {"group_size": 3}]
)
def test_any_other_manifest_is_refused(change: dict[str, str | int]) -> None:
    with pytest.raises(ArtifactError, match="add the model again"):
        read_recipe({**IpexRecipe().as_manifest(), **change})


def test_an_artifact_of_the_native_backend_is_none_of_ipex() -> None:
    assert not is_ipex(recipe(Weights.INT8))
    assert is_ipex(IpexRecipe().as_manifest())


def test_a_cpu_with_all_of_it_is_not_warned_about(tmp_path: Path) -> None:
    assert slow_cpu_warning(cpu_info(tmp_path, SAPPHIRE_RAPIDS)) is None


def test_a_cpu_without_is_told_what_it_lacks(tmp_path: Path) -> None:
    path = cpu_info(tmp_path, GENOA)
    assert missing_instructions(path) == ("AVX512-FP16", "AMX", "AMX-BF16", "AMX-INT8")
    assert "no AVX512-FP16, AMX, AMX-BF16, AMX-INT8" in (slow_cpu_warning(path) or "")


def test_a_system_that_tells_nothing_is_taken_for_one_without(tmp_path: Path) -> None:
    assert missing_instructions(tmp_path / "nothing")
    assert slow_cpu_warning(tmp_path / "nothing")


def cpu_info(folder: Path, flags: str) -> Path:
    path = folder / "cpuinfo"
    path.write_text(f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\n")
    return path
