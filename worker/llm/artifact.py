"""An artifact: a quantized model on disk, with a manifest of every byte of it.

Reading and checking only, without torch: the command line lists artifacts with it. Writing is
`artifact_writer.py`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from models.backend_name import BackendName
from models.errors import ArtifactError
from models.generation import Frozen
from models.model_key import Weights

MANIFEST_NAME = "nightshift.json"
MANIFEST_FORMAT = 1
TENSOR_SUFFIX = ".safetensors"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".pt2")

_FILE_NAME = re.compile(r"[^./\\\0][^/\\\0]{0,254}")  # neither hidden nor in another folder
_SHA256 = re.compile("[0-9a-f]{64}")


class Source(Frozen):
    """Where a model came from. Equal digests mean equal weights, configuration and tokenizer."""

    repository: str  # the Hub's org/name, or a folder's absolute path
    revision: str | None = None  # what was asked for
    commit: str | None = None  # what the Hub resolved it to
    digest: str


class StoredFile(Frozen):
    """One file of an artifact."""

    bytes: int = Field(ge=0)
    sha256: str


class Manifest(Frozen):
    """What an artifact is made of and how it was made."""

    format: int = MANIFEST_FORMAT
    weights: Weights
    backend: BackendName = BackendName.NATIVE  # which one reads the tensors' names
    architecture: str
    source: Source
    recipe: dict[str, str | int]
    tools: dict[str, str]  # versions by name
    created: str  # UTC, ISO 8601
    files: dict[str, StoredFile]

    @property
    def digest(self) -> str:
        """SHA-256 over names and contents of all files: two equal artifacts have one digest."""
        lines = [f"{name} {file.sha256}\n" for name, file in sorted(self.files.items())]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Artifact:
    """An artifact that was found whole; `digest` names its contents."""

    folder: Path
    manifest: Manifest
    digest: str

    @property
    def weights(self) -> Weights:
        """The format of the linear layers."""
        return self.manifest.weights

    @property
    def bytes(self) -> int:
        """Size on disk, the manifest left out."""
        return sum(file.bytes for file in self.manifest.files.values())

    @property
    def tensor_files(self) -> tuple[Path, ...]:
        """The files that hold the tensors."""
        names = sorted(name for name in self.manifest.files if name.endswith(TENSOR_SUFFIX))
        return tuple(self.folder / name for name in names)


def open_artifact(folder: Path, verify: bool) -> Artifact:
    """The artifact in `folder`; `verify` reads every byte, otherwise only sizes are compared.

    Raises ArtifactError when it is no artifact, of another version, incomplete or damaged.
    """
    manifest = read_manifest(folder)
    for name, file in manifest.files.items():
        path = folder / name
        if path.is_symlink():
            raise ArtifactError(f"{path} is a link: remove the artifact and add the model again")
        if not path.is_file() or path.stat().st_size != file.bytes:
            raise ArtifactError(
                f"{path} is missing or was cut short: remove the artifact and add the model again"
            )
        if verify and file_sha256(path) != file.sha256:
            raise ArtifactError(
                f"{path} is damaged (its SHA-256 is not the manifest's): "
                "remove the artifact and add the model again"
            )
    return Artifact(folder, manifest, manifest.digest)


def read_manifest(folder: Path) -> Manifest:
    """The manifest in `folder`, its files not looked at; raises ArtifactError."""
    path = folder / MANIFEST_NAME
    try:
        if path.is_symlink() or not path.is_file():  # a pipe would be waited for
            raise FileNotFoundError(path)
        manifest = Manifest.model_validate_json(path.read_bytes())
    except OSError as exc:
        raise ArtifactError(
            f"{folder} is no artifact, it has no {MANIFEST_NAME}: "
            "make one with `nightshift model add`"
        ) from exc
    except ValidationError as exc:
        raise ArtifactError(
            f"{path} cannot be read: remove the artifact and add the model again"
        ) from exc
    return checked_manifest(manifest, str(folder))


def checked_manifest(manifest: Manifest, place: str) -> Manifest:
    """The manifest, if this version reads it and all that it names could be files of an artifact.

    Raises ArtifactError, with the `place` where it was found.
    """
    if manifest.format != MANIFEST_FORMAT:
        raise ArtifactError(
            f"{place} was written in format {manifest.format}, this version reads "
            f"{MANIFEST_FORMAT}: remove the artifact and add the model again"
        )
    for name, file in manifest.files.items():
        is_plain = _FILE_NAME.fullmatch(name) and name != MANIFEST_NAME
        if not is_plain or not _SHA256.fullmatch(file.sha256):
            raise ArtifactError(
                f"{place} names a file outside of itself, or one that none can be ({name!r}): "
                "remove it and add the model again"
            )
        if name.endswith(PICKLE_SUFFIXES):
            raise ArtifactError(
                f"{place} has a pickle ({name}), which could run code: add the model again"
            )
    return manifest


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's contents, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
