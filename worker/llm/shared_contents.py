"""Which contents of a shared place manifests name, and removing those that none does.

Nobody knows of every push under way, on all nodes, so contents are given time: a push relies on
what no manifest names only while it is young, and nothing is removed before it is older by far.
Must not know torch.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from models.errors import ArtifactError, InputError, SettingsError
from worker.llm.artifact import MANIFEST_NAME
from worker.llm.shared_place import SharedPlace, Writing

CONTENTS, ARTIFACTS = "files", "artifacts"
MAX_MANIFEST_BYTES = 16 * 1024**2
LEAST_DAYS = 1.0
_RELIED_ON_DAYS = 0.5  # the other half is for what is left of the push
_DAY_S = 86400.0
# Nothing else is removed, whatever lies there; .part is what a killed push leaves in a folder.
_CONTENTS_NAME = re.compile(r"([0-9a-f]{64})(\.[0-9a-f]{32}\.part)?")
_QUOTED_SHA256 = re.compile(rb'"([0-9a-f]{64})"')


@dataclass(frozen=True, slots=True)
class Unnamed:
    """Contents that no manifest names."""

    path: str  # in the file system of the place
    name: str  # the SHA-256, with more behind it for a part
    bytes: int
    days: float  # since they were sent


def named_contents(place: SharedPlace) -> set[str]:
    """The SHA-256 of all that manifests name, those of other backends and versions too.

    Raises ArtifactError for a manifest that cannot be read, as it may name anything.
    """
    named: set[str] = set()
    for model in _listed(place, posixpath.join(place.root, ARTIFACTS), "directory"):
        for folder in _listed(place, model["name"], "directory"):
            path = posixpath.join(folder["name"], MANIFEST_NAME)
            try:
                if place.files.info(path)["size"] > MAX_MANIFEST_BYTES:
                    raise ValueError
                content = place.files.cat_file(path)
                json.loads(content)
            except place.absent:
                continue
            except (ValueError, RecursionError):
                raise ArtifactError(
                    f"the manifest {path} cannot be read, so what it needs is not known: push "
                    "that artifact again, or remove its manifest"
                ) from None
            named.update(match.decode() for match in _QUOTED_SHA256.findall(content))
    return named


def may_be_relied_on(place: SharedPlace, path: str, named: set[str]) -> bool:
    """Whether contents that are there will be until a push that does not send them has ended."""
    if place.is_atomic or posixpath.basename(path) in named:
        return True
    days = _days_old(place.files, path)
    return days is not None and days < _RELIED_ON_DAYS


def remove_unnamed(
    place: SharedPlace, older_than_days: float, *, dry_run: bool = False
) -> list[Unnamed]:
    """Remove contents that no manifest names and that were sent so long ago, and tell which.

    Raises InputError, ArtifactError, and SettingsError where files have no time.
    """
    if older_than_days < LEAST_DAYS:
        raise InputError(
            f"contents of less than {LEAST_DAYS:g} day may belong to a push under way: give "
            f"{LEAST_DAYS:g} or more days"
        )

    def remove(to: Writing) -> list[Unnamed]:
        named = named_contents(place)
        old = [each for each in _unnamed(place, named) if each.days > older_than_days]
        if old and not dry_run:
            named = named_contents(place)  # to find out what is old may have taken long
            old = [each for each in old if each.name not in named]
            for each in old:
                to.remove(each.path)
        return old

    return place.apply(remove, "Remove contents that no manifest names")


def _unnamed(place: SharedPlace, named: set[str]) -> Iterator[Unnamed]:
    for file in _listed(place, posixpath.join(place.root, CONTENTS), "file"):
        parts = _CONTENTS_NAME.fullmatch(posixpath.basename(file["name"]))
        if parts is None or (parts[1] in named and not parts[2]):
            continue
        try:
            days = _days_old(place.files, file["name"])
        except place.absent:  # gone by now
            continue
        if days is None:
            raise SettingsError(
                "this kind of registry does not tell when a file was sent, so nothing is removed "
                "there: remove what no manifest names yourself, while nobody pushes"
            )
        yield Unnamed(file["name"], parts[0], file["size"], days)


def _listed(place: SharedPlace, folder: str, kind: str) -> list[dict[str, Any]]:
    """Not `find`, for which folders that cannot be read are empty."""
    try:
        return [each for each in place.files.ls(folder, detail=True) if each["type"] == kind]
    except place.absent:
        return []


def _days_old(files: Any, path: str) -> float | None:
    try:
        changed: datetime = files.modified(path)
    except RuntimeError:  # the base class of what fsspec raises where a file system cannot tell
        return None
    if changed.tzinfo is None:
        changed = changed.replace(tzinfo=UTC)
    return (datetime.now(UTC) - changed).total_seconds() / _DAY_S
