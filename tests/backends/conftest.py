"""One tiny artifact for all tests of backends."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backends.tiny_artifact import write_tiny_artifact


@pytest.fixture(scope="session")
def tiny_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model without a generation_config.json."""
    return write_tiny_artifact(tmp_path_factory.mktemp("tiny"))
