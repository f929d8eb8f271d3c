"""What is tried again and how often, and which error a bad answer is."""

from __future__ import annotations

import httpx2
import pytest

from models.errors import (
    IdempotencyConflict,
    InputError,
    NightshiftError,
    NotFoundError,
    SettingsError,
    StateError,
    StorageFull,
    UnavailableError,
)
from tests.client.scripted import Script, answer, batch, refusal

LOST = httpx2.ReadError("the connection broke")


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "invalid_value", InputError),
        (401, None, SettingsError),
        (403, None, SettingsError),
        (404, "not_found", NotFoundError),
        (409, "invalid_state", StateError),
        (409, "idempotency_conflict", IdempotencyConflict),
        (413, "file_too_large", InputError),
        (429, None, UnavailableError),
        (500, "internal_error", NightshiftError),
        (503, "database_unavailable", UnavailableError),
        (507, "storage_full", StorageFull),
    ],
)
def test_every_status_is_an_error_of_nightshift(
    pauses: list[float], status: int, code: str | None, kind: type[NightshiftError]
) -> None:
    script = Script([refusal(status, "what it is", code) for _ in range(5)])
    with script.client() as client, pytest.raises(NightshiftError, match="what it is") as raised:
        client.batch("batch_1")
    assert raised.type is kind or (kind is UnavailableError and issubclass(raised.type, kind))
    assert len(pauses) == (4 if kind is UnavailableError else 0)


def test_a_key_that_is_refused_is_named_by_its_variable() -> None:
    script = Script([refusal(401, "this key has expired")])
    with script.client("k") as client, pytest.raises(SettingsError, match="NIGHTSHIFT_API_KEY"):
        client.batch("batch_1")


@pytest.mark.parametrize(
    ("after", "shortest_s", "longest_s"),
    [("7", 7, 7), ("0", 0, 0.4), ("3600", 60, 60), ("Fri, 31 Dec 1999 23:59:59 GMT", 0, 0.4)],
)
def test_a_limit_is_waited_for_as_the_server_says(
    pauses: list[float], after: str, shortest_s: float, longest_s: float
) -> None:
    limited = refusal(429, "at most 60 a minute", **{"retry-after": after})
    script = Script([limited, answer(batch())])
    with script.client() as client:
        client.connection.json("POST", "/v1/files")  # not sent twice otherwise: nothing was done
    (pause,) = pauses
    assert shortest_s <= pause <= longest_s


def test_a_limit_is_not_waited_for_without_end(pauses: list[float]) -> None:
    script = Script([refusal(429, "too many", **{"retry-after": "9"}) for _ in range(9)])
    with script.client() as client, pytest.raises(UnavailableError, match="too many"):
        client.batch("batch_1")
    assert pauses == [9] * 4


def test_a_limit_that_no_waiting_helps_against_is_told_at_once(pauses: list[float]) -> None:
    headers = {"retry-after": "60", "x-should-retry": "false"}
    script = Script([refusal(429, "as much waits as this key allows", **headers)])
    with script.client() as client, pytest.raises(UnavailableError, match="as much waits"):
        client.batch("batch_1")
    assert pauses == []


@pytest.mark.parametrize("problem", [LOST, refusal(503), httpx2.Response(502)])
def test_what_may_have_been_done_is_not_done_twice(
    pauses: list[float], problem: httpx2.Response | Exception
) -> None:
    script = Script([problem])
    with script.client() as client, pytest.raises(UnavailableError):
        client.connection.json("POST", "/v1/batches")
    assert (len(script.asked), pauses) == (1, [])


@pytest.mark.parametrize("problem", [LOST, refusal(503), httpx2.Response(504)])
def test_what_changes_nothing_is_tried_again(
    pauses: list[float], problem: httpx2.Response | Exception
) -> None:
    script = Script([problem] * 4 + [answer(batch())])
    with script.client() as client:
        assert client.batch("batch_1")["id"] == "batch_1"
    assert pauses == sorted(pauses)
    assert 2.9 < sum(pauses) < 4


@pytest.mark.parametrize(
    "foreign",
    [
        httpx2.Response(200, text="<html>"),
        httpx2.Response(301, headers={"location": "/elsewhere"}),
        httpx2.Response(404, text="no such page"),
        httpx2.Response(500, json={"detail": "?"}),
        httpx2.Response(404, json=["?"]),
    ],
)
def test_another_server_is_told_from_ours(foreign: httpx2.Response) -> None:
    script = Script([foreign])
    expected = f"answers with {foreign.status_code} and not as a Nightshift server does"
    with script.client() as client, pytest.raises(UnavailableError, match=expected):
        client.batch("batch_1")
