"""An engine that was started before anybody asked for one."""

from __future__ import annotations

import pytest

from models.errors import EngineCrashed, SettingsError
from models.model_key import ModelKey, Weights
from models.settings import load_settings
from tests.jobs.scripted_engine import Script
from worker.spawning import engine_config, started_early


def test_the_first_to_ask_gets_the_engine_that_loads_already(script: Script) -> None:
    with started_early(script.spawn) as spawn:
        (early,) = script.engines
        assert spawn() is early
        later = spawn()
        assert script.engines == [early, later]
        assert later is not early
    early.wait_ready(1)  # whoever took an engine ends it


def test_an_engine_that_nobody_took_is_ended(script: Script) -> None:
    with pytest.raises(OSError, match="no input"), started_early(script.spawn):
        raise OSError("no input")
    with pytest.raises(EngineCrashed):
        script.engines[0].wait_ready(1)


def test_the_precision_of_ipex_is_refused_for_another_backend() -> None:
    settings = load_settings({"NIGHTSHIFT_IPEX_LOWP": "int8"})
    with pytest.raises(SettingsError, match="NIGHTSHIFT_IPEX_LOWP does nothing for the native"):
        engine_config(settings, ModelKey("model", Weights.INT8))
