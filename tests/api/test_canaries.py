"""`/v1/canaries`: the newest of each model, for every caller."""

from __future__ import annotations

import httpx2

from models.database import Database
from models.store.canaries import record_canary
from tests.api.serving import serving
from tests.store.builders import MODEL


def test_the_newest_canary_is_beside_what_was_usual(database: Database) -> None:
    for n_exact, speed in ((4, 60.0), (3, 50.0)):
        record_canary(
            database, MODEL, n_expected=4, n_exact=n_exact, output_tokens_per_second=speed
        )
    with serving(database) as url:
        page = httpx2.get(f"{url}/v1/canaries").json()
    (shown,) = page.pop("data")
    assert page == {
        "object": "list", "first_id": "demo:int8", "last_id": "demo:int8", "has_more": False
    }  # fmt: skip
    assert shown.pop("measured_at") > 1.7e9
    assert shown == {
        "id": "demo:int8",
        "object": "canary",
        "expected": 4,
        "exact": 3,
        "tokens_per_second": 50.0,
        "earlier_exact_ratio": 1.0,
        "earlier_tokens_per_second": 60.0,
    }


def test_no_canary_is_an_empty_list(database: Database) -> None:
    with serving(database) as url:
        assert httpx2.get(f"{url}/v1/canaries").json()["data"] == []
