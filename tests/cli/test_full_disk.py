"""With no space left, commands say so in a sentence, leave no torn file, and can be run again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from models.database import connect_database
from models.store.batches import finalize_batch, list_batches
from tests.cli.console import Console, assert_one_sentence, command_line
from tests.cli.demo import long_requests, read_lines, write_lines
from tests.store.builders import submit, work_off

EXIT_CODE = 7
TIMEOUT_S = 120
WITH_LIMIT = """
import os, resource, sys
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
os.execv(sys.argv[2], sys.argv[2:])
"""


def run_with_limit(
    console: Console, limit_bytes: int, *arguments: str | Path
) -> subprocess.CompletedProcess[str]:
    """Run a command none of whose files may grow beyond the limit, as on a full disk."""
    return subprocess.run(
        [sys.executable, "-c", WITH_LIMIT, str(limit_bytes), *command_line(*arguments)],
        env=console.environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT_S,
        check=False,
    )


def database_of(console: Console) -> Path:
    """The console's database, made if it is not there."""
    path = console.home / "nightshift.db"
    connect_database(f"sqlite:///{path}", create=True).close()
    return path


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_results_that_do_not_fit_leave_the_old_file(console: Console, tmp_path: Path) -> None:
    with connect_database(f"sqlite:///{database_of(console)}") as database:
        batch = submit(database, 50)
        work_off(database)
        finalize_batch(database, batch.id)
    out = tmp_path / "out" / "answers.jsonl"
    out.parent.mkdir()
    out.write_text("old\n")
    ended = run_with_limit(console, 1000, "results", batch.id, "-o", out)
    assert ended.returncode == EXIT_CODE
    assert_one_sentence(ended, "no space left", str(out))
    assert out.read_text() == "old\n"
    assert names_in(out.parent) == ["answers.jsonl"]
    assert console.run("results", batch.id, "-o", out).returncode == 0
    assert len(read_lines(out)) == 50


def test_a_submission_that_does_not_fit_is_not_there(demo_console: Console, tmp_path: Path) -> None:
    path = database_of(demo_console)
    prompts = write_lines(tmp_path / "in.jsonl", long_requests(2000))
    command = ("submit", prompts, "--model", "demo-model", "--weights", "int8")
    ended = run_with_limit(demo_console, path.stat().st_size, *command)
    assert ended.returncode == EXIT_CODE
    assert_one_sentence(ended, "free some space")
    with connect_database(f"sqlite:///{path}") as database:
        assert list_batches(database) == []
    assert demo_console.run(*command).returncode == 0


def test_a_run_that_does_not_fit_leaves_no_file_and_can_be_run_again(
    demo_console: Console, tmp_path: Path
) -> None:
    path = database_of(demo_console)
    prompts = write_lines(tmp_path / "in.jsonl", long_requests(400))
    out = tmp_path / "out" / "answers.jsonl"
    out.parent.mkdir()
    command = ("run", prompts, "--model", "demo-model", "--weights", "int8", "-o", out)
    ended = run_with_limit(demo_console, path.stat().st_size, *command)
    assert ended.returncode == EXIT_CODE
    assert "Traceback" not in ended.stderr
    *_, last = ended.stderr.strip().splitlines()
    assert last.startswith("nightshift: ") and "free some space" in last
    assert names_in(out.parent) == []
    assert demo_console.run(*command).returncode == 0
    assert len(read_lines(out)) == 400
