"""Fixtures that the API's tests share with those of the command line and of the store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from models.database import Database
from models.model_key import ModelKey
from models.store.views import ServedModel
from models.store.workers import register_model
from tests.api.hooks import receiver
from tests.api.running import served
from tests.api.serving import EVERYWHERE, serving
from tests.cli.conftest import demo_console, models_home
from tests.store.conftest import database, postgres_database, postgres_url

__all__ = [
    "database",
    "demo_console",
    "models_home",
    "postgres_database",
    "postgres_url",
    "receiver",
    "served",
]


@pytest.fixture
def url(database: Database, tmp_path: Path) -> Iterator[str]:
    """An API that asks for keys; batches may name the model `demo`, and no worker runs them."""
    model = ModelKey.parse("demo:int8")
    register_model(
        database, ServedModel(key=model, artifact="x", architecture="llama", context_tokens=64)
    )
    with serving(database, host=EVERYWHERE, home=tmp_path) as address:
        yield address
