"""Finds a model: a folder on this machine, or a repository of the Hugging Face Hub.

From the Hub come safetensors, JSON, tokenizer and licence files and nothing else: no pickles, no
code. Every failure becomes one sentence that says what to do. Must not know torch.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from models.errors import HubError, NotFoundError, StorageFull, UnsafeModel, UnsupportedModel
from models.storage_full import is_storage_full
from worker.llm.artifact import PICKLE_SUFFIXES, Source

ALLOWED = ("*.safetensors", "*.json", "tokenizer.model", "merges.txt", "*.jinja",
           "LICENSE*", "NOTICE*", "USE_POLICY*")  # fmt: skip
# Folders hold the same weights in other formats, `consolidated` Mistral's, `adapter` LoRA weights.
IGNORED = ("*/*", "consolidated*", "adapter_*")
WHOLE_HASH_BYTES = 64 * 1024**2
EDGE_BYTES = 1024**2

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model in Hugging Face format, on this machine."""

    folder: Path
    source: Source


def resolve_source(
    path_or_id: str, revision: str | None = None, token: str | None = None
) -> ModelSource:
    """Find a local folder or download `org/name`; without `token`, HF_TOKEN and logins count.

    Raises NotFoundError, HubError, UnsafeModel, UnsupportedModel, StorageFull.
    """
    return fetch_source(identify_source(path_or_id, revision, token), token)


def identify_source(
    path_or_id: str, revision: str | None = None, token: str | None = None
) -> Source:
    """What the model is, without downloading its weights; raises as `resolve_source`."""
    path = Path(path_or_id).expanduser()
    if path_or_id and path.is_dir():
        if revision is not None:
            raise HubError(f"{path_or_id} is a folder: --revision is for models of the Hub")
        # absolute, since it is looked for again from other folders, where a/b could be a Hub id
        return Source(repository=str(path.absolute()), digest=folder_digest(path))
    if path.is_file():
        raise UnsupportedModel(
            f"{path_or_id} is a file: give the folder of a Hugging Face model with safetensors"
        )
    if not _HUB_ID.fullmatch(path_or_id):
        raise NotFoundError(
            f"there is no folder {path_or_id}: give the folder of a model or a Hub id (org/name)"
        )
    with _advice(path_or_id, revision):
        return _identify_on_hub(path_or_id, revision, token)


def fetch_source(source: Source, token: str | None = None) -> ModelSource:
    """The files of an identified model; raises as `resolve_source`."""
    if source.commit is None:
        return ModelSource(Path(source.repository), source)
    with _advice(source.repository, source.revision):
        # Asked for by branch, so that the client remembers what the branch was when offline; if
        # the branch has moved since, what was identified counts.
        folder = _snapshot(source.repository, source.revision, token=token)
        if folder.name != source.commit:
            folder = _snapshot(source.repository, source.commit, token=token)
    return ModelSource(folder, source)


def folder_digest(folder: Path) -> str:
    """A digest that changes when a model folder does.

    Small files count by content. Large ones count by size, time of change, beginning and end: to
    read many gigabytes before every run would cost more than quantizing a copied folder again.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in (".safetensors", ".json", ".model", ".jinja", ".txt"):
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            digest.update(_fingerprint(path))
    return digest.hexdigest()


def _fingerprint(path: Path) -> bytes:
    status = path.stat()
    with path.open("rb") as file:
        if status.st_size <= WHOLE_HASH_BYTES:
            return hashlib.file_digest(file, "sha256").digest()
        digest = hashlib.sha256(str(status.st_mtime_ns).encode())
        digest.update(file.read(EDGE_BYTES))
        file.seek(-EDGE_BYTES, 2)
        digest.update(file.read())
        return digest.digest()


def _identify_on_hub(repository: str, revision: str | None, token: str | None) -> Source:
    try:
        info = HfApi().model_info(repository, revision=revision, token=token)
    except HfHubHTTPError:
        raise
    except Exception as exc:
        if not _is_connection_error(exc):
            raise
        # Without a connection, what was downloaded before is as good.
        folder = _snapshot(repository, revision, local_files_only=True)
        return _hub_source(repository, revision, folder.name)
    _check_files(repository, [file.rfilename for file in info.siblings or []])
    if info.sha is None:
        raise HubError(f"the Hub names no commit of {repository}: try again later")
    return _hub_source(repository, revision, info.sha)


def _snapshot(
    repository: str,
    revision: str | None,
    *,
    token: str | None = None,
    local_files_only: bool = False,
) -> Path:
    return Path(
        snapshot_download(
            repository,
            revision=revision,
            token=token,
            local_files_only=local_files_only,
            allow_patterns=list(ALLOWED),
            ignore_patterns=list(IGNORED),
        )
    )


def _hub_source(repository: str, revision: str | None, commit: str) -> Source:
    digest = hashlib.sha256(f"{repository}@{commit}".encode()).hexdigest()
    return Source(repository=repository, revision=revision, commit=commit, digest=digest)


def _check_files(repository: str, names: list[str]) -> None:
    top = [name for name in names if "/" not in name]
    if any(name.endswith(".safetensors") for name in top):
        return
    if any(name.endswith(PICKLE_SUFFIXES) for name in names):
        raise UnsafeModel(
            f"{repository} holds pickled weights alone, which can run code when loaded: "
            "take a version of the model with safetensors files"
        )
    raise UnsupportedModel(
        f"{repository} holds no safetensors weights: give a causal language model in safetensors"
    )


def _is_connection_error(exc: BaseException) -> bool:
    """httpx is the Hub client's choice, not ours: its errors are told by their module."""
    return isinstance(exc, OfflineModeIsEnabled) or type(exc).__module__.startswith("httpx")


@contextmanager
def _advice(repository: str, revision: str | None) -> Iterator[None]:
    try:
        yield
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError) as exc:
        raise HubError(_refusal(exc, repository, revision)) from exc
    except HfHubHTTPError as exc:
        raise HubError(_http_failure(exc, repository)) from exc
    except HFValidationError as exc:
        raise NotFoundError(f"{repository!r} is no Hub id: give org/name or a folder") from exc
    except LocalEntryNotFoundError as exc:
        raise HubError(
            f"the Hub cannot be reached and {repository} was not downloaded before: "
            "check the connection and HF_HUB_OFFLINE, or give a local folder"
        ) from exc
    except OSError as exc:
        if not is_storage_full(exc):
            raise HubError(f"{repository} cannot be downloaded: {exc}; try again") from exc
        raise StorageFull(
            f"no space left to download {repository}: free some or point HF_HOME elsewhere"
        ) from exc
    except Exception as exc:
        if not _is_connection_error(exc):
            raise
        raise HubError(
            f"the connection to the Hub broke while fetching {repository}: "
            "run the same command again, what was downloaded is kept"
        ) from exc


def _refusal(exc: Exception, repository: str, revision: str | None) -> str:
    if isinstance(exc, GatedRepoError):
        return (
            f"{repository} is gated: accept its licence on its page on the Hub and set HF_TOKEN "
            "to a token of that account"
        )
    if isinstance(exc, RevisionNotFoundError):
        return f"{repository} has no revision {revision}: give a branch, tag or commit of it"
    return (
        f"the Hub has no model {repository}, or a private one: check the name, "
        "and set HF_TOKEN if it is private"
    )


def _http_failure(exc: HfHubHTTPError, repository: str) -> str:
    status = exc.response.status_code
    if status in (401, 403):
        return (
            f"the Hub refuses {repository} ({status}): set HF_TOKEN to a valid token, and accept "
            "the model's licence on its page if it has one"
        )
    return f"the Hub answered {status} for {repository}: try again later"
