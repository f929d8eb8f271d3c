"""The commands' store over HTTP where a server has to be in the middle of something."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import cast

import httpx2
import pytest

from cli.remote_store import RemoteStore
from models.errors import UnavailableError
from models.settings import load_settings
from models.states import ResultStatus
from nightshift import Batch
from tests.client.scripted import Answer, Script, answer, batch, page, result

RUNNING = cast("Batch", batch("in_progress"))


def store_over(*answers: Answer) -> RemoteStore:
    return RemoteStore(Script([*answers]).client(), load_settings({}))


@pytest.mark.parametrize(
    ("status", "ids"),
    [(ResultStatus.OK, ["r4", "r2", "r1"]), (ResultStatus.ERROR, ["r3"])],
)
def test_results_of_a_running_batch_come_in_the_order_of_its_input(
    status: ResultStatus, ids: list[str]
) -> None:
    first = page("in_progress", result(1), result(2))
    second = page("in_progress", result(3, status_code=400), result(4))
    lines = list(store_over(first, second, page("in_progress")).lines(RUNNING, status))
    assert [line["custom_id"] for line in lines] == ids
    assert all("cursor" not in line for line in lines)


def test_following_gives_lines_of_one_kind_as_they_come() -> None:
    failed = {**result(2), "response": None, "error": {"code": "worker_lost", "message": "?"}}
    pages = [page("completed", result(1), failed, result(3)), page("completed")]
    lines = store_over(*pages).follow(RUNNING, ResultStatus.OK)
    assert [line["custom_id"] for line in lines] == ["r1", "r3"]


def test_retrying_gives_the_new_batch() -> None:
    fresh = batch("in_progress", id="batch_2")
    assert store_over(answer(fresh)).retry("batch_1") == fresh


class _BreaksOff(httpx2.SyncByteStream):
    def __iter__(self) -> Iterator[bytes]:
        yield json.dumps({"custom_id": "r1"}).encode() + b'\n{"custom_'
        raise httpx2.ReadError("reset by peer")


def test_a_download_that_breaks_off_is_an_error_and_no_end() -> None:
    ended = cast("Batch", batch("completed", output_file_id="file-1-output"))
    store = store_over(httpx2.Response(200, stream=_BreaksOff()))
    lines = store.lines(ended, ResultStatus.OK)
    assert next(lines) == {"custom_id": "r1"}
    with pytest.raises(UnavailableError, match="broke off"):
        next(lines)
