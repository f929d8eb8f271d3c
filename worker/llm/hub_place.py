"""A repository of the Hugging Face Hub that artifacts are shared through.

Each change is one commit on top of the state that it was decided on: the Hub refuses it when
somebody else was faster, and then it is decided anew. So what can be seen is whole, always.
Must not know torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from models.errors import SettingsError, UnavailableError
from worker.llm.shared_place import T, Writing

# OWNER/REPO of a model repository, or of a dataset's, with a branch perhaps.
_ROOT = re.compile(
    r"((?P<dataset>datasets/)?(?!(?:datasets|spaces|buckets|kernels|models)/)"
    r"(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?)(?:/.*)?"
)
_TRIES = 5
_CONFLICT = 412


class HubPlace:
    """The place below `hf://[datasets/]OWNER/REPO[@BRANCH][/PREFIX]`."""

    is_atomic = True
    # The second for folders that are not there, with versions of the client below 1.
    absent: tuple[type[Exception], ...] = (FileNotFoundError, EntryNotFoundError)

    def __init__(self, files: Any, root: str) -> None:
        """`files` is the Hub's file system; raises SettingsError, and asks the Hub nothing."""
        self.files, self.root = files, root
        parts = _ROOT.fullmatch(root)
        if parts is None:
            raise SettingsError(
                f"hf://{root} names no repository of the Hub: give hf://OWNER/REPO or "
                "hf://datasets/OWNER/REPO"
            )
        self._shown = f"hf://{parts[1]}"
        self._prefix = f"{parts[1]}/"
        self._api = HfApi(endpoint=files.endpoint, token=files.token)
        self._repository: dict[str, Any] = {
            "repo_id": parts["repo"],
            "repo_type": "dataset" if parts["dataset"] else "model",
            "revision": unquote(parts["revision"] or "main"),
        }

    def apply(self, change: Callable[[Writing], T], summary: str) -> T:
        """As in SharedPlace; raises UnavailableError when others do not stop changing it."""
        for _ in range(_TRIES):
            head = self._api.repo_info(**self._repository).sha
            self.files.invalidate_cache()
            with _no_bars():
                commit = _Commit(self)
                result = change(commit)
                if not commit.operations or self._commit(commit, head, summary):
                    return result
        raise UnavailableError(f"others are changing {self._shown} all the time: try again later")

    def what_lacks(self) -> str | None:
        """As in SharedPlace."""
        try:
            self._api.repo_info(**self._repository)
        except (RepositoryNotFoundError, RevisionNotFoundError) as exc:
            return self.advice(exc)
        return None

    def advice(self, error: Exception) -> str | None:
        """As in SharedPlace."""
        match error:
            case GatedRepoError():
                return (
                    f"{self._shown} is gated: ask for access on its page on the Hub, and set "
                    "HF_TOKEN to a token of that account"
                )
            case RepositoryNotFoundError():
                return (
                    f"the Hub shows this machine no repository {self._shown}: make it on the Hub, "
                    "or set HF_TOKEN to a token that may read it and, to push, write to it"
                )
            case RevisionNotFoundError():
                return f"{self._shown} has no such branch: make it on the Hub, or check the URL"
            case HfHubHTTPError() if error.response.status_code in (401, 403):
                return (
                    f"the Hub refuses {self._shown} ({error.response.status_code}): set HF_TOKEN "
                    "to a valid token that may read it and, to push, write to it"
                )
            case HfHubHTTPError():
                status = error.response.status_code
                return f"the Hub answered {status} for {self._shown}: try again later"
        return self.advice(error.__cause__) if isinstance(error.__cause__, Exception) else None

    def in_repository(self, place: str) -> str:
        """The path of a file in the repository."""
        return place.removeprefix(self._prefix)

    def put(self, place: str, content: Path | bytes) -> CommitOperationAdd:
        """Send contents as far as the Hub takes them before the commit, which has to follow."""
        given = content if isinstance(content, bytes) else str(content)
        operation = CommitOperationAdd(self.in_repository(place), given)
        self._api.preupload_lfs_files(additions=[operation], free_memory=False, **self._repository)
        return operation

    def _commit(self, commit: _Commit, head: str | None, summary: str) -> bool:
        try:
            self._api.create_commit(
                operations=commit.operations,
                commit_message=summary,
                parent_commit=head,
                **self._repository,
            )
        except HfHubHTTPError as exc:
            if exc.response.status_code == _CONFLICT:
                return False
            raise
        return True


class _Commit:
    """Gathers what a change does."""

    def __init__(self, place: HubPlace) -> None:
        self._place = place
        self.operations: list[CommitOperationAdd | CommitOperationDelete] = []

    def put_file(self, source: Path, place: str) -> None:
        """As in Writing."""
        self.operations.append(self._place.put(place, source))

    def put_bytes(self, content: bytes, place: str) -> None:
        """As in Writing; what is there already is in no commit."""
        files = self._place.files
        with suppress(*self._place.absent):
            if files.info(place)["size"] == len(content) and files.cat_file(place) == content:
                return
        self.operations.append(self._place.put(place, content))

    def remove(self, place: str) -> None:
        """As in Writing."""
        self.operations.append(CommitOperationDelete(self._place.in_repository(place)))


@contextmanager
def _no_bars() -> Iterator[None]:
    """The client draws bars of its own, over the progress that the caller shows."""
    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
