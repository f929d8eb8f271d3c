"""Places that nodes share artifacts through, and their files behind Nightshift's back."""

from __future__ import annotations

import posixpath

import fsspec


class SharedFiles:
    """Reads and writes by names relative to the URL."""

    def __init__(self, url: str) -> None:
        """Nothing is kept of what was listed before."""
        self.url = url
        self._files, self._root = fsspec.url_to_fs(
            url, skip_instance_cache=True, use_listings_cache=False
        )

    def read(self, name: str) -> bytes:
        """The content of a file."""
        content: bytes = self._files.cat_file(self._path(name))
        return content

    def write(self, name: str, content: bytes) -> None:
        """Make a file or change it."""
        self._files.makedirs(posixpath.dirname(self._path(name)), exist_ok=True)
        self._files.pipe_file(self._path(name), content)

    def names(self) -> set[str]:
        """All files."""
        found = self._files.find(self._path(""))
        return {each.removeprefix(f"{self._root.rstrip('/')}/") for each in found}

    def _path(self, name: str) -> str:
        return posixpath.join(self._root, name)
