"""Where artifacts are shared: a folder, a bucket, or whatever else fsspec opens.

Reading is the same for all of them, through fsspec. Writing is not: a folder shows a file before
it is whole and renames in one step, a bucket the other way round, and the Hub has commits
(hub_place.py). Must not know torch.
"""

from __future__ import annotations

import posixpath
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit, urlunsplit

import fsspec

from models.errors import SettingsError

_WITH_RENAME = frozenset({"file", "local", "sftp", "ssh", "smb", "hdfs"})
_BUCKETS = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs"})

T = TypeVar("T")


class Writing(Protocol):
    """What a change does; each file is there whole or not at all."""

    def put_file(self, source: Path, place: str) -> None:
        """Send a file of this machine."""

    def put_bytes(self, content: bytes, place: str) -> None:
        """Write what is small."""

    def remove(self, place: str) -> None:
        """Remove a file, if it is there."""


class SharedPlace(Protocol):
    """A place that several nodes reach."""

    files: Any  # the fsspec file system to read with
    root: str  # the path in it
    absent: tuple[type[Exception], ...]  # what reading raises for what is not there
    is_atomic: bool  # whether a change fails that was decided on what is not so any more

    def apply(self, change: Callable[[Writing], T], summary: str) -> T:
        """Carry out a change and give what it gives; it may be called again, and reads anew."""

    def advice(self, error: Exception) -> str | None:
        """A sentence about a failure that this kind of place knows more of."""

    def what_lacks(self) -> str | None:
        """A sentence when the place itself is not there, which differs from an empty one."""


class FilesPlace:
    """A place whose files are written one by one."""

    is_atomic = False
    absent: tuple[type[Exception], ...] = (FileNotFoundError,)

    def __init__(self, files: Any, root: str) -> None:
        """`files` is a file system of fsspec."""
        self.files, self.root = files, root
        protocols = {files.protocol} if isinstance(files.protocol, str) else set(files.protocol)
        self._renames = not _WITH_RENAME.isdisjoint(protocols)
        self._bucket = None if _BUCKETS.isdisjoint(protocols) else root.split("/")[0]

    def apply(self, change: Callable[[Writing], T], summary: str) -> T:  # noqa: ARG002
        """As in SharedPlace."""
        return change(self)

    def put_file(self, source: Path, place: str) -> None:
        """As in Writing."""
        with self._appearing(place) as new:
            self.files.put_file(str(source), new)

    def put_bytes(self, content: bytes, place: str) -> None:
        """As in Writing."""
        with self._appearing(place) as new:
            self.files.pipe_file(new, content)

    def remove(self, place: str) -> None:
        """As in Writing."""
        with suppress(FileNotFoundError):
            self.files.rm_file(place)

    def advice(self, error: Exception) -> str | None:
        """As in SharedPlace."""
        return self.what_lacks() if isinstance(error, FileNotFoundError) else None

    def what_lacks(self) -> str | None:
        """As in SharedPlace; a folder is made by the first push, a bucket by its owner."""
        if self._bucket is not None:
            try:
                self.files.info(self._bucket)
            except FileNotFoundError:
                return f"there is no bucket {self._bucket}: make it, or check the registry's URL"
            except Exception:  # perhaps only what is in it may be read
                return None
        return None

    @contextmanager
    def _appearing(self, place: str) -> Iterator[str]:
        """Where to write so that `place` is there whole or not at all."""
        if self._bucket is None:  # a bucket has no folders, and s3fs would make the bucket itself
            self.files.makedirs(posixpath.dirname(place), exist_ok=True)
        if not self._renames:
            yield place
            return
        temporary = f"{place}.{uuid.uuid4().hex}.part"
        try:
            yield temporary
            self.files.mv(temporary, place)
        except BaseException:
            with suppress(Exception):
                self.files.rm_file(temporary)
            raise


def open_place(url: str) -> SharedPlace:
    """The place at a URL; raises SettingsError for one that fsspec cannot open."""
    try:
        files, root = fsspec.url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)
    except (ImportError, ValueError) as exc:
        raise SettingsError(
            f"the registry {without_secrets(url)} cannot be opened ({type(exc).__name__}): check "
            "NIGHTSHIFT_REGISTRY_URL, and that fsspec's package for it is there (s3fs for s3)"
        ) from None
    if files.protocol == "hf":
        from worker.llm.hub_place import HubPlace  # imports the Hub's client, which takes a while

        return HubPlace(files, root)
    return FilesPlace(files, root)


def without_secrets(url: str) -> str:
    """The URL for messages and logs: no user, no password, no query."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))
