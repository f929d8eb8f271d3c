"""Quantizes a checkpoint into an artifact, once; afterwards it is only loaded.

Goes tensor by tensor over the memory-mapped checkpoint and writes a file whenever enough has been
gathered: memory holds one file's worth and one matrix, never the model.
"""

from __future__ import annotations

import datetime
import json
import platform
import shutil
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import save_file

from models.backend_name import BackendName
from models.errors import InputError, StorageFull, UnsafeModel
from models.model_key import Weights
from models.storage_full import is_storage_full
from worker.llm.artifact import (
    MANIFEST_NAME,
    TENSOR_SUFFIX,
    Artifact,
    Manifest,
    Source,
    StoredFile,
    file_sha256,
    open_artifact,
)
from worker.llm.artifact_contents import Contents
from worker.llm.artifact_folder import new_folder
from worker.llm.calibration import Calibration
from worker.llm.checkpoint import Checkpoint
from worker.llm.config import ModelConfig, kept_config, parse_model_config, read_config_json
from worker.llm.convert import convert, layer_names, tensor_count
from worker.llm.ipex.environment import require_ipex
from worker.llm.ipex.recipe import IpexRecipe
from worker.llm.layer_weights import LayerWeights
from worker.llm.quantized_checkpoint import QuantizedCheckpoint
from worker.llm.quantized_config import (
    QuantizedFormat,
    read_quantized_format,
    without_quantization,
)
from worker.llm.recipe import recipe
from worker.llm.resolved_tokenizer import has_tokenizer, write_resolved
from worker.llm.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from worker.llm.embedding import Embedding

Progress = Callable[[int, int], None]  # tensors done, tensors in all

FILE_BYTES = 512 * 1024**2
MAX_SIDE_FILE_BYTES = 256 * 1024**2
# Names that run code in other tools; nothing here would, and no artifact passes them on.
UNSAFE_KEYS = frozenset({"auto_map", "custom_generate", "custom_pipelines", "trust_remote_code"})
SIDE_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
LICENCE_FILES = ("LICENSE*", "NOTICE*", "USE_POLICY*")


def write_artifact(
    source_folder: Path,
    destination: Path,
    weights: Weights,
    *,
    source: Source,
    backend: BackendName = BackendName.NATIVE,
    layers: LayerWeights | None = None,
    ipex: IpexRecipe | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """Convert the Hugging Face model in `source_folder` into an artifact at `destination`.

    `layers` is for the native backend and `ipex` for that one; both have `weights` as the usual
    kind. Appears there whole or not at all. Raises UnsafeModel, UnsupportedModel, NotFoundError,
    StorageFull when the disk cannot hold it, and SettingsError without the backend's libraries.
    """
    if backend is BackendName.IPEX:
        require_ipex()
        from worker.llm.ipex.artifact import write_ipex_artifact

        chosen = ipex or IpexRecipe(weights=weights)
        return write_ipex_artifact(
            source_folder, destination, chosen, source=source, progress=progress
        )
    checkpoint = Checkpoint(source_folder)
    if backend is BackendName.NATIVE:
        contents = _native_contents(source_folder, checkpoint, layers or LayerWeights(weights))
    else:
        from worker.llm.transformers.contents import transformers_contents

        contents = transformers_contents(source_folder, weights)
    made = recipe(weights, backend, layers) | contents.origin
    making = Making(weights=weights, recipe=made, source=source, backend=backend)
    return write_contents(source_folder, destination, contents, making, progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """How an artifact was made, for its manifest."""

    weights: Weights
    recipe: dict[str, str | int]
    source: Source
    backend: BackendName = BackendName.NATIVE
    tools: tuple[str, ...] = ("torch", "safetensors", "transformers")  # distributions


def write_contents(
    source_folder: Path,
    destination: Path,
    contents: Contents,
    making: Making,
    progress: Progress | None = None,
) -> Artifact:
    """Keep what was made of the model in `source_folder`, and all else that it has.

    Appears whole or not at all; raises as `write_artifact`.
    """
    with _storage_full_as_advice(destination), new_folder(destination) as folder:
        _copy_side_files(source_folder, folder)
        if has_tokenizer(source_folder):
            write_resolved(source_folder, folder)
        _write_json(folder / "config.json", contents.config)
        _write_tensors(_counted(contents.tensors, contents.n_tensors, progress), folder)
        manifest = _manifest(folder, contents, making)
        (folder / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=1) + "\n")
    return open_artifact(destination, verify=False)


def _write_tensors(tensors: Iterable[tuple[str, Tensor]], folder: Path) -> None:
    gathered: dict[str, Tensor] = {}
    gathered_bytes = number = 0
    for name, tensor in tensors:
        if gathered and gathered_bytes + tensor.nbytes > FILE_BYTES:
            number += 1
            save_file(gathered, folder / f"tensors-{number:05}{TENSOR_SUFFIX}")
            gathered, gathered_bytes = {}, 0
        gathered[name] = tensor.contiguous()
        gathered_bytes += tensor.nbytes
    save_file(gathered, folder / f"tensors-{number + 1:05}{TENSOR_SUFFIX}")
    for path in folder.glob(f"*{TENSOR_SUFFIX}"):
        shutil.copymode(folder / "config.json", path)  # safetensors lets the owner alone read


def _counted(
    tensors: Iterable[tuple[str, Tensor]], total: int, progress: Progress | None
) -> Iterator[tuple[str, Tensor]]:
    for done, item in enumerate(tensors, start=1):
        yield item
        if progress is not None:
            progress(done, total)


def _copy_side_files(source: Path, folder: Path) -> None:
    """Tokenizer, chat template, generation defaults and licence, as far as the model has them."""
    licences = [path.name for pattern in LICENCE_FILES for path in source.glob(pattern)]
    for name in (*SIDE_FILES, *sorted(licences)):
        path = source / name
        if not path.is_file():
            continue
        if path.stat().st_size > MAX_SIDE_FILE_BYTES:
            raise UnsafeModel(f"{path} is too large for what it should be: do not use this model")
        if name in ("tokenizer_config.json", "generation_config.json"):
            _write_json(folder / name, _without_code(path))
        else:
            shutil.copyfile(path, folder / name)


def _without_code(path: Path) -> dict[str, object]:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as exc:
        raise UnsafeModel(f"{path} is not JSON: download the model again") from exc
    if not isinstance(value, dict):
        raise UnsafeModel(f"{path} is no JSON object: download the model again")
    return {key: item for key, item in value.items() if key not in UNSAFE_KEYS}


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _native_contents(folder: Path, checkpoint: Checkpoint, layers: LayerWeights) -> Contents:
    raw_config = read_config_json(folder)
    stored = read_quantized_format(raw_config)
    config = parse_model_config(without_quantization(raw_config))
    layers.check_names(layer_names(config))
    tensors = QuantizedCheckpoint(checkpoint, stored) if stored else checkpoint
    keeps_zeros = stored is not None and any(map(stored.keeps_zeros, layers.kinds))
    return Contents(
        architecture=config.architecture,
        config=kept_config(raw_config),
        tensors=convert(config, layers, tensors, _calibrating(folder, config, layers, stored)),
        n_tensors=tensor_count(config, layers, keeps_zeros=keeps_zeros),
        origin=stored.origin(layers.usual) if stored else {},
    )


def _calibrating(
    folder: Path, config: ModelConfig, layers: LayerWeights, stored: QuantizedFormat | None
) -> Callable[[Embedding], Calibration] | None:
    """What to calibrate with, given the embedding; raises InputError where it cannot be."""
    if layers.calibration is None:
        return None
    if stored is not None:
        raise InputError("the checkpoint was quantized already: leave out --calibrate")
    return partial(Calibration, config, layers.calibration.sample(Tokenizer.load(folder)))


def _manifest(folder: Path, contents: Contents, making: Making) -> Manifest:
    return Manifest(
        weights=making.weights,
        backend=making.backend,
        architecture=contents.architecture,
        source=making.source,
        recipe=making.recipe,
        tools={
            "python": platform.python_version(),
            **{name: version(name) for name in making.tools},
        },
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        files={
            path.name: StoredFile(bytes=path.stat().st_size, sha256=file_sha256(path))
            for path in sorted(folder.iterdir())
        },
    )


@contextmanager
def _storage_full_as_advice(destination: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as exc:
        if is_storage_full(exc) or "os error 28" in str(exc):  # safetensors writes from Rust
            raise StorageFull(
                f"no space left for {destination}: free some and run the same command again"
            ) from exc
        raise
