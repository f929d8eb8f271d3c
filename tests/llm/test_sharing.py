"""Artifacts go to a shared registry and come back whole, once, and checked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.backend_name import BackendName
from models.errors import (
    ArtifactError,
    InputError,
    NotFoundError,
    SettingsError,
    StorageFull,
    UnavailableError,
)
from models.model_key import ModelKey, Weights
from models.settings import load_settings
from tests.llm.bucket_server import BUCKET, SECRET, refusing, use_buckets
from tests.llm.shared_files import KEY, SharedFiles, ignore
from worker.llm.artifact import MANIFEST_NAME, Artifact, open_artifact
from worker.llm.pull import partial_place, pull_artifact
from worker.llm.registry import Registry
from worker.llm.remote_registry import RemoteRegistry
from worker.llm.shared_place import without_secrets
from worker.spawning import engine_config

# The Hub's own client uploads in a way that its HTTP library advises against.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

MANIFEST = f"artifacts/tiny/int8/{MANIFEST_NAME}"
# For what no kind of place has a part in.
ONE_KIND = pytest.mark.parametrize("store", ["folder"], indirect=True)


@pytest.fixture
def pushed(remote: RemoteRegistry, artifact: Artifact) -> RemoteRegistry:
    remote.push(artifact, KEY, ignore)
    return remote


class Watched(RemoteRegistry):
    """Counts the bytes that are read of files."""

    def __init__(self, url: str) -> None:
        super().__init__(url, BackendName.NATIVE)
        self.bytes_read = 0

    def read(self, sha256: str, start: int) -> Iterator[bytes]:
        for piece in super().read(sha256, start):
            self.bytes_read += len(piece)
            yield piece


def largest(artifact: Artifact) -> str:
    """Its name in the place."""
    return f"files/{max(artifact.manifest.files.values(), key=lambda file: file.bytes).sha256}"


def test_what_was_pushed_is_pulled_byte_for_byte(
    remote: RemoteRegistry, artifact: Artifact, registry: Registry
) -> None:
    assert remote.keys("tiny") == []
    sent = remote.push(artifact, KEY, ignore)
    assert (sent.files_sent, sent.bytes_sent) == (sent.files, artifact.bytes)
    assert remote.keys("tiny") == [KEY]
    entry = pull_artifact(remote, registry, KEY, ignore)
    assert entry.digest == artifact.digest
    assert open_artifact(entry.folder, verify=True).manifest == artifact.manifest
    assert not partial_place(entry.folder).exists()


def test_nothing_is_sent_or_read_twice(
    pushed: RemoteRegistry, store: SharedFiles, artifact: Artifact, registry: Registry
) -> None:
    assert pushed.push(artifact, KEY, ignore).files_sent == 0
    watched = Watched(store.url)
    for _ in range(2):
        pull_artifact(watched, registry, KEY, ignore)
        assert watched.bytes_read == artifact.bytes


def test_a_push_that_broke_off_is_invisible_and_goes_on(
    remote: RemoteRegistry, store: SharedFiles, artifact: Artifact, registry: Registry
) -> None:
    store.write(largest(artifact), b"half")
    assert remote.keys("tiny") == []
    with pytest.raises(NotFoundError, match="nightshift model push"):
        pull_artifact(remote, registry, KEY, ignore)
    assert remote.push(artifact, KEY, ignore).bytes_sent == artifact.bytes
    assert pull_artifact(remote, registry, KEY, ignore).digest == artifact.digest


def test_a_download_that_broke_off_is_gone_on_with(
    pushed: RemoteRegistry, store: SharedFiles, artifact: Artifact, registry: Registry
) -> None:
    there = largest(artifact)
    whole = store.read(there)
    store.write(there, whole[: len(whole) // 2])
    with pytest.raises(UnavailableError, match="goes on from there"):
        pull_artifact(pushed, registry, KEY, ignore)
    assert registry.entries() == []
    store.write(there, whole)
    here = sum(path.stat().st_size for path in partial_place(registry.path(KEY)).iterdir())
    assert here >= len(whole) // 2
    watched = Watched(store.url)
    assert pull_artifact(watched, registry, KEY, ignore).digest == artifact.digest
    assert watched.bytes_read == artifact.bytes - here


def test_a_damaged_beginning_is_read_again(
    pushed: RemoteRegistry, artifact: Artifact, registry: Registry
) -> None:
    partial = partial_place(registry.path(KEY))
    partial.mkdir(parents=True)
    (partial / Path(largest(artifact)).name).write_bytes(b"no")
    assert pull_artifact(pushed, registry, KEY, ignore).digest == artifact.digest


@pytest.mark.parametrize("longer", [False, True])
def test_a_damaged_file_there_never_appears_here(
    longer: bool, pushed: RemoteRegistry, store: SharedFiles, artifact: Artifact, registry: Registry
) -> None:
    there = largest(artifact)
    whole = store.read(there)
    store.write(there, whole + b"more" if longer else b"X" + whole[1:])
    with pytest.raises(ArtifactError, match="is damaged"):
        pull_artifact(pushed, registry, KEY, ignore)
    assert registry.entries() == []
    store.write(there, whole)
    assert pull_artifact(pushed, registry, KEY, ignore).digest == artifact.digest


def test_contents_that_are_gone_are_said_and_pushed_again(
    pushed: RemoteRegistry, store: SharedFiles, artifact: Artifact, registry: Registry
) -> None:
    store.remove(largest(artifact))
    with pytest.raises(ArtifactError, match="push that artifact again"):
        pull_artifact(pushed, registry, KEY, ignore)
    assert pushed.push(artifact, KEY, ignore).files_sent == 1
    assert pull_artifact(pushed, registry, KEY, ignore).digest == artifact.digest


@ONE_KIND
@pytest.mark.parametrize(
    ("name", "reason"),
    [("../x", "outside of itself"), ("a/b", "outside of itself"), (".x", "outside of itself"),
     ("", "one that none can be"), ("a\0b", "one that none can be"),
     ("x" * 256, "one that none can be"),
     ("a\\b", "outside of itself"), (MANIFEST_NAME, "outside of itself"), ("x.bin", "pickle")],
)  # fmt: skip
def test_a_manifest_there_is_not_trusted(
    name: str, reason: str, pushed: RemoteRegistry, store: SharedFiles, registry: Registry
) -> None:
    content = json.loads(store.read(MANIFEST))
    content["files"][name] = content["files"].pop("config.json")
    store.write(MANIFEST, json.dumps(content).encode())
    with pytest.raises(ArtifactError, match=reason):
        pull_artifact(pushed, registry, KEY, ignore)
    assert not partial_place(registry.path(KEY)).exists()


@ONE_KIND
@pytest.mark.parametrize("content", ["{", "[]", '{"format": 1}'])
def test_a_manifest_that_is_none_is_said(
    content: str, pushed: RemoteRegistry, store: SharedFiles, registry: Registry
) -> None:
    store.write(MANIFEST, content.encode())
    with pytest.raises(ArtifactError, match="push it again"):
        pull_artifact(pushed, registry, KEY, ignore)


def test_an_empty_manifest_counts_as_none(
    pushed: RemoteRegistry, store: SharedFiles, registry: Registry
) -> None:
    store.write(MANIFEST, b"")
    with pytest.raises(NotFoundError, match="nightshift model push"):
        pull_artifact(pushed, registry, KEY, ignore)


def test_weights_of_another_kind_do_not_pass_for_these(
    pushed: RemoteRegistry, store: SharedFiles, registry: Registry
) -> None:
    store.write(MANIFEST.replace("int8", "int4"), store.read(MANIFEST))
    with pytest.raises(ArtifactError, match="of another artifact"):
        pull_artifact(pushed, registry, ModelKey("tiny", Weights.INT4), ignore)
    with pytest.raises(InputError, match="several weights: give one of int4"):
        pushed.resolve("tiny", None)
    assert RemoteRegistry(store.url, BackendName.TRANSFORMERS).keys("tiny") == []


@ONE_KIND
def test_a_full_disk_is_told_before_anything_is_read(
    pushed: RemoteRegistry, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(registry.root.parent)._replace(free=1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(StorageFull, match="free some"):
        pull_artifact(pushed, registry, KEY, ignore)


def test_urls_that_cannot_be_used_are_one_sentence() -> None:
    with pytest.raises(SettingsError, match="NIGHTSHIFT_REGISTRY_URL"):
        RemoteRegistry("nosuch://x", BackendName.NATIVE)
    for url in ("hf://name", "hf://spaces/owner/name", "hf://buckets/owner/name"):
        with pytest.raises(SettingsError, match="hf://OWNER/REPO"):
            RemoteRegistry(url, BackendName.NATIVE)


@pytest.mark.usefixtures("pushed")
def test_an_engine_is_started_with_what_is_only_there(
    store: SharedFiles, artifact: Artifact, tmp_path: Path
) -> None:
    settings = load_settings({}, home=tmp_path / "node", registry_url=store.url)
    folder = engine_config(settings, KEY).artifact
    assert open_artifact(folder, verify=True).digest == artifact.digest
    with pytest.raises(NotFoundError, match="nightshift model push"):
        engine_config(settings, ModelKey("other", Weights.INT8))


def test_no_half_sent_file_is_seen_in_a_folder(
    tmp_path: Path, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = RemoteRegistry(str(tmp_path / "shared"), BackendName.NATIVE)

    def breaks_off(_source: str, place: str) -> None:
        Path(place).write_bytes(b"half")
        raise ConnectionError

    monkeypatch.setattr(remote._files, "put_file", breaks_off)
    with pytest.raises(UnavailableError):
        remote.push(artifact, KEY, ignore)
    assert list((tmp_path / "shared" / "files").iterdir()) == []


def test_what_another_node_pushes_is_seen_at_once(
    store: SharedFiles, remote: RemoteRegistry, artifact: Artifact, registry: Registry
) -> None:
    assert remote.keys("tiny") == []
    with pytest.raises(NotFoundError, match="nightshift model push tiny"):
        remote.resolve("tiny", None)
    RemoteRegistry(store.url, BackendName.NATIVE).push(artifact, KEY, ignore)
    assert remote.resolve("tiny", None) == KEY
    assert pull_artifact(remote, registry, KEY, ignore).digest == artifact.digest


def failures(remote: RemoteRegistry, artifact: Artifact) -> Iterator[str]:
    """What each thing that one does with a place that fails says."""
    for attempt in (
        lambda: remote.keys("tiny"),
        lambda: remote.resolve("tiny", Weights.INT8),
        lambda: remote.manifest(KEY),
        lambda: remote.push(artifact, KEY, ignore),
    ):
        with pytest.raises(UnavailableError) as caught:
            attempt()
        assert "\n" not in str(caught.value)
        assert SECRET not in str(caught.value)
        yield str(caught.value)


def test_a_bucket_that_is_missing_or_refuses_says_so(
    bucket_server: str, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_buckets(bucket_server, monkeypatch)
    missing = RemoteRegistry("s3://another-bucket/models", BackendName.NATIVE)
    for said in failures(missing, artifact):
        assert said == "there is no bucket another-bucket: make it, or check the registry's URL"
    refused = RemoteRegistry(f"s3://{BUCKET}/models", BackendName.NATIVE)
    with refusing(bucket_server):
        for said in failures(refused, artifact):
            assert "credentials of this machine" in said


def test_secrets_of_a_url_are_not_told() -> None:
    assert without_secrets("ftp://me:secret@host:21/a?key=secret") == "ftp://host:21/a"
    assert without_secrets("/srv/models") == "/srv/models"


def test_a_place_that_fails_is_unavailable(tmp_path: Path, artifact: Artifact) -> None:
    (tmp_path / "shared").write_text("a file")
    with pytest.raises(UnavailableError, match="credentials"):
        RemoteRegistry(str(tmp_path / "shared"), BackendName.NATIVE).push(artifact, KEY, ignore)
