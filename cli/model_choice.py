"""From what the user writes after `--model` to an artifact of the registry.

A folder is registered under its own name, quantized the first time and found again afterwards.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cli.context import all_entries, open_registry, open_remote_registry
from cli.progress import ModelProgress
from models.errors import InputError, NotFoundError
from models.model_key import ModelKey, Weights

if TYPE_CHECKING:
    from models.settings import Settings
    from worker.llm.ipex.recipe import IpexRecipe
    from worker.llm.layer_weights import LayerWeights
    from worker.llm.registry import Registry, RegistryEntry
    from worker.llm.remote_registry import RemoteRegistry

DEFAULT_WEIGHTS = Weights.INT8


def ensure_model(settings: Settings, name_or_path: str, weights: Weights | None) -> ModelKey:
    """The key of an artifact that is in the registry when this returns.

    One that is not on this machine is pulled from the registry that nodes share, if there is one.
    Raises NotFoundError with advice, or the ModelError of a folder that cannot be used.
    """
    registry = open_registry(settings)
    if is_folder(registry, name_or_path):
        return add_folder(registry, name_or_path, weights or DEFAULT_WEIGHTS)
    name, weights = split_name(name_or_path, weights)
    try:
        return registry.resolve(name, weights)
    except NotFoundError:
        remote = open_remote_registry(settings)
        if remote is None:
            raise
    return pull(remote, registry, remote.resolve(name, weights)).key


def pull(remote: RemoteRegistry, registry: Registry, key: ModelKey) -> RegistryEntry:
    """Bring an artifact here, showing how far it is; a no-op when the same is here."""
    from worker.llm.pull import pull_artifact

    with ModelProgress(f"pulling {key}", unit="bytes") as progress:
        return pull_artifact(remote, registry, key, progress.update)


def split_name(text: str, weights: Weights | None) -> tuple[str, Weights | None]:
    """`name:int8` is the same as `name` with --weights int8; raises InputError when they differ."""
    if ":" not in text:
        return text, weights
    key = ModelKey.parse(text)
    if weights not in (None, key.weights):
        raise InputError(f"--model {text} and --weights {weights} differ; leave one out")
    return key.name, key.weights


def is_folder(registry: Registry, name_or_path: str) -> bool:
    """Whether a model's folder is meant: a registered name wins over a folder beside it.

    Raises NotFoundError for text that looks like a path where there is no folder.
    """
    folder = Path(name_or_path)
    if any(entry.key.name == name_or_path for entry in registry.entries()):
        return False
    if folder.is_dir():
        return True
    if "/" in name_or_path:
        raise NotFoundError(
            f"there is no model folder {name_or_path}; check the path, and add a model of the "
            "Hugging Face Hub first, with `nightshift model add`"
        )
    return False


def add_folder(
    registry: Registry, path: str, weights: Weights, ipex: IpexRecipe | None = None
) -> ModelKey:
    """Register a local model's folder under the folder's name."""
    folder = Path(path).resolve()
    return add_to_registry(registry, str(folder), name=folder.name, weights=weights, ipex=ipex).key


def requantize(
    registry: Registry,
    settings: Settings,
    key: ModelKey,
    layers: LayerWeights | None = None,
    ipex: IpexRecipe | None = None,
) -> RegistryEntry:
    """Make more weights of a registered model, from where its artifacts of any backend came.

    They go to `registry`, which may be another than that of `settings`. Raises NotFoundError, and
    the ModelError of a model that they cannot be made of.
    """
    entries = (*registry.entries(), *all_entries(settings))
    known = next((entry for entry in entries if entry.key.name == key.name), None)
    if known is None:
        raise NotFoundError(
            f"there is no model {key.name}: add it with `nightshift model add PATH_OR_HUB_ID "
            f"--name {key.name} --weights {key.weights}`"
        )
    return add_to_registry(
        registry,
        known.source,
        name=key.name,
        weights=key.weights,
        layers=layers,
        ipex=ipex,
        revision=known.commit,
    )


def add_to_registry(
    registry: Registry,
    source: str,
    *,
    name: str | None,
    weights: Weights,
    layers: LayerWeights | None = None,
    ipex: IpexRecipe | None = None,
    revision: str | None = None,
) -> RegistryEntry:
    """Quantize a model into the registry, showing how far it is; a no-op when it is there."""
    from worker.llm.add import add_model

    with ModelProgress(f"quantizing to {weights}") as progress:
        return add_model(
            registry,
            source,
            name=name,
            weights=weights,
            layers=layers,
            ipex=ipex,
            revision=revision,
            token=os.environ.get("HF_TOKEN"),
            progress=progress.update,
        )
