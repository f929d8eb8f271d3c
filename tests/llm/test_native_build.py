"""Compiling the kernels: once, and where they cannot be had, a reason instead of a failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.errors import KernelsUnavailable
from tests.llm.native_support import HAVE_CPU, needs_cpu
from worker.llm.native.build import library_path, load_library
from worker.llm.native.kernels import Kernels, open_kernels


def test_without_the_cpu_or_a_compiler_the_reason_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    wanted = "install g++" if HAVE_CPU else "lacks"
    with pytest.raises(KernelsUnavailable, match=wanted):
        library_path(tmp_path)


@needs_cpu
def test_the_library_is_compiled_once(kernels: Kernels, kernel_folder: Path) -> None:  # noqa: ARG001
    made = library_path(kernel_folder)
    before = made.stat().st_mtime_ns
    assert library_path(kernel_folder) == made
    assert made.stat().st_mtime_ns == before
    assert list(kernel_folder.glob("*.so")) == [made]


@needs_cpu
def test_a_folder_that_cannot_be_written_is_a_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KernelsUnavailable, match="cannot be compiled"):
        library_path(tmp_path / "file" / "kernels")


@needs_cpu
def test_a_folder_that_cannot_be_looked_into_is_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", refuse)  # as root, no folder refuses
    assert "Permission denied" in open_kernels(tmp_path / "kernels").reason


@needs_cpu
def test_a_compiler_that_fails_in_another_encoding_is_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\nprintf 'no \\253space\\273' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "space" in open_kernels(tmp_path / "kernels").reason


@needs_cpu
def test_a_file_that_is_no_library_is_a_reason(tmp_path: Path, kernel_folder: Path) -> None:
    (tmp_path / library_path(kernel_folder).name).write_text("no library")
    opened = open_kernels(tmp_path)
    assert opened.library is None
    assert "cannot be loaded" in opened.described(steps=False, matmuls=False)


@needs_cpu
def test_a_library_that_cannot_be_loaded_is_a_reason(tmp_path: Path) -> None:
    library_path(tmp_path).write_bytes(b"not a library")
    with pytest.raises(KernelsUnavailable, match="cannot be loaded"):
        load_library(tmp_path)
