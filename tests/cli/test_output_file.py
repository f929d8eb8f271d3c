"""Files are written whole or not at all."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli.output_file import atomic_writer, check_writable, write_json, write_json_lines
from models.errors import InputError, StorageFull


def test_lines_are_written_in_order_as_utf8(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    assert write_json_lines(path, [{"a": "ü"}, {"a": "\n"}]) == 2
    assert path.read_text(encoding="utf-8") == '{"a": "ü"}\n{"a": "\\n"}\n'


def test_a_line_stays_one_for_readers_that_know_more_line_ends(tmp_path: Path) -> None:
    text = "".join(map(chr, (*range(0x20), 0x85, 0x2028, 0x2029)))
    write_json_lines(tmp_path / "out.jsonl", [{"text": text}])
    [line] = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line) == {"text": text}


def test_a_failure_half_way_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("old\n")

    def broken() -> Iterator[dict[str, object]]:
        yield {"a": 1}
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        write_json_lines(path, broken())
    assert path.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [path]


def test_the_name_appears_only_after_the_block(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with atomic_writer(path) as stream:
        stream.write("{}\n")
        assert not path.exists()
    assert path.exists()


@contextmanager
def small_file_limit() -> Iterator[None]:
    """No file of this process may grow beyond 1000 bytes, as on a full disk.

    Not a fixture: pytest itself writes between the parts of a test, perhaps to a longer file.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(StorageFull, match="no space left"), small_file_limit():
        write_json_lines(tmp_path / "out.jsonl", [{"a": "x" * 100}] * 1000)
    assert list(tmp_path.iterdir()) == []


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    target.write_text("old")
    link.symlink_to(target)
    write_json(link, {"a": 1})
    assert link.is_symlink()
    assert json.loads(target.read_text()) == {"a": 1}


@pytest.mark.parametrize("name", ["missing/out.jsonl", ".", "/dev/null", "/dev/stdout"])
def test_a_place_that_cannot_be_written_is_refused_early(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError):
        check_writable(tmp_path / name)
