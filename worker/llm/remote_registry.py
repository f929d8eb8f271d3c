"""Artifacts in a place that several nodes reach: any URL of fsspec, a shared folder or a bucket.

    URL/files/SHA256                            contents, each stored once whatever its name
    URL/artifacts/NAME/WEIGHTS[.BACKEND]/nightshift.json

A manifest is written after all files that it names, so what is visible is whole. Nothing that is
read from there is trusted: sizes and names are checked before, contents by their SHA-256 after.
Must not know torch.
"""

from __future__ import annotations

import posixpath
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import fsspec
from pydantic import ValidationError

from models.backend_name import BackendName
from models.errors import (
    ArtifactError,
    NightshiftError,
    NotFoundError,
    SettingsError,
    StorageFull,
    UnavailableError,
)
from models.model_key import ModelKey, Weights, choose_served
from models.storage_full import is_storage_full
from worker.llm.artifact import MANIFEST_NAME, Artifact, Manifest, checked_manifest
from worker.llm.registry import artifact_folder_name, weights_of_folder

MAX_MANIFEST_BYTES = 16 * 1024**2
_PIECE_BYTES = 1 << 22
# Where a file is seen before it is whole and renaming is one step; in buckets it is the other way.
_WITH_RENAME = frozenset({"file", "local", "sftp", "ssh", "smb", "hdfs"})

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
        if urlsplit(url).scheme == "hf":
            raise SettingsError(
                f"{self.url} is a repository of the Hub, which artifacts are not shared through: "
                "give a folder all nodes have, or a bucket such as s3://BUCKET/PREFIX"
            )
        try:
            # What another node pushed is to be seen, so nothing is kept of what was listed before.
            self._files, self._root = fsspec.url_to_fs(
                url, skip_instance_cache=True, use_listings_cache=False
            )
        except (ImportError, ValueError) as exc:
            raise SettingsError(
                f"the registry {self.url} cannot be opened ({type(exc).__name__}): check "
                "NIGHTSHIFT_REGISTRY_URL, and that fsspec's package for it is there (s3fs for s3)"
            ) from None

    def push(self, artifact: Artifact, key: ModelKey, progress: Progress) -> Sent:
        """Make an artifact of this machine the remote one of `key`; what is there is not sent.

        Raises UnavailableError, StorageFull.
        """
        files = artifact.manifest.files
        done = n_sent = bytes_sent = 0
        with self._advice():
            for name, file in files.items():
                place = self._place("files", file.sha256)
                if self._size(place) != file.bytes:
                    with self._appearing(place) as new:
                        self._files.put_file(str(artifact.folder / name), new)
                    n_sent, bytes_sent = n_sent + 1, bytes_sent + file.bytes
                done += file.bytes
                progress(done, artifact.bytes)
            with self._appearing(self._manifest_place(key)) as new:
                self._files.pipe_file(new, artifact.manifest.model_dump_json(indent=1).encode())
        return Sent(len(files), n_sent, bytes_sent)

    def keys(self, name: str) -> list[ModelKey]:
        """The kinds of weights that are there of a model."""
        with self._advice():
            place = self._place("artifacts", name)
            if not self._files.exists(place):
                return []
            found = [posixpath.basename(each.rstrip("/")) for each in self._files.ls(place, False)]
        kinds = (weights_of_folder(folder, self.backend) for folder in sorted(found))
        return [ModelKey(name, kind) for kind in kinds if kind is not None]

    def resolve(self, name: str, weights: Weights | None) -> ModelKey:
        """The key of a model there; raises NotFoundError, InputError when the choice is open."""
        key = ModelKey(name, weights or Weights.INT8)  # which checks the name
        if weights is not None and self._has(key):
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
        place, shown = self._manifest_place(key), f"{key} in {self.url}"
        if not self._has(key):
            raise NotFoundError(f"there is no {shown}: send it with `nightshift model push`")
        with self._advice():
            content = self._files.cat_file(place, 0, MAX_MANIFEST_BYTES)
        try:
            manifest = checked_manifest(Manifest.model_validate_json(content), shown)
        except ValidationError as exc:
            raise ArtifactError(f"the manifest of {shown} cannot be read: push it again") from exc
        if manifest.backend is not self.backend or manifest.weights is not key.weights:
            raise ArtifactError(f"the manifest of {shown} is of another artifact: push it again")
        return manifest

    def read(self, sha256: str, start: int) -> Iterator[bytes]:
        """The contents of a file from byte `start` on, in pieces; raises UnavailableError."""
        place = self._place("files", sha256)
        with self._advice(), self._files.open(place, "rb") as remote:
            remote.seek(start)  # what is before it is not asked for
            while piece := remote.read(_PIECE_BYTES):
                yield piece

    def _has(self, key: ModelKey) -> bool:
        with self._advice():
            return bool(self._files.exists(self._manifest_place(key)))

    def _size(self, place: str) -> int | None:
        try:
            size: int = self._files.info(place)["size"]
        except FileNotFoundError:
            return None
        return size

    def _manifest_place(self, key: ModelKey) -> str:
        folder = artifact_folder_name(key.weights, self.backend)
        return self._place("artifacts", key.name, folder, MANIFEST_NAME)

    def _place(self, *parts: str) -> str:
        return posixpath.join(self._root, *parts)

    @contextmanager
    def _appearing(self, place: str) -> Iterator[str]:
        """Where to write so that `place` is there whole or not at all."""
        self._files.makedirs(posixpath.dirname(place), exist_ok=True)
        if _WITH_RENAME.isdisjoint(_protocols(self._files)):
            yield place
            return
        temporary = f"{place}.{uuid.uuid4().hex}.part"
        try:
            yield temporary
            self._files.mv(temporary, place)
        except BaseException:
            with suppress(Exception):
                self._files.rm_file(temporary)
            raise

    @contextmanager
    def _advice(self) -> Iterator[None]:
        try:
            yield
        except NightshiftError:
            raise
        except Exception as exc:  # each file system has errors of its own
            if is_storage_full(exc):
                raise StorageFull(f"no space left in {self.url}: free some and try again") from None
            raise UnavailableError(
                f"the registry {self.url} failed ({type(exc).__name__}): see that it can be "
                "reached and that the credentials of this machine allow it, then try again"
            ) from None  # the library's own words may repeat a password


def _protocols(file_system: Any) -> set[str]:
    protocol = file_system.protocol
    return {protocol} if isinstance(protocol, str) else set(protocol)


def without_secrets(url: str) -> str:
    """The URL for messages and logs: no user, no password, no query."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))
