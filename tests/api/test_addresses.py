"""An address that a database cannot even look for is refused like any other bad value."""

from __future__ import annotations

import pytest

from tests.api.running import Served, error_of


@pytest.mark.parametrize(
    "path",
    [
        "/v1/batches/%00",
        "/v1/batches/%00/events",
        "/v1/batches/%00/results",
        "/v1/batches?after=%00",
        "/v1/files/file-%00",
        "/v1/files/file-%00/content",
        "/v1/files?purpose=%00",
    ],
)
def test_a_nul_character_is_refused(served: Served, path: str) -> None:
    assert error_of(served.get(path)) == (400, "invalid_value", None)


@pytest.mark.parametrize("course", ["cancel", "retry", "pause", "resume"])
def test_a_nul_character_is_refused_in_posts(served: Served, course: str) -> None:
    answer = served.post(f"/v1/batches/%00/{course}", {})
    assert error_of(answer) == (400, "invalid_value", None)
