"""The process that keeps the books must not hold torch: a native crash may only kill the engine."""

from __future__ import annotations

import subprocess
import sys

import pytest

MODULES = [
    "worker.celery_app",
    "worker.embedded",
    "worker.service",
    "worker.tasks",
    "worker.dispatcher",
]


@pytest.mark.parametrize("module", MODULES)
def test_a_worker_process_imports_no_model_code(module: str) -> None:
    program = f"import sys, {module}; print(*(set(sys.modules) & {{'torch', 'transformers'}}))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
