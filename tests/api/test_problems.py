"""Errors that nobody foresaw: they are answered like all others, and can be found in the log."""

from __future__ import annotations

import logging
from pathlib import Path

import httpx2
import pytest

from api.routes import models
from models.database import upgrade
from tests.api.running import error_of
from tests.api.serving import serving


def test_a_fault_of_ours_has_the_envelope_and_the_requests_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_database: object) -> None:
        raise RuntimeError("nobody thought of this")

    monkeypatch.setattr(models, "list_models", fail)
    with (
        caplog.at_level(logging.ERROR, logger="api.problems"),
        upgrade(f"sqlite:///{tmp_path / 'nightshift.db'}") as database,
        serving(database, home=tmp_path) as url,
    ):
        answer = httpx2.get(f"{url}/v1/models", headers={"x-request-id": "mine"})
    assert error_of(answer) == (500, "internal_error", None)
    assert "nobody thought" not in answer.text
    assert answer.headers["x-request-id"] == "mine"
    (logged,) = [record for record in caplog.records if record.name == "api.problems"]
    assert vars(logged)["request"] == "mine"


def test_nobody_writes_lines_of_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.INFO, logger="api.request_ids"),
        upgrade(f"sqlite:///{tmp_path / 'nightshift.db'}") as database,
        serving(database, home=tmp_path) as url,
    ):
        for path in ("/v1/files/a%0Aforged", "/v1/batches:estimate"):
            assert httpx2.get(f"{url}{path}").status_code in {404, 405}
    logged = [each.getMessage() for each in caplog.records if each.name == "api.request_ids"]
    assert logged == ["GET /v1/files/a%0Aforged", "GET /v1/batches:estimate"]
