"""Artifacts in a place that several nodes reach: a folder, a bucket, a repository of the Hub.

    URL/files/SHA256                            contents, each stored once whatever its name
    URL/artifacts/NAME/WEIGHTS[.BACKEND]/nightshift.json

A manifest is written after all files that it names, so what is visible is whole. Nothing that is
read from there is trusted: sizes and names are checked before, contents by their SHA-256 after.
Must not know torch.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from pydantic import ValidationError

from models.backend_name import BackendName
from models.errors import (
    ArtifactError,
    NightshiftError,
    NotFoundError,
    StorageFull,
    UnavailableError,
)
from models.model_key import ModelKey, Weights, choose_served
from models.storage_full import is_storage_full
from worker.llm.artifact import MANIFEST_NAME, Artifact, Manifest, checked_manifest
from worker.llm.registry import artifact_folder_name, weights_of_folder
from worker.llm.shared_contents import (
    ARTIFACTS,
    CONTENTS,
    MAX_MANIFEST_BYTES,
    Unnamed,
    may_be_relied_on,
    named_contents,
    remove_unnamed,
)
from worker.llm.shared_place import Writing, open_place, without_secrets

_PIECE_BYTES = 1 << 22
_PART_BYTES = 1 << 25  # of one request, as it takes the Hub a while to begin to answer

Progress = Callable[[int, int], None]  # bytes done, bytes in all


@dataclass(frozen=True, slots=True)
class Sent:
    """What a push did."""

    files: int
    files_sent: int
    bytes_sent: int


class RemoteRegistry:
    """The artifacts of one backend below a URL; safe to use from many nodes at once."""

    def __init__(self, url: str, backend: BackendName) -> None:
        """Raises SettingsError for a URL that fsspec cannot open, or lacks a package for."""
        self.url = without_secrets(url)
        self.backend = backend
        self._place = open_place(url)
        self._files = self._place.files

    def push(self, artifact: Artifact, key: ModelKey, progress: Progress) -> Sent:
        """Make an artifact of this machine the remote one of `key`; what is there is not sent.

        Raises UnavailableError, StorageFull.
        """
        with self._advice():
            return self._place.apply(
                lambda to: self._push(artifact, key, to, progress), f"Push {key}"
            )

    def _push(self, artifact: Artifact, key: ModelKey, to: Writing, progress: Progress) -> Sent:
        files = {file.sha256: (name, file) for name, file in artifact.manifest.files.items()}
        total = sum(file.bytes for _, file in files.values())
        named: set[str] = set()
        if not self._place.is_atomic:
            with suppress(ArtifactError):  # then more is sent than needed
                named = named_contents(self._place)
        done = n_sent = bytes_sent = 0
        for sha256, (name, file) in files.items():
            place = self._path(CONTENTS, sha256)
            is_there = self._size(place) == file.bytes
            if not is_there or not may_be_relied_on(self._place, place, named):
                to.put_file(artifact.folder / name, place)
                n_sent, bytes_sent = n_sent + 1, bytes_sent + file.bytes
            done += file.bytes
            progress(done, total)
        manifest = artifact.manifest.model_dump_json(indent=1).encode()
        to.put_bytes(manifest, self._manifest_path(key))
        return Sent(len(files), n_sent, bytes_sent)

    def remove_unnamed(self, older_than_days: float, *, dry_run: bool = False) -> list[Unnamed]:
        """As in shared_contents, for all backends; raises UnavailableError too."""
        with self._advice():
            removed = remove_unnamed(self._place, older_than_days, dry_run=dry_run)
            if not removed:
                self._expect_place()
            return removed

    def keys(self, name: str) -> list[ModelKey]:
        """The kinds of weights that are there of a model."""
        with self._advice():
            try:
                listed = self._files.ls(self._path(ARTIFACTS, name), detail=False)
            except self._place.absent:
                self._expect_place()
                return []
        found = [posixpath.basename(each.rstrip("/")) for each in listed]
        kinds = (weights_of_folder(folder, self.backend) for folder in sorted(found))
        return [ModelKey(name, kind) for kind in kinds if kind is not None]

    def resolve(self, name: str, weights: Weights | None) -> ModelKey:
        """The key of a model there; raises NotFoundError, InputError when the choice is open."""
        key = ModelKey(name, weights or Weights.INT8)  # which checks the name
        if weights is not None and self._manifest_size(key):
            return key
        known = self.keys(name) if weights is None else []
        if not known:
            wanted = name if weights is None else str(key)
            raise NotFoundError(
                f"there is no model {wanted} on this machine or in {self.url}: add it with "
                f"`nightshift model add PATH_OR_HUB_ID --name {name}`, and send it there with "
                f"`nightshift model push {name}`"
            )
        return choose_served(known, name, None)

    def manifest(self, key: ModelKey) -> Manifest:
        """The manifest of an artifact there; raises NotFoundError, ArtifactError."""
        place, shown = self._manifest_path(key), f"{key} in {self.url}"
        if not (size := self._manifest_size(key)):
            raise NotFoundError(f"there is no {shown}: send it with `nightshift model push`")
        with self._advice():
            content = self._files.cat_file(place, start=0, end=min(size, MAX_MANIFEST_BYTES))
        try:
            manifest = checked_manifest(Manifest.model_validate_json(content), shown)
        except ValidationError as exc:
            raise ArtifactError(f"the manifest of {shown} cannot be read: push it again") from exc
        if manifest.backend is not self.backend or manifest.weights is not key.weights:
            raise ArtifactError(f"the manifest of {shown} is of another artifact: push it again")
        return manifest

    def read(self, sha256: str, start: int) -> Iterator[bytes]:
        """The contents of a file from byte `start` on, in pieces.

        Raises UnavailableError, and ArtifactError where a manifest names what is not there.
        """
        with self._advice():
            try:
                remote = self._files.open(self._path(CONTENTS, sha256), block_size=_PART_BYTES)
            except self._place.absent:
                self._expect_place()
                raise ArtifactError(
                    f"{sha256} is not in {self.url}, though an artifact there needs it: push "
                    "that artifact again"
                ) from None
            with remote:
                remote.seek(start)  # what is before it is not asked for
                while piece := remote.read(_PIECE_BYTES):
                    yield piece

    def _manifest_size(self, key: ModelKey) -> int | None:
        with self._advice():
            size = self._size(self._manifest_path(key))
            if size is None:
                self._expect_place()
            return size

    def _expect_place(self) -> None:
        if lack := self._place.what_lacks():
            raise UnavailableError(lack)

    def _size(self, place: str) -> int | None:
        try:  # not `exists`: for some file systems nothing exists that cannot be asked for
            size: int = self._files.info(place)["size"]
        except self._place.absent:
            return None
        return size

    def _manifest_path(self, key: ModelKey) -> str:
        folder = artifact_folder_name(key.weights, self.backend)
        return self._path(ARTIFACTS, key.name, folder, MANIFEST_NAME)

    def _path(self, *parts: str) -> str:
        return posixpath.join(self._place.root, *parts)

    @contextmanager
    def _advice(self) -> Iterator[None]:
        try:
            self._files.invalidate_cache()  # what another node pushed is to be seen
            yield
        except NightshiftError:
            raise
        except Exception as exc:  # each file system has errors of its own
            if is_storage_full(exc):
                raise StorageFull(f"no space left in {self.url}: free some and try again") from None
            raise UnavailableError(
                self._place.advice(exc)
                or f"the registry {self.url} failed ({type(exc).__name__}): see that it can be "
                "reached and that the credentials of this machine allow it, then try again"
            ) from None  # the library's own words may repeat a password
