"""An open page follows what happens, and leaves its reader alone."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from models.database import Database
from models.store.batches import finalize_batch
from models.store.views import Worker
from models.store.workers import register_worker
from tests.page.batches import CONTEXT, serve_model
from tests.page.visitor import Visitor, tab_to
from tests.store.builders import MODEL, claim, commit, submit, work_off

KEEP_FOCUSED = "() => { window.kept = document.activeElement; }"
IS_KEPT = "() => window.kept.isConnected && window.kept === document.activeElement"


def test_the_list_follows_a_batch_to_its_end(database: Database, visitor: Visitor) -> None:
    batch = submit(database, 8, file_name="night.jsonl")
    page = visitor.open("/")
    row = page.locator(f"#row-{batch.id}")
    expect(row).to_contain_text("0 of 8 · 0 %")
    lease = claim(database)
    commit(database, lease, [0, 1, 2])
    expect(row).to_contain_text("3 of 8 · 37 %")
    expect(page.locator("#said")).to_have_text("night.jsonl: in progress, 30 %.")
    expect(row.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "37")
    commit(database, lease, [3], CONTEXT)
    commit(database, lease, [4, 5, 6, 7])
    finalize_batch(database, batch.id)
    expect(row).to_contain_text("completed")
    expect(row.get_by_role("link", name="Output of night.jsonl")).to_be_visible()
    expect(row.get_by_role("button", name="Cancel")).to_have_count(0)


def test_a_new_batch_appears_above(database: Database, visitor: Visitor) -> None:
    submit(database, 8, file_name="first.jsonl")
    page = visitor.open("/")
    submit(database, 8, file_name="second.jsonl")
    expect(page.locator("tbody tr .name a")).to_have_text(["second.jsonl", "first.jsonl"])


def test_focus_scroll_and_open_parts_stay(database: Database, visitor: Visitor) -> None:
    batch = submit(database, 40)
    commit(database, claim(database), range(8))
    page = visitor.open(f"/batches/{batch.id}", height=500)
    page.get_by_text("As a table").click()
    tab_to(page, "Answered")
    page.evaluate(KEEP_FOCUSED)
    page.evaluate("() => window.scrollTo(0, 400)")
    work_off(database)
    expect(page.locator("#summary")).to_contain_text("40 of 40")
    assert page.evaluate(IS_KEPT)
    assert page.evaluate("() => window.scrollY") == 400
    expect(page.locator("#plot details")).to_have_attribute("open", "")


def test_the_page_of_an_ended_batch_asks_no_more(database: Database, visitor: Visitor) -> None:
    batch = submit(database, 8)
    page = visitor.open(f"/batches/{batch.id}")
    work_off(database)
    finalize_batch(database, batch.id)
    expect(page.locator("#summary .badge")).to_have_text("completed")
    expect(page.locator(".records > li")).to_have_count(8)
    expect(page.locator("[data-live]")).to_have_count(0)


def test_a_server_that_is_away_is_told_and_comes_back(database: Database, visitor: Visitor) -> None:
    submit(database, 8)
    page = visitor.open("/")
    page.context.set_offline(True)
    expect(page.locator("#connection")).to_have_text("The server does not answer: trying again.")
    page.context.set_offline(False)
    expect(page.locator("#connection")).to_have_text("")
    visitor.complaints.clear()  # the browser's own about the requests that failed


def test_workers_are_shown_with_their_speed(database: Database, visitor: Visitor) -> None:
    serve_model(database)
    page = visitor.open("/workers")
    expect(page.get_by_text("No worker gave a sign of life")).to_be_visible()
    worker = Worker(id="w1", model=MODEL, host="node-7", pid=3, threads=16, rss_bytes=1_500_000_000)
    register_worker(database, worker)
    submit(database, 8)
    work_off(database, "w1")
    row = page.locator("#worker-w1")
    for text in ("node-7", "live", "demo:int8", "native", "16", "1.5 GB"):
        expect(row).to_contain_text(text)
    expect(row.locator("td[data-label='tokens/s']")).not_to_have_text("0")
    expect(page.locator("#models")).to_contain_text("LlamaForCausalLM")


def test_the_plot_has_words_and_a_table(database: Database, visitor: Visitor) -> None:
    batch = submit(database, 8)
    work_off(database)
    finalize_batch(database, batch.id)
    page = visitor.open(f"/batches/{batch.id}")
    plot = page.get_by_role("img", name="Tokens a second over time")
    expect(plot).to_have_accessible_description(re.compile("^Between .* in spans of 1 s.$"))
    n_bars = page.locator("#plot .value").count()
    assert n_bars > 0
    page.get_by_text("As a table").click()
    expect(page.locator("#plot tbody tr")).to_have_count(n_bars)
