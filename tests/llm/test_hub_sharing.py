"""Artifacts are shared through a repository of the Hub: one commit each, and nobody's is lost."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from models.backend_name import BackendName
from models.errors import NightshiftError, UnavailableError
from models.model_key import ModelKey, Weights
from tests.cli.console import assert_one_sentence, command_line
from tests.llm.shared_files import KEY, FilesOfHub, ignore, use_hub
from tests.llm.writable_hub import READER, REPOSITORY, WRITER, WritableHub
from worker.llm.artifact import Artifact
from worker.llm.pull import pull_artifact
from worker.llm.registry import Registry
from worker.llm.remote_registry import RemoteRegistry

# The Hub's own client uploads in a way that its HTTP library advises against.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

OTHER = ModelKey("other", Weights.INT8)
URL = f"hf://{REPOSITORY}"


@pytest.fixture
def remote(writable_hub: WritableHub, monkeypatch: pytest.MonkeyPatch) -> RemoteRegistry:
    use_hub(writable_hub, monkeypatch)
    return RemoteRegistry(FilesOfHub(writable_hub).url, BackendName.NATIVE)


def test_a_push_is_one_commit_and_none_when_all_is_there(
    remote: RemoteRegistry, artifact: Artifact, writable_hub: WritableHub
) -> None:
    remote.push(artifact, KEY, ignore)
    assert writable_hub.commits == ["initial commit", "Push tiny:int8"]
    assert 0 < writable_hub.uploads <= len(artifact.manifest.files)
    uploads = writable_hub.uploads
    assert remote.push(artifact, KEY, ignore).files_sent == 0
    assert remote.push(artifact, OTHER, ignore).files_sent == 0
    assert writable_hub.commits[2:] == ["Push other:int8"]
    assert writable_hub.uploads == uploads


def test_what_was_uploaded_before_a_push_broke_off_is_not_sent_again(
    remote: RemoteRegistry, artifact: Artifact, writable_hub: WritableHub
) -> None:
    def breaks_off() -> None:
        raise ConnectionAbortedError

    writable_hub.before_commit = breaks_off
    with pytest.raises(UnavailableError):
        remote.push(artifact, KEY, ignore)
    assert writable_hub.files == {}
    assert remote.keys("tiny") == []
    uploads = writable_hub.uploads
    writable_hub.before_commit = lambda: None
    remote.push(artifact, KEY, ignore)
    assert remote.keys("tiny") == [KEY]
    assert writable_hub.uploads == uploads


def test_a_push_is_decided_anew_when_another_was_faster(
    remote: RemoteRegistry, artifact: Artifact, writable_hub: WritableHub, registry: Registry
) -> None:
    """What it found there may be gone since."""
    remote.push(artifact, OTHER, ignore)
    faster = [None]

    def removes_all() -> None:
        if faster:
            faster.pop()
            writable_hub.files.clear()
            writable_hub.write("README", b"")

    writable_hub.before_commit = removes_all
    assert remote.push(artifact, KEY, ignore).files_sent == len(artifact.manifest.files)
    assert pull_artifact(remote, registry, KEY, ignore).digest == artifact.digest


def test_a_repository_that_never_rests_is_said(
    remote: RemoteRegistry, artifact: Artifact, writable_hub: WritableHub
) -> None:
    writable_hub.before_commit = lambda: writable_hub.write("README", b"")
    with pytest.raises(UnavailableError, match="all the time: try again later"):
        remote.push(artifact, KEY, ignore)
    assert set(writable_hub.files) == {"README"}


def said(remote: RemoteRegistry, artifact: Artifact) -> list[str]:
    """What reading, and then pushing, fails with."""
    found = []
    for attempt in (lambda: remote.manifest(KEY), lambda: remote.push(artifact, KEY, ignore)):
        with pytest.raises(NightshiftError) as caught:
            attempt()
        assert "\n" not in str(caught.value)
        assert not any(token in str(caught.value) for token in (READER, WRITER, "hf_wrong"))
        found.append(str(caught.value))
    return found


def test_what_the_hub_refuses_is_one_sentence_without_the_token(
    writable_hub: WritableHub, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(url: str, token: str) -> RemoteRegistry:
        use_hub(writable_hub, monkeypatch, token)
        return RemoteRegistry(url, BackendName.NATIVE)

    for said_once in said(opened("hf://all-nodes/nothing", WRITER), artifact):
        assert "no repository hf://all-nodes/nothing: make it on the Hub" in said_once
    for said_once in said(opened(f"hf://datasets/{REPOSITORY}", WRITER), artifact):
        assert "no repository hf://datasets/" in said_once
    for said_once in said(opened(URL, ""), artifact):
        assert "HF_TOKEN" in said_once
    for said_once in said(opened(f"{URL}@nowhere", WRITER), artifact):
        assert "no such branch" in said_once
    for said_once in said(opened(URL, "hf_wrong"), artifact):
        assert "(401): set HF_TOKEN" in said_once
    reading, writing = said(opened(URL, READER), artifact)
    assert "nightshift model push" in reading
    assert "(403): set HF_TOKEN" in writing
    opened(URL, WRITER).push(artifact, KEY, ignore)
    writable_hub.gated = True
    with pytest.raises(UnavailableError, match="is gated: ask for access"):
        opened(URL, READER).manifest(KEY)


def test_the_command_pushes_and_pulls_with_the_variables_of_the_hub(
    writable_hub: WritableHub, artifact: Artifact, tmp_path: Path
) -> None:
    def call(home: Path, token: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        variables = {
            "HF_ENDPOINT": writable_hub.endpoint,
            "HF_TOKEN": token,
            "HF_HUB_DISABLE_XET": "1",
            "NIGHTSHIFT_HOME": str(home),
            "NIGHTSHIFT_REGISTRY_URL": URL,
        }
        return subprocess.run(
            command_line("model", *arguments),
            env=os.environ | variables, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    maker = artifact.folder.parents[2]
    pushed = call(maker, WRITER, "push", "tiny")
    assert pushed.returncode == 0, pushed.stderr
    assert "files, " in pushed.stderr
    assert "B/s" not in pushed.stderr  # a bar of the Hub's client
    assert "sent 0 of " in call(maker, WRITER, "push", "tiny").stderr
    pulled = call(tmp_path, READER, "pull", "tiny")
    assert (pulled.returncode, pulled.stdout) == (0, "tiny:int8\n")
    assert_one_sentence(call(tmp_path, "hf_wrong", "pull", "tiny"), "HF_TOKEN")
