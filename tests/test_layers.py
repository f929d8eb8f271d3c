"""The layer rule: who may import whom, shown to hold and shown to be noticed when broken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.layers import RULES, python_files, violations

ROOT = Path(__file__).resolve().parent.parent


def test_no_import_crosses_the_layers() -> None:
    assert violations(ROOT) == []


def test_every_rule_governs_files_that_exist() -> None:
    named = {name for rule in RULES for name in (*rule.where, *rule.except_in)} - {"api"}
    assert [name for name in sorted(named) if not list(python_files(ROOT, (name,)))] == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("models/states.py", "import torch"),
        ("models/store/submit.py", "import torch.nn as nn"),
        ("models/wire/input.py", "def read():\n    from transformers import AutoTokenizer"),
        ("models/settings.py", "from sqlalchemy import select"),
        ("api/main.py", "import torch"),
        ("api/routes/batches.py", "from worker.tasks import serve_chunk"),
        ("worker/engine/engine.py", "from sqlalchemy.orm import Session"),
        ("worker/engine/engine.py", "from models import settings"),
        ("worker/engine/engine.py", "from ..jobs import session"),
        ("worker/engine/scheduler.py", "if True:\n    import torch"),
        ("worker/llm/registry.py", "import importlib\nimportlib.import_module('torch')"),
        ("worker/backends/server.py", "from models.store import commit"),
        ("worker/jobs/session.py", "import sqlalchemy as sa"),
        ("worker/celery_app.py", "def start():\n    __import__('torch')"),
        ("worker/tasks.py", "from cli.app import app"),
        ("cli/app.py", "import torch"),
        ("nightshift/client.py", "from models.settings import Settings"),
        ("nightshift/client.py", "from models import errors, states"),
        ("api/app.py", "from nightshift import Client"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, file: str, source: str) -> None:
    planted = tmp_path / file
    planted.parent.mkdir(parents=True)
    planted.write_text(source)
    found = violations(tmp_path)
    assert found
    assert all(line.startswith(f"{file}:") for line in found)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("models/store/submit.py", "from sqlalchemy import select"),
        ("worker/engine/engine.py", "import torch\nfrom worker.llm import llama"),
        ("worker/jobs/session.py", "from models.store.leases import claim_next"),
        ("models/wire/input.py", "import torchlight\nfrom .lines import Line"),
        (
            "nightshift/client.py",
            "from models import errors\nfrom models.errors import NotFoundError",
        ),
    ],
)
def test_an_allowed_import_is_not_reported(tmp_path: Path, file: str, source: str) -> None:
    planted = tmp_path / file
    planted.parent.mkdir(parents=True)
    planted.write_text(source)
    assert violations(tmp_path) == []


def test_models_queue_and_command_line_load_no_torch() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in python_files(ROOT, ("models",))
        if "migrations" not in path.parts  # those run inside Alembic only
        and path.name != "__init__.py"
    ]
    modules += ["worker.celery_app", "worker.tasks", "worker.jobs", "cli.__main__", "cli.app"]
    script = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print(*sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
