"""The weights of a Hugging Face checkpoint, read tensor by tensor from its safetensors files.

The files are memory-mapped: only the tensor in hand takes memory. Pickled weights are refused,
never opened.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.errors import NotFoundError, UnsafeModel, UnsupportedModel
from worker.llm.artifact import PICKLE_SUFFIXES

INDEX_NAME = "model.safetensors.index.json"


class Checkpoint:
    """The tensors of one model folder by name; shapes are checked by who asks for them.

    Raises UnsafeModel for a folder with pickled weights alone, NotFoundError for one without
    weights, UnsupportedModel for damaged files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shard: tuple[str, Any] | None = None  # the file that is open, and its name
        self._files = self._index()  # file name by tensor name

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def tensor(self, name: str) -> Tensor:
        """The tensor of that name as it is stored, memory-mapped where the library can."""
        if name not in self._files:
            raise UnsupportedModel(
                f"{self._folder} has no tensor {name}: give a complete causal language model"
            )
        shard = self._open(self._files[name])
        try:
            tensor: Tensor = shard.get_tensor(name)
        except SafetensorError as exc:
            raise UnsupportedModel(
                f"{name} cannot be read from {self._files[name]}: download the model again"
            ) from exc
        return tensor

    def _open(self, file_name: str) -> Any:
        """One file at a time is held open, so that the others' pages can go."""
        if self._shard is None or self._shard[0] != file_name:
            path = self._folder / file_name
            try:
                self._shard = (file_name, safe_open(path, framework="pt"))
            except (OSError, SafetensorError) as exc:
                raise UnsupportedModel(
                    f"{path} is missing or no safetensors file: download the model again"
                ) from exc
        return self._shard[1]

    def _index(self) -> dict[str, str]:
        if (self._folder / INDEX_NAME).is_file():
            return self._sharded_index(self._folder / INDEX_NAME)
        files = sorted(path.name for path in self._folder.glob("*.safetensors"))
        if not files:
            raise self._no_weights()
        if "model.safetensors" in files:
            files = ["model.safetensors"]  # others beside it are adapters or copies
        return {name: file for file in files for name in self._open(file).keys()}  # noqa: SIM118

    def _sharded_index(self, path: Path) -> dict[str, str]:
        try:
            weight_map = json.loads(path.read_bytes())["weight_map"].items()
        except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as exc:
            raise UnsupportedModel(f"{path} cannot be read: download the model again") from exc
        files: dict[str, str] = {}
        for name, file in weight_map:
            if not isinstance(file, str) or Path(file).name != file:
                raise UnsafeModel(f"{path} points outside of its folder: do not use this model")
            files[name] = file
        return files

    def _no_weights(self) -> UnsafeModel | NotFoundError:
        if any(path.suffix in PICKLE_SUFFIXES for path in self._folder.iterdir()):
            return UnsafeModel(
                f"{self._folder} holds pickled weights alone, which can run code when loaded: "
                "convert them with save_pretrained(safe_serialization=True) where you trust them, "
                "or take a safetensors version of the model"
            )
        return NotFoundError(
            f"{self._folder} holds no *.safetensors file: give the folder of a complete model"
        )
