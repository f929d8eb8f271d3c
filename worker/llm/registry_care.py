"""Looks after the registry of this machine: what is damaged, and what nobody needs.

Goes by the folders, not by readable manifests: a damaged artifact has none.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout

from models.backend_name import BackendName
from models.errors import ArtifactError, StateError
from models.model_key import Weights
from worker.llm.artifact import MANIFEST_NAME, open_artifact, read_manifest
from worker.llm.artifact_folder import remove_abandoned, remove_folder
from worker.llm.artifact_use import last_used_at, unused
from worker.llm.pull import PARTIAL_SUFFIX
from worker.llm.registry import artifact_folder_name, lock_of, writing

_DAY_S = 86400.0
_FOLDER_NAMES = frozenset(
    artifact_folder_name(weights, backend) for weights in Weights for backend in BackendName
)


@dataclass(frozen=True, slots=True)
class Checked:
    """An artifact whose every byte was read; `problem` is None for a whole one."""

    folder: Path
    problem: str | None


@dataclass(frozen=True, slots=True)
class Removed:
    """What gc took away, or would."""

    folder: Path
    bytes: int
    reason: str


def verify_registry(root: Path, name: str | None = None) -> Iterator[Checked]:
    """Read every byte of all artifacts of all backends, or of those of one model."""
    for folder in _artifact_folders(root, name):
        problem = _problem(folder)
        if problem is None or folder.is_dir():  # else another process has removed it
            yield Checked(folder, problem)


def _problem(folder: Path) -> str | None:
    try:
        open_artifact(folder, verify=True)
    except ArtifactError as exc:
        return str(exc)
    except OSError as exc:
        return (
            f"{folder} cannot be read ({exc}): check the disk, remove the artifact and add the "
            "model again"
        )
    return None


def collect_garbage(
    root: Path, *, unused_for_days: float | None = None, dry_run: bool = False
) -> list[Removed]:
    """Remove damaged artifacts, broken-off downloads, what dead processes left, and the unused.

    Nothing is removed that a process of this machine has loaded, pushes or is adding, nor a
    download of the last day, nor an artifact of another version of Nightshift. Raises SettingsError
    where the registry cannot be written.
    """
    with writing(root):
        return _collected(root, unused_for_days, dry_run=dry_run)


def _collected(root: Path, unused_for_days: float | None, *, dry_run: bool) -> list[Removed]:
    found = []
    for folder in _artifact_folders(root):
        with suppress(Timeout, StateError), _nobody_at(folder), unused(folder):
            reason = _reason(folder, unused_for_days)
            if reason is not None and folder.is_dir():  # another process may have removed it
                found.append(Removed(folder, _size(folder), reason))
                if not dry_run:
                    remove_folder(folder)
    for partial in sorted(root.glob(f"*/.*{PARTIAL_SUFFIX}")):
        place = partial.with_name(partial.name.removeprefix(".").removesuffix(PARTIAL_SUFFIX))
        with suppress(Timeout), _nobody_at(place):
            if not partial.is_dir() or time.time() - _changed_at(partial) < _DAY_S:
                continue  # it has become an artifact, or somebody may go on with it
            found.append(Removed(partial, _size(partial), "a download that broke off"))
            if not dry_run:
                shutil.rmtree(partial)
    for parent in root.glob("*/"):
        if not dry_run:
            remove_abandoned(parent)
    return found


@contextmanager
def _nobody_at(place: Path) -> Iterator[None]:
    """Raises Timeout while a process adds or removes the artifact at `place`."""
    with lock_of(place).acquire(timeout=0):
        yield


def _reason(folder: Path, unused_for_days: float | None) -> str | None:
    try:
        open_artifact(folder, verify=False)
    except ArtifactError:
        return None if _is_of_another_version(folder) else "damaged"
    idle_s = time.time() - last_used_at(folder)
    if unused_for_days is not None and idle_s > unused_for_days * _DAY_S:
        return f"not loaded for {idle_s / _DAY_S:.0f} days"
    return None


def _is_of_another_version(folder: Path) -> bool:
    """Whether a manifest is whole and says what this version does not know."""
    with suppress(ArtifactError):
        read_manifest(folder)
        return False
    try:
        said = json.loads((folder / MANIFEST_NAME).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(said, dict) and "format" in said


def _changed_at(folder: Path) -> float:
    return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))


def _artifact_folders(root: Path, name: str | None = None) -> list[Path]:
    """By their names alone; links are left out, as the registry does: they lead elsewhere."""
    return sorted(
        folder
        for folder in root.glob("*/*/")
        if folder.name in _FOLDER_NAMES
        and name in (None, folder.parent.name)
        and not folder.parent.name.startswith(".")
        and not folder.is_symlink()
        and not folder.parent.is_symlink()
    )


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.lstat().st_size
    return total
