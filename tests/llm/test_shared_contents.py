"""What no manifest names goes from a shared place, and never what a push relies on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from models.backend_name import BackendName
from models.errors import ArtifactError, InputError, SettingsError
from models.model_key import ModelKey, Weights
from tests.llm.shared_files import KEY, FilesOfHub, SharedFiles, ignore
from worker.llm.artifact import MANIFEST_NAME, Artifact
from worker.llm.pull import pull_artifact
from worker.llm.registry import Registry
from worker.llm.remote_registry import RemoteRegistry

# The Hub's own client uploads in a way that its HTTP library advises against.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

OTHER = ModelKey("other", Weights.INT8)
MANIFEST = f"artifacts/tiny/int8/{MANIFEST_NAME}"
OF_TRANSFORMERS = f"artifacts/tiny/int8.transformers/{MANIFEST_NAME}"
LEFT, PART = f"files/{'0' * 64}", f"files/{'1' * 64}.{'2' * 32}.part"
FOREIGN = {"files/letters.txt", f"files/{'3' * 64}.txt", f"files/more/{'4' * 64}", "readme"}


def contents(artifact: Artifact) -> set[str]:
    return {f"files/{file.sha256}" for file in artifact.manifest.files.values()}


@pytest.fixture
def pushed(remote: RemoteRegistry, artifact: Artifact) -> RemoteRegistry:
    remote.push(artifact, KEY, ignore)
    return remote


def test_what_no_manifest_names_goes_when_it_is_old(
    pushed: RemoteRegistry, store: SharedFiles, artifact: Artifact, registry: Registry
) -> None:
    for name in (LEFT, PART, *FOREIGN):
        store.write(name, b"12345")
    assert pushed.remove_unnamed(1) == []
    store.age(3)
    assert pushed.remove_unnamed(4) == []
    found = pushed.remove_unnamed(2, dry_run=True)
    assert {(each.name, each.bytes) for each in found} == {
        (Path(name).name, 5) for name in (LEFT, PART)
    }
    assert all(3 <= each.days < 3.1 for each in found)
    assert {LEFT, PART} <= store.names()
    assert len(pushed.remove_unnamed(2)) == 2
    assert store.names() == {*contents(artifact), MANIFEST, *FOREIGN}
    assert pull_artifact(pushed, registry, KEY, ignore).digest == artifact.digest


def test_what_replaced_manifests_named_goes(
    pushed: RemoteRegistry, store: SharedFiles, artifact: Artifact
) -> None:
    said = json.loads(store.read(MANIFEST))
    kept = said["files"]["config.json"]["sha256"]
    another = {"format": 99, "parts": [{"content": kept}]}  # of a later version, say
    store.write(MANIFEST, json.dumps(another).encode())
    store.age(2)
    freed = sum(each.bytes for each in pushed.remove_unnamed(1))
    assert store.names() == {f"files/{kept}", MANIFEST}
    assert freed == artifact.bytes - said["files"]["config.json"]["bytes"]


def test_manifests_of_all_backends_count(pushed: RemoteRegistry, store: SharedFiles) -> None:
    store.write(OF_TRANSFORMERS, store.read(MANIFEST))
    store.write(MANIFEST, b"{}")
    store.age(2)
    assert pushed.remove_unnamed(1) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000])
def test_nothing_goes_while_a_manifest_cannot_be_read(
    content: bytes, pushed: RemoteRegistry, store: SharedFiles, artifact: Artifact
) -> None:
    store.write(LEFT, b"12345")
    store.age(2)
    store.write(MANIFEST, content)
    with pytest.raises(ArtifactError, match="push that artifact again"):
        pushed.remove_unnamed(1)
    pushed.push(artifact, KEY, ignore)
    assert [each.name for each in pushed.remove_unnamed(1)] == ["0" * 64]


def test_less_than_a_day_is_refused(pushed: RemoteRegistry) -> None:
    with pytest.raises(InputError, match="push under way"):
        pushed.remove_unnamed(0.9)


def test_an_empty_place_has_nothing_to_remove(remote: RemoteRegistry) -> None:
    assert remote.remove_unnamed(1) == []


def forget_manifests(store: SharedFiles) -> None:
    """As after a push that broke off at its end."""
    store.write(MANIFEST, b"{}")


def test_a_push_relies_on_what_is_named_or_young(
    pushed: RemoteRegistry, store: SharedFiles, artifact: Artifact
) -> None:
    forget_manifests(store)
    store.age(0.4)
    assert pushed.push(artifact, KEY, ignore).files_sent == 0
    store.age(9)
    assert pushed.push(artifact, OTHER, ignore).files_sent == 0


def test_a_push_sends_what_could_be_removed_under_it(
    pushed: RemoteRegistry, store: SharedFiles, artifact: Artifact
) -> None:
    forget_manifests(store)
    store.age(9)
    seen = RemoteRegistry(store.url, BackendName.NATIVE).remove_unnamed(8, dry_run=True)
    assert {f"files/{each.name}" for each in seen} == contents(artifact)

    def removes(_done: int, _total: int) -> None:
        """What another machine does while this one pushes."""
        RemoteRegistry(store.url, BackendName.NATIVE).remove_unnamed(8)

    pushed.push(artifact, KEY, removes)
    assert contents(artifact) <= store.names()


@pytest.mark.parametrize("store", ["hub"], indirect=True)
def test_a_removal_on_the_hub_is_one_commit_and_sees_a_faster_push(
    pushed: RemoteRegistry, store: FilesOfHub, artifact: Artifact
) -> None:
    manifest = store.read(MANIFEST)
    forget_manifests(store)
    store.age(9)
    faster = [manifest]

    def push_first() -> None:
        if faster:
            store.write(MANIFEST, faster.pop())

    store.hub.before_commit = push_first
    assert pushed.remove_unnamed(8) == []
    assert contents(artifact) <= store.names()
    forget_manifests(store)
    n_commits = len(store.hub.commits)
    assert len(pushed.remove_unnamed(8)) == len(contents(artifact))
    assert store.hub.commits[n_commits:] == ["Remove contents that no manifest names"]


def test_a_place_without_times_is_refused_and_pushed_to(
    tmp_path: Path, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalFileSystem, "modified", AbstractFileSystem.modified)
    remote = RemoteRegistry(str(tmp_path), BackendName.NATIVE)
    remote.push(artifact, KEY, ignore)
    assert remote.push(artifact, KEY, ignore).files_sent == 0
    assert remote.remove_unnamed(1) == []
    (tmp_path / LEFT).write_bytes(b"12345")
    with pytest.raises(SettingsError, match="does not tell when"):
        remote.remove_unnamed(1)
