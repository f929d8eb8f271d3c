"""What verify finds, what gc takes, and that nobody takes what a process has loaded."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from models.errors import SettingsError, StateError
from models.model_key import ModelKey, Weights
from tests.llm.tiny_models import make_reference, save_reference
from tests.llm.tiny_tokenizers import make_byte_level
from worker.llm.add import add_model
from worker.llm.artifact import MANIFEST_NAME
from worker.llm.pull import partial_place
from worker.llm.registry import Registry, lock_of
from worker.llm.registry_care import collect_garbage, verify_registry

INT8, INT4 = (ModelKey("tiny", weights) for weights in (Weights.INT8, Weights.INT4))
LOADER = """
import sys
from pathlib import Path
from worker.llm.artifact_use import mark_used
mark_used(Path(sys.argv[1]))
print("marked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    folder = make_byte_level(save_reference(make_reference(vocab_size=400), tmp_path / "source"))
    made = Registry(tmp_path / "registry")
    for key in (INT8, INT4):
        add_model(made, str(folder), name=key.name, weights=key.weights)
    return made


@pytest.fixture
def loader(registry: Registry) -> Iterator[subprocess.Popen[str]]:
    """A process that has the int8 artifact loaded until its input ends."""
    command = [sys.executable, "-c", LOADER, str(registry.path(INT8))]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, encoding="utf-8") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "marked\n"
        yield process
        process.kill()


def removed(registry: Registry, days: float | None = None) -> list[tuple[str, str]]:
    found = collect_garbage(registry.root, unused_for_days=days)
    return [(each.folder.name, each.reason) for each in found]


def test_whole_artifacts_are_left(registry: Registry) -> None:
    assert [each.problem for each in verify_registry(registry.root)] == [None, None]
    assert removed(registry) == []
    assert len(registry.entries()) == 2


def test_one_flipped_byte_is_found(registry: Registry) -> None:
    (tensors,) = registry.path(INT8).glob("*.safetensors")
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    int4, int8 = verify_registry(registry.root, "tiny")
    assert int4.problem is None
    assert int8.problem is not None
    assert "is damaged" in int8.problem
    assert list(verify_registry(registry.root, "other")) == []


def test_a_manifest_that_cannot_be_read_is_found_and_collected(registry: Registry) -> None:
    (registry.path(INT4) / MANIFEST_NAME).write_text("{")
    assert [each.problem is None for each in verify_registry(registry.root)] == [False, True]
    assert collect_garbage(registry.root, dry_run=True)[0].bytes > 1000
    assert registry.path(INT4).exists()
    assert removed(registry) == [("int4", "damaged")]
    assert not registry.path(INT4).exists()


@pytest.mark.parametrize("news", [{"format": 99, "more": 1}, {"more": 1}, {"weights": "int6"}])
def test_an_artifact_of_another_version_is_told_and_left(
    news: dict[str, object], registry: Registry
) -> None:
    manifest = registry.path(INT4) / MANIFEST_NAME
    said = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(said | news))
    assert [each.problem is None for each in verify_registry(registry.root)] == [False, True]
    assert removed(registry, days=0) == [("int8", "not loaded for 0 days")]
    assert manifest.exists()


def test_what_is_no_artifact_of_the_registry_is_left(registry: Registry, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    for folder in (mine / "int8", registry.root / "tiny" / "notes"):
        folder.mkdir(parents=True)
        (folder / "precious").touch()
    (registry.root / "linked").symlink_to(mine)
    (registry.root / "tiny" / "bf16").symlink_to(mine / "int8")
    assert removed(registry, days=0) == [
        ("int4", "not loaded for 0 days"),
        ("int8", "not loaded for 0 days"),
    ]
    assert list(verify_registry(registry.root)) == []
    assert (mine / "int8" / "precious").exists()
    assert (registry.root / "tiny" / "notes" / "precious").exists()


@pytest.mark.parametrize("name", ["..", "/", "*", "[", "../registry/tiny"])
def test_a_model_is_verified_by_its_name_alone(name: str, registry: Registry) -> None:
    assert list(verify_registry(registry.root, name)) == []


def test_a_disk_that_fails_is_found(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> str:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr("worker.llm.artifact.file_sha256", fail)
    problems = [each.problem for each in verify_registry(registry.root)]
    assert len(problems) == 2
    assert all(problem is not None and "Input/output error" in problem for problem in problems)


def test_what_another_process_removes_meanwhile_is_passed_over(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = partial_place(registry.path(INT8))
    partial.mkdir()

    @contextmanager
    def taken_before(_place: Path) -> Iterator[None]:
        for folder in (registry.path(INT4), partial):
            shutil.rmtree(folder, ignore_errors=True)
        yield

    monkeypatch.setattr("worker.llm.registry_care._nobody_at", taken_before)
    assert removed(registry) == []


def test_what_is_removed_while_it_is_verified_is_not_damaged(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove(path: Path) -> str:
        registry.remove(INT4 if path.parent.name == "int4" else INT8)
        return ""

    monkeypatch.setattr("worker.llm.artifact.file_sha256", remove)
    assert list(verify_registry(registry.root)) == []


def test_downloads_that_broke_off_go_unless_one_runs(registry: Registry) -> None:
    partial = partial_place(registry.path(INT8))
    partial.mkdir()
    (partial / "x").write_bytes(b"12345")
    assert removed(registry) == []  # somebody may go on with it
    days_ago = time.time() - 2 * 86400
    for path in (partial / "x", partial):
        os.utime(path, (days_ago, days_ago))
    with lock_of(registry.path(INT8)):
        assert removed(registry) == []
    assert removed(registry) == [(partial.name, "a download that broke off")]
    assert not partial.exists()


def test_what_was_not_loaded_for_long_goes(
    registry: Registry, loader: subprocess.Popen[str]
) -> None:
    long_ago = time.time() - 10 * 86400
    for key in (INT8, INT4):
        os.utime(registry.path(key) / MANIFEST_NAME, (long_ago, long_ago))
    loader.kill()
    loader.wait()
    assert removed(registry, days=11) == []
    assert removed(registry, days=9) == [("int4", "not loaded for 10 days")]
    assert [entry.key for entry in registry.entries()] == [INT8]  # it was loaded just now


def test_nobody_removes_what_is_loaded(registry: Registry, loader: subprocess.Popen[str]) -> None:
    (registry.path(INT8) / MANIFEST_NAME).write_text("{")
    assert removed(registry, days=0) == [("int4", "not loaded for 0 days")]
    with pytest.raises(StateError, match="stop its workers"):
        registry.remove(INT8)
    loader.kill()
    loader.wait()
    assert removed(registry) == [("int8", "damaged")]


def test_who_may_only_read_the_registry_is_heeded_too(registry: Registry) -> None:
    as_nobody = LOADER.replace("\nmark_used(", "\nos.getuid() or os.setuid(65534)\nmark_used(")
    with TemporaryDirectory() as place:  # unlike pytest's folders others may be let in
        Path(place).chmod(0o755)
        shared = Registry(Path(shutil.move(registry.root, place)))
        shared.path(INT8).parent.chmod(0o555)
        command = [sys.executable, "-c", f"import os{as_nobody}", str(shared.path(INT8))]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, encoding="utf-8") as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "marked\n"
            shared.path(INT8).parent.chmod(0o755)
            assert removed(shared, days=0) == [("int4", "not loaded for 0 days")]
            process.kill()


def test_a_registry_that_cannot_be_written_is_told(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(place: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(place))

    monkeypatch.setattr("worker.llm.registry_care.lock_of", refuse)
    with pytest.raises(SettingsError, match=r"cannot be written \(Permission denied\)"):
        collect_garbage(registry.root, dry_run=True)


def test_a_registry_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert list(verify_registry(tmp_path / "none")) == []
    assert collect_garbage(tmp_path / "none") == []
