"""Places that nodes share artifacts through, and their files behind Nightshift's back."""

from __future__ import annotations

import os
import posixpath
from datetime import UTC, datetime, timedelta
from typing import Protocol

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from models.model_key import ModelKey, Weights
from tests.llm.bucket_server import age_object
from tests.llm.writable_hub import REPOSITORY, WRITER, WritableHub

KEY = ModelKey("tiny", Weights.INT8)  # of the artifact that is shared


def ignore(_done: int, _total: int) -> None:
    """Nobody watches the progress."""


class SharedFiles(Protocol):
    """The files of a place, by names relative to its URL."""

    @property
    def url(self) -> str:
        """Of the place."""

    def read(self, name: str) -> bytes:
        """The content of a file."""

    def write(self, name: str, content: bytes) -> None:
        """Make a file or change it."""

    def remove(self, name: str) -> None:
        """Remove a file."""

    def names(self) -> set[str]:
        """All files."""

    def age(self, days: float) -> None:
        """Let all files have been written so long ago."""


class FilesOfUrl:
    """Those of a folder or a bucket."""

    def __init__(self, url: str) -> None:
        """Nothing is kept of what was listed before."""
        self.url = url
        self.files, self.root = fsspec.url_to_fs(
            url, skip_instance_cache=True, use_listings_cache=False
        )

    def read(self, name: str) -> bytes:
        """As in SharedFiles."""
        content: bytes = self.files.cat_file(self._path(name))
        return content

    def write(self, name: str, content: bytes) -> None:
        """As in SharedFiles."""
        self.files.makedirs(posixpath.dirname(self._path(name)), exist_ok=True)
        self.files.pipe_file(self._path(name), content)

    def remove(self, name: str) -> None:
        """As in SharedFiles."""
        self.files.rm_file(self._path(name))

    def names(self) -> set[str]:
        """As in SharedFiles."""
        return {each.removeprefix(f"{self.root}/") for each in self.files.find(self.root)}

    def age(self, days: float) -> None:
        """As in SharedFiles."""
        then = datetime.now(UTC) - timedelta(days=days)
        for path in self.files.find(self.root):
            match self.files:
                case LocalFileSystem():
                    os.utime(path, (then.timestamp(), then.timestamp()))
                case MemoryFileSystem():
                    self.files.store[path].modified = then
                case _:
                    age_object(path, then)

    def _path(self, name: str) -> str:
        return posixpath.join(self.root, name)


class FilesOfHub:
    """Those below a prefix of the repository."""

    PREFIX = "shared"

    def __init__(self, hub: WritableHub) -> None:
        """One place of a hub."""
        self.url = f"hf://{REPOSITORY}/{self.PREFIX}"
        self.hub = hub

    def read(self, name: str) -> bytes:
        """As in SharedFiles."""
        return self.hub.files[f"{self.PREFIX}/{name}"]

    def write(self, name: str, content: bytes) -> None:
        """As in SharedFiles."""
        self.hub.write(f"{self.PREFIX}/{name}", content)

    def remove(self, name: str) -> None:
        """As in SharedFiles."""
        del self.hub.files[f"{self.PREFIX}/{name}"]

    def names(self) -> set[str]:
        """As in SharedFiles."""
        return {name.removeprefix(f"{self.PREFIX}/") for name in self.hub.files}

    def age(self, days: float) -> None:
        """As in SharedFiles."""
        then = datetime.now(UTC) - timedelta(days=days)
        self.hub.changed = dict.fromkeys(self.hub.files, then)


def use_hub(hub: WritableHub, monkeypatch: pytest.MonkeyPatch, token: str = WRITER) -> None:
    """Let the Hub's client in this process find this one, which has no Xet storage."""
    monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": hub.endpoint})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", token)
