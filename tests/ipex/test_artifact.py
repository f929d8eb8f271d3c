"""Artifacts of IPEX: safetensors and JSON, checked when loaded, with all that a model has."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from models.backend_name import BackendName
from models.errors import ArtifactError
from models.lowp import Lowp
from models.model_key import Weights
from tests.ipex.conftest import DEMO, SOURCE, Store
from tests.ipex.generating import answers_of
from worker.llm.add import add_model
from worker.llm.artifact import Artifact, open_artifact
from worker.llm.artifact_writer import write_artifact
from worker.llm.ipex.artifact import load_ipex_model, write_ipex_artifact
from worker.llm.ipex.recipe import IpexRecipe, parse_options, read_recipe
from worker.llm.registry import Registry
from worker.llm.tokenizer import Tokenizer


def test_it_is_an_artifact_like_any_other(store: Store, tokenizer: Tokenizer) -> None:
    recipe = IpexRecipe(weights=Weights.INT4, group_size=64)
    artifact = store(recipe)
    assert open_artifact(artifact.folder, verify=True) == artifact
    assert artifact.weights is Weights.INT4
    assert read_recipe(artifact.manifest.recipe) == recipe
    assert artifact.manifest.tools["intel-extension-for-pytorch"].startswith("2.8.0")
    kept = Tokenizer.load(artifact.folder)
    assert kept.encode_text("12 + 3") == tokenizer.encode_text("12 + 3")
    assert kept.eos_ids == tokenizer.eos_ids


def test_it_holds_no_pickle(store: Store) -> None:
    suffixes = {path.suffix for path in store(IpexRecipe()).folder.iterdir()}
    assert suffixes <= {".safetensors", ".json", ".jinja"}


def test_the_same_model_gives_the_same_artifact(tmp_path: Path) -> None:
    first, second = (
        write_ipex_artifact(DEMO, tmp_path / name, IpexRecipe(), source=SOURCE) for name in "ab"
    )
    assert first.digest == second.digest


def test_progress_is_told_up_to_the_end(tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    recipe = IpexRecipe(weights=Weights.INT4, group_size=64)
    write_ipex_artifact(
        DEMO,
        tmp_path / "artifact",
        recipe,
        source=SOURCE,
        progress=lambda done, total: heard.append((done, total)),
    )
    assert [done for done, _ in heard] == list(range(1, heard[-1][1] + 1))


def test_an_artifact_of_the_native_backend_is_refused(tmp_path: Path) -> None:
    native = write_artifact(DEMO, tmp_path / "native", Weights.INT8, source=SOURCE)
    with pytest.raises(ArtifactError, match="was not made for the ipex backend"):
        load_ipex_model(native)


def test_another_precision_needs_no_other_artifact(
    store: Store, tmp_path: Path, prompts: list[list[int]]
) -> None:
    stored_for_bf16 = store(IpexRecipe())
    exact = IpexRecipe(lowp=Lowp.NONE)
    stored_for_none = write_ipex_artifact(DEMO, tmp_path / "none", exact, source=SOURCE)
    loaded = load_ipex_model(stored_for_bf16, lowp=Lowp.NONE)
    assert loaded.recipe == exact
    expected = answers_of(load_ipex_model(stored_for_none).model, prompts)
    assert answers_of(loaded.model, prompts) == expected


def test_an_artifact_is_made_again_only_for_other_options(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry", BackendName.IPEX)

    def made(options: list[str] | None) -> tuple[str, IpexRecipe]:
        ipex = None if options is None else parse_options(Weights.INT8, options)
        entry = add_model(registry, str(DEMO), name="x", weights=Weights.INT8, ipex=ipex)
        manifest = open_artifact(entry.folder, verify=False).manifest
        return manifest.created + entry.digest, read_recipe(manifest.recipe)

    grouped = made(["group_size=64", "lowp=int8"])
    assert grouped[1] == IpexRecipe(group_size=64, lowp=Lowp.INT8)
    assert made(None) == made(["lowp=int8", "group_size=64"]) == grouped
    assert made(["lowp=int8"])[1] == IpexRecipe(lowp=Lowp.INT8)


@pytest.mark.parametrize("name", ["lm_head.scales", "model.norm.weight"])
def test_a_tensor_that_is_missing_or_another_is_noticed(name: str, store: Store) -> None:
    artifact = store(IpexRecipe())
    file = artifact.tensor_files[0]
    tensors = load_file(file)
    save_file({**tensors, name: tensors[name][:-1].clone()}, file)
    with pytest.raises(ArtifactError, match=f"tensor {name} is"):
        load_ipex_model(artifact)
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, file)
    with pytest.raises(ArtifactError, match=f"no tensor {name}"):
        load_ipex_model(Artifact(artifact.folder, artifact.manifest, artifact.digest))
