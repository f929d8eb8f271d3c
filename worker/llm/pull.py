"""Brings an artifact from a remote registry to this machine, once for all of its processes.

A download that breaks off stays, and the next one goes on where it ended. An artifact appears when
all of it is there and every file has the SHA-256 of its manifest.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.errors import ArtifactError, StorageFull, UnavailableError
from models.model_key import ModelKey
from models.storage_full import is_storage_full
from worker.llm.artifact import MANIFEST_NAME, Manifest, StoredFile, open_artifact
from worker.llm.artifact_folder import new_folder
from worker.llm.registry import Registry, RegistryEntry
from worker.llm.remote_registry import Progress, RemoteRegistry

PARTIAL_SUFFIX = ".pull"
_PIECE_BYTES = 1 << 22


def pull_artifact(
    remote: RemoteRegistry, registry: Registry, key: ModelKey, progress: Progress
) -> RegistryEntry:
    """Make the artifact of `key` here what it is there; nothing is read again that is here.

    Processes that want the same share one download. Raises NotFoundError, ArtifactError,
    UnavailableError, StorageFull and SettingsError.
    """
    with registry.lock(key):
        manifest = remote.manifest(key)
        place = registry.path(key)
        if not _is_here(place, manifest):
            partial = partial_place(place)
            with _storage_full_as_advice(registry.root):
                partial.mkdir(parents=True, exist_ok=True)
                _download_all(remote, manifest, partial, progress)
                _assemble(manifest, partial, place)
    return registry.entry(key)


def partial_place(place: Path) -> Path:
    """Where files of an artifact at `place` are gathered, each named by its SHA-256."""
    return place.with_name(f".{place.name}{PARTIAL_SUFFIX}")


def _is_here(place: Path, manifest: Manifest) -> bool:
    try:
        return open_artifact(place, verify=False).digest == manifest.digest
    except ArtifactError:
        return False


def _download_all(
    remote: RemoteRegistry, manifest: Manifest, partial: Path, progress: Progress
) -> None:
    files = {file.sha256: file for file in manifest.files.values()}
    total = sum(file.bytes for file in files.values())
    missing = total - sum(_size(partial / name) for name in files)
    if shutil.disk_usage(partial).free < missing:
        raise StorageFull(
            f"{partial.parent} has no room for {missing} bytes more: free some and try again"
        )
    done = 0
    for file in files.values():
        _download(remote, file, partial / file.sha256)
        done += file.bytes
        progress(done, total)


def _download(remote: RemoteRegistry, file: StoredFile, place: Path) -> None:
    was_begun = _size(place) > 0
    is_whole = _read_rest(remote, file, place)
    if not is_whole and was_begun:  # perhaps it is the beginning, from before, that is damaged
        is_whole = _read_rest(remote, file, place)
    if not is_whole:
        raise ArtifactError(
            f"{file.sha256} in {remote.url} is damaged (its SHA-256 is another one): remove it "
            "there and push the artifact again from a machine where it is whole"
        )


def _read_rest(remote: RemoteRegistry, file: StoredFile, place: Path) -> bool:
    """Whether the file is whole now; a damaged one is deleted.

    Raises UnavailableError when the rest has not come.
    """
    digest = hashlib.sha256()
    with place.open("a+b") as local:
        local.seek(0)
        while piece := local.read(_PIECE_BYTES):
            digest.update(piece)
        size = local.tell()
        if size < file.bytes:
            for piece in remote.read(file.sha256, size):
                local.write(piece)
                digest.update(piece)
                size += len(piece)
                if size > file.bytes:
                    break
    if size < file.bytes:
        raise UnavailableError(
            f"the registry {remote.url} ended a file after {size} of {file.bytes} bytes: run the "
            "same command again, which goes on from there"
        )
    if size > file.bytes or digest.hexdigest() != file.sha256:
        place.unlink()
        return False
    return True


def _assemble(manifest: Manifest, partial: Path, place: Path) -> None:
    left = Counter(file.sha256 for file in manifest.files.values())
    with new_folder(place) as folder:
        for name, file in manifest.files.items():
            left[file.sha256] -= 1
            if left[file.sha256]:  # another file has the same contents
                shutil.copyfile(partial / file.sha256, folder / name)
            else:
                (partial / file.sha256).rename(folder / name)
        (folder / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=1) + "\n")
    shutil.rmtree(partial)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextmanager
def _storage_full_as_advice(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        if not is_storage_full(exc):
            raise
        raise StorageFull(f"no space left in {root}: free some and try again") from exc
