"""What can be done on the page: upload, create, cancel, retry, download, page through rows."""

from __future__ import annotations

import json
import re
from pathlib import Path

from playwright.sync_api import Page, expect

from models.database import Database
from models.projections import OutputKind, read_output
from models.settings import Settings
from models.states import BatchState
from models.store.batches import get_batch, list_batches
from models.store.submit import submit_batch
from tests.page.batches import CONTEXT, batch_with_failures, serve_model
from tests.page.visitor import Visitor, tab_to
from tests.store.builders import claim, commit, refused, submission, submit


def write_requests(folder: Path, n_requests: int) -> Path:
    """A file that a batch can be made of."""
    lines = [
        {
            "custom_id": f"r{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "demo", "messages": [{"role": "user", "content": f"{number}?"}]},
        }
        for number in range(n_requests)
    ]
    path = folder / "requests.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def accept_dialogs(page: Page) -> None:
    page.on("dialog", lambda dialog: dialog.accept())


def test_the_keyboard_alone_is_enough(database: Database, visitor: Visitor, tmp_path: Path) -> None:
    serve_model(database)
    page = visitor.open("/")
    accept_dialogs(page)
    # Beforehand: Chromium is told about the listener on the way.
    page.on("filechooser", lambda chooser: chooser.set_files(write_requests(tmp_path, 9)))
    tab_to(page, "Requests, as JSON Lines")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Requests, as JSON Lines")).to_have_value(re.compile("requests.jsonl"))
    tab_to(page, "Upload")
    page.keyboard.press("Enter")
    expect(page.get_by_label("File", exact=True)).to_contain_text("requests.jsonl")
    expect(page.get_by_role("button", name="Create batch")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="requests.jsonl")).to_be_visible()
    expect(page.locator("#summary")).to_contain_text("0 of 9")
    tab_to(page, "Batches")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Latest batches")).to_be_visible()
    tab_to(page, "requests.jsonl")
    page.keyboard.press("Enter")
    expect(page.locator("#summary")).to_contain_text("0 of 9")
    tab_to(page, "Cancel requests.jsonl")
    page.keyboard.press("Enter")
    expect(page.locator("#summary .badge")).to_have_text("cancelled")
    (batch,) = list_batches(database)
    assert (batch.state, batch.failed) == (BatchState.CANCELLED, 9)


def test_a_file_that_cannot_be_taken_is_told(visitor: Visitor, tmp_path: Path) -> None:
    page = visitor.open("/")
    field = page.get_by_label("Requests, as JSON Lines")
    (tmp_path / "empty.jsonl").touch()
    field.set_input_files(tmp_path / "empty.jsonl")
    page.get_by_role("button", name="Upload").click()
    expect(page.get_by_role("alert")).to_contain_text("the file is empty")
    visitor.complaints.clear()  # the browser's own about the status 400
    expect(field).to_have_attribute("data-max-bytes", str(Settings().max_file_bytes))
    field.evaluate("(input) => input.dataset.maxBytes = 10")
    field.set_input_files(write_requests(tmp_path, 3))
    page.get_by_role("button", name="Upload").click()
    expect(page.get_by_role("alert")).to_contain_text("the file is too large: split it")


def test_a_file_of_something_else_is_told_line_by_line(
    database: Database, visitor: Visitor
) -> None:
    lines = [refused(number, "invalid_json_line") for number in range(3)]
    batch = submit_batch(database, submission(), lines).batch
    page = visitor.open(f"/batches/{batch.id}")
    expect(page.locator("#refused li")).to_have_count(3)
    expect(page.locator("#refused li").first).to_have_text(
        "invalid_json_line line 1: line 1 cannot be used"
    )


def test_cancelling_in_the_list_keeps_the_place(database: Database, visitor: Visitor) -> None:
    batches = [submit(database, 8, file_name=f"{number}.jsonl") for number in range(12)]
    page = visitor.open("/", height=500)
    accept_dialogs(page)
    page.evaluate("() => window.scrollTo(0, 300)")
    page.get_by_role("button", name="Cancel 5.jsonl").press("Enter")
    row = page.locator(f"#row-{batches[5].id}")
    expect(row.locator(".badge")).to_have_text("cancelled")
    assert page.evaluate("() => window.scrollY") == 300
    assert row.evaluate("(row) => row.contains(document.activeElement)")


def test_a_dismissed_question_cancels_nothing(database: Database, visitor: Visitor) -> None:
    batch = submit(database, 8)
    page = visitor.open("/")
    page.on("dialog", lambda dialog: dialog.dismiss())
    page.get_by_role("button", name="Cancel").click()
    assert get_batch(database, batch.id).state is BatchState.IN_PROGRESS


def test_a_batch_is_paused_and_resumed(database: Database, visitor: Visitor) -> None:
    batch = submit(database, 8, file_name="long.jsonl")
    page = visitor.open("/")
    row = page.locator(f"#row-{batch.id}")
    row.get_by_role("button", name="Pause long.jsonl").click()
    expect(row.locator(".badge")).to_have_text("paused")
    assert get_batch(database, batch.id).is_paused
    row.get_by_role("link", name="long.jsonl").click()
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#summary .badge")).to_have_text("in progress")
    assert not get_batch(database, batch.id).is_paused


def test_what_failed_for_one_reason_is_retried(database: Database, visitor: Visitor) -> None:
    batch = batch_with_failures(database)
    page = visitor.open(f"/batches/{batch.id}")
    expect(page.locator("#reason-unsupported_parameter")).to_contain_text("would fail again")
    page.get_by_role("button", name=f"Retry 2 that failed with {CONTEXT}").click()
    expect(page.locator("#summary")).to_contain_text("0 of 2")
    retried = list_batches(database)[0]
    assert (retried.total, retried.metadata) == (2, {"retry_of": batch.id})
    page.get_by_role("link", name=batch.id).click()
    expect(page.locator("#summary .badge")).to_have_text("completed")


def test_all_that_failed_is_retried_from_the_list(database: Database, visitor: Visitor) -> None:
    batch_with_failures(database)
    page = visitor.open("/")
    page.get_by_role("button", name="Retry failed of mixed.jsonl").click()
    expect(page.locator("#summary")).to_contain_text("0 of 4")


def test_a_refusal_is_said_where_it_was_asked(database: Database, visitor: Visitor) -> None:
    batch = submit(database, 8)
    page = visitor.open("/")
    accept_dialogs(page)
    page.locator(f"#cancel-{batch.id}").evaluate(
        "(form) => form.action = '/batches/batch_unknown/cancel'"
    )
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("alert")).to_contain_text("there is no batch batch_unknown")
    visitor.complaints.clear()  # the browser's own about the status 404


def test_files_are_downloaded(database: Database, visitor: Visitor) -> None:
    batch = batch_with_failures(database)
    page = visitor.open("/")
    for name, kind in (("Output", OutputKind.OUTPUT), ("Errors", OutputKind.ERRORS)):
        with page.expect_download() as download:
            page.get_by_role("link", name=f"{name} of mixed.jsonl").click()
        expected = b"".join(read_output(database, batch, kind))
        assert download.value.path().read_bytes() == expected
        assert download.value.suggested_filename == f"{batch.id}_{kind}.jsonl"


def test_answers_are_downloaded_while_the_batch_runs(database: Database, visitor: Visitor) -> None:
    batch = submit(database, 8)
    commit(database, claim(database), [3, 4])
    page = visitor.open(f"/batches/{batch.id}")
    with page.expect_download() as download:
        page.get_by_role("link", name="Output so far").click()
    assert download.value.path().read_bytes().count(b"\n") == 2


def test_requests_are_read_page_by_page_and_by_status(database: Database, visitor: Visitor) -> None:
    batch = submit(database, 40, chunk_requests=40)
    for _ in range(5):
        lease = claim(database)
        idxs = range(lease.chunk_id * 8 - 8, lease.chunk_id * 8)
        commit(database, lease, idxs[:7])
        commit(database, lease, idxs[7:], CONTEXT)
    page = visitor.open(f"/batches/{batch.id}")
    rows = page.locator(".records > li")
    expect(rows).to_have_count(25)
    page.get_by_role("link", name="Next").click()
    expect(rows).to_have_count(15)
    page.get_by_role("link", name="Failed").click()
    expect(rows).to_have_count(5)
    expect(rows.first).to_contain_text(CONTEXT)
    page.get_by_role("link", name="Answered").click()
    expect(rows).to_have_count(25)
    expect(rows.first).to_contain_text("prompt 0")
    expect(rows.first).to_contain_text("answer 0")
    expect(rows.first).to_contain_text("3 in, 2 out")
    expect(rows.first).to_contain_text("total 3.8 s")


def test_a_reason_leads_to_its_requests(database: Database, visitor: Visitor) -> None:
    batch = batch_with_failures(database)
    page = visitor.open(f"/batches/{batch.id}")
    page.get_by_role("link", name=CONTEXT).click()
    expect(page.locator(".records > li")).to_have_count(2)


def test_older_batches_are_on_the_next_page(database: Database, visitor: Visitor) -> None:
    for number in range(52):
        submit(database, 1, file_name=f"{number}.jsonl")
    page = visitor.open("/")
    page.get_by_role("link", name="Older").click()
    expect(page.locator("tbody tr .name a")).to_have_text(["1.jsonl", "0.jsonl"])
    page.get_by_role("link", name="Newest").click()
    expect(page.locator("tbody tr")).to_have_count(50)
