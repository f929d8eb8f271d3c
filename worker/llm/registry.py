"""Where artifacts are kept: one folder per model and format, ROOT/NAME/WEIGHTS.

Those of another backend than the native one are beside it, in ROOT/NAME/WEIGHTS.BACKEND.

The folders are the registry; there is no index to get out of step with them. Imports no torch, so
that a command can look a model up in no time. Adding one is `add.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from models.backend_name import BackendName
from models.errors import ArtifactError, InputError, NotFoundError, SettingsError
from models.model_key import ModelKey, Weights
from worker.llm.artifact import MANIFEST_NAME, Artifact, read_manifest
from worker.llm.artifact_folder import remove_folder
from worker.llm.artifact_use import make_mark, unused
from worker.llm.recipe import origin_in_words

MAX_NAME_LENGTH = 96  # as in ModelKey


@dataclass(frozen=True, slots=True)
class RegistryEntry:
    """One artifact of the registry."""

    key: ModelKey
    backend: BackendName
    folder: Path
    bytes: int
    source: str  # the Hub's org/name or a folder
    commit: str | None
    architecture: str
    digest: str
    recipe: Mapping[str, str | int]
    checkpoint: str | None = None  # how it was quantized before, and what became of that


def default_name(path_or_id: str) -> str:
    """The name of a model that was given none: its folder's or repository's, made a valid one.

    Raises InputError when nothing of it can be used.
    """
    last = Path(path_or_id).expanduser().absolute().name
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", last).lstrip("._-")[:MAX_NAME_LENGTH]
    if not name:
        raise InputError(f"{path_or_id!r} gives no name for the model: choose one with --name")
    return name


def artifact_folder_name(weights: Weights, backend: BackendName) -> str:
    """What the folder of an artifact is called, below that of its model."""
    return f"{weights}{_suffix(backend)}"


def weights_of_folder(name: str, backend: BackendName) -> Weights | None:
    """The weights in a folder of that name; None for one of another backend, or of none."""
    return next((each for each in Weights if artifact_folder_name(each, backend) == name), None)


def lock_of(place: Path) -> FileLock:
    """Held by whoever adds or removes the artifact at `place`."""
    return FileLock(place.with_name(f".{place.name}.lock"))


@contextmanager
def writing(root: Path) -> Iterator[None]:
    """Raises SettingsError where the registry at `root` cannot be written."""
    try:
        yield
    except OSError as exc:
        raise SettingsError(
            f"the registry {root} cannot be written ({exc.strerror}): "
            "choose another place with NIGHTSHIFT_HOME"
        ) from exc


def _suffix(backend: BackendName) -> str:
    return "" if backend is BackendName.NATIVE else f".{backend}"


class Registry:
    """The artifacts of one backend below one folder, which need not exist yet."""

    def __init__(self, root: Path, backend: BackendName = BackendName.NATIVE) -> None:
        self.root = root
        self.backend = backend
        self._suffix = _suffix(backend)
        self._flag = "" if backend is BackendName.NATIVE else f" --backend {backend}"

    def path(self, key: ModelKey) -> Path:
        """Where the artifact of `key` is or would be.

        Raises ArtifactError when a link leads out of the registry; the registry may be one itself.
        """
        folder = artifact_folder_name(key.weights, self.backend)
        place = self.root / key.name / folder
        root = os.path.realpath(self.root)
        if os.path.realpath(place) != os.path.join(root, key.name, folder):
            raise ArtifactError(
                f"{place} is a link to elsewhere: remove it and add the model again, or move the "
                "whole registry with NIGHTSHIFT_HOME"
            )
        return place

    def find(self, key: ModelKey) -> Path:
        """The folder of an artifact that is there; raises NotFoundError, and as `path` does."""
        if not (self.path(key) / MANIFEST_NAME).is_file():
            raise NotFoundError(
                f"there is no model {key} in {self.root}: add it with "
                f"`nightshift model add PATH_OR_HUB_ID --name {key.name} --weights {key.weights}"
                f"{self._flag}`"
            )
        return self.path(key)

    def entries(self) -> list[RegistryEntry]:
        """Every artifact, by name; folders that hold none, or a damaged manifest, are left out."""
        found = []
        for manifest in sorted(self.root.glob(f"*/*{self._suffix}/{MANIFEST_NAME}")):
            weights = manifest.parent.name.removesuffix(self._suffix)
            try:
                key = ModelKey.parse(f"{manifest.parent.parent.name}:{weights}")
                found.append(self.entry(key))
            except (InputError, ArtifactError, NotFoundError):  # or it is removed just now
                continue
        return found

    def entry(self, key: ModelKey) -> RegistryEntry:
        """The artifact of `key`; raises NotFoundError, ArtifactError when it cannot be read."""
        folder = self.find(key)
        manifest = read_manifest(folder)
        artifact = Artifact(folder, manifest, manifest.digest)
        return RegistryEntry(
            key=key,
            backend=self.backend,
            folder=folder,
            bytes=artifact.bytes,
            source=manifest.source.repository,
            commit=manifest.source.commit,
            architecture=manifest.architecture,
            digest=artifact.digest,
            recipe=manifest.recipe,
            checkpoint=origin_in_words(manifest.recipe),
        )

    def resolve(self, name: str, weights: Weights | None) -> ModelKey:
        """The key of a registered model.

        Without `weights` there must be one format of it: InputError names them when there are more,
        NotFoundError says how to add it when there is none.
        """
        if weights is not None:
            key = ModelKey(name, weights)
            self.find(key)
            return key
        keys = [entry.key for entry in self.entries() if entry.key.name == name]
        if len(keys) == 1:
            return keys[0]
        if not keys:
            raise NotFoundError(
                f"there is no model {name!r} in {self.root}: add it with "
                f"`nightshift model add PATH_OR_HUB_ID --name {name} --weights int8{self._flag}`"
            )
        kinds = ", ".join(sorted(key.weights for key in keys))
        raise InputError(f"model {name!r} is there as {kinds}: choose one with --weights")

    def remove(self, key: ModelKey) -> None:
        """Delete an artifact; raises NotFoundError, StateError while a process uses it."""
        with self.lock(key), unused(self.find(key)) as folder:
            remove_folder(folder)

    @contextmanager
    def lock(self, key: ModelKey) -> Iterator[None]:
        """Keep other processes from adding or removing `key`; waits for one that is at it.

        Raises SettingsError when the registry cannot be written.
        """
        place = self.path(key)
        lock = lock_of(place)
        with writing(self.root):
            place.parent.mkdir(parents=True, exist_ok=True)
            make_mark(place)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()
