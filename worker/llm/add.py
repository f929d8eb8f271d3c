"""Adds a model to the registry: find it, quantize it once, keep it.

The only module that joins the Hub, quantization and the registry. torch is imported when there is
something to quantize, so that finding a model that is there already costs little.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from models.errors import ArtifactError, UnsupportedModel
from models.model_key import ModelKey, Weights
from worker.llm.artifact import Source, open_artifact
from worker.llm.hub import fetch_source, identify_source
from worker.llm.ipex.recipe import IpexRecipe
from worker.llm.layer_weights import LayerWeights
from worker.llm.recipe import is_recipe, recipe
from worker.llm.registry import Registry, RegistryEntry, default_name
from worker.llm.resolved_tokenizer import has_tokenizer


def add_model(
    registry: Registry,
    source: str,
    *,
    name: str | None = None,
    weights: Weights,
    layers: LayerWeights | None = None,
    ipex: IpexRecipe | None = None,
    revision: str | None = None,
    token: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RegistryEntry:
    """Register the model in a folder or Hub repository under `name`, quantized to `weights`.

    It is made for the registry's backend. An artifact made from the same source is kept as it is;
    two processes that add the same model share one quantization. `layers` makes exceptions,
    `ipex` chooses IPEX's options; an artifact that is there may have other ones unless they are
    given. `progress` hears of tensors done
    and tensors in all. Raises what `resolve_source` and `write_artifact` raise.
    """
    key = ModelKey(name if name is not None else default_name(source), weights)
    identified = identify_source(source, revision, token)
    with registry.lock(key):
        wanted = recipe(weights, registry.backend, layers, ipex)
        is_asked = layers is not None or ipex is not None
        if not _is_current(registry.path(key), identified, wanted, is_asked=is_asked):
            from worker.llm.artifact_writer import write_artifact

            folder = fetch_source(identified, token).folder
            _check_tokenizer(folder)
            write_artifact(
                folder,
                registry.path(key),
                weights,
                source=identified,
                backend=registry.backend,
                layers=layers,
                ipex=ipex,
                progress=progress,
            )
    return registry.entry(key)


def _is_current(
    folder: Path, source: Source, wanted: Mapping[str, str | int], *, is_asked: bool
) -> bool:
    """Whether the artifact in `folder` is whole and what this version would make of `source`."""
    if not folder.is_dir():
        return False
    try:
        manifest = open_artifact(folder, verify=False).manifest
    except ArtifactError:
        return False  # damaged or of an older format: it is made again
    is_same_source = manifest.source.digest == source.digest
    return is_same_source and is_recipe(manifest.recipe, wanted, is_asked=is_asked)


def _check_tokenizer(folder: Path) -> None:
    if not has_tokenizer(folder):
        raise UnsupportedModel(
            f"{folder} has no tokenizer.json: give a complete model with its tokenizer"
        )
