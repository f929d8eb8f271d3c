"""The fault tests are red when the protocol is broken: otherwise their green would mean nothing.

Each mutation is made in a copy of the project, where one of its tests then has to fail, and to
say why in the checker's words.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.celery.cluster import PROJECT

COPIED = ("api", "cli", "models", "nightshift", "tests", "tools", "worker", "pyproject.toml")
TESTS_FAILED = 1


@dataclass(frozen=True, slots=True)
class Mutation:
    """Edits of files, and the test that has to see it with a sentence of the checker."""

    name: str
    edits: tuple[tuple[str, str, str], ...]  # file, what stands there, what shall stand there
    test: str
    sentence: str


FREEZES = "tests/faults/test_worker_faults.py::test_a_worker_that_freezes_writes_nothing_late"
CUTS = "tests/faults/test_database_faults.py::test_lost_answers_to_commit_are_no_lost_work"

MUTATIONS = (
    Mutation(
        "the epoch is not checked",
        (
            (
                "models/store/leases.py",
                'chunks.c.epoch == bindparam("of_epoch")',
                'chunks.c.epoch >= 0 * bindparam("of_epoch", type_=Double())',
            ),
        ),
        f"{FREEZES}[before_commit]",
        "had two holders",
    ),
    Mutation(
        "the fence is outside of the transaction",
        (
            (
                "models/store/commit.py",
                "            hold_lease(connection, lease, ttl_s)\n",
                "            database.transact(lambda apart: hold_lease(apart, lease, ttl_s))\n",
            ),
        ),
        f"{FREEZES}[after_fence]",
        "was written outside of its lease",
    ),
    Mutation(
        "results are not unique",
        (
            (
                "models/migrations/versions/0001_first_schema.py",
                '        sa.PrimaryKeyConstraint("batch_id", "idx", name=op.f("pk_results")),\n',
                "",
            ),
            (
                "models/store/transitions.py",
                "ignoring = inserting.on_conflict_do_nothing(index_elements=key)\n",
                "ignoring = inserting.on_conflict_do_nothing(index_elements=key)\n"
                '    if table.name == "results":\n        ignoring = inserting\n',
            ),
        ),
        f"{CUTS}[results]",
        "has 2 results",
    ),
)


def mutated_copy(folder: Path, mutation: Mutation) -> Path:
    """The project with the mutation in it."""
    for name in COPIED:
        source = PROJECT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, folder / name, ignore=ignored)
        else:
            shutil.copy(source, folder / name)
    for name, before, after in mutation.edits:
        file = folder / name
        text = file.read_text()
        assert text.count(before) == 1, f"{name} does not have this once: {before}"
        file.write_text(text.replace(before, after))
    return folder


@pytest.mark.matrix
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_broken_protocol_is_seen(tmp_path: Path, mutation: Mutation) -> None:
    copy = mutated_copy(tmp_path / "copy", mutation)
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "matrix or not matrix", mutation.test],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == TESTS_FAILED, ended.stdout
    assert mutation.sentence in ended.stdout
