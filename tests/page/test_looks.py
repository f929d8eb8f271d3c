"""What the page looks like in every window and light, and that it runs nothing but its own."""

from __future__ import annotations

from typing import Literal

import pytest
from playwright.sync_api import ViewportSize, expect

from models.database import Database
from models.generation import Choice, Generation
from models.store.batches import finalize_batch
from models.store.commit import commit_outcomes
from models.store.submit import submit_batch
from models.store.views import Batch, Outcome, Worker
from models.store.workers import register_worker
from models.wire.lines import AcceptedLine
from tests.page.batches import batch_with_failures, serve_model
from tests.page.visitor import Visitor
from tests.store.builders import (
    MODEL,
    TTL_S,
    accepted,
    chat,
    claim,
    commit,
    generation,
    submission,
    submit,
)

HOSTILE = (
    "<script>window.hacked = true</script><img src=x onerror='window.hacked = true'>"
    "</pre></textarea>{{ 7 * 7 }}\u202e"
)
LONG_WORD = "x" * 300
PHONE_PX = 360
CONTRASTS = """() => {
  const parse = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b]
    .map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let node = element; node; node = node.parentElement) {
      const color = parse(getComputedStyle(node).backgroundColor);
      if (color.length === 3 || color[3] > 0) return color;
    }
  };
  const found = [];
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || !element.checkVisibility() || element.closest('svg')) continue;
    const [a, b] = [parse(getComputedStyle(element).color), ground(element)].map(light);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    found.push([ratio, element.tagName + ' ' + element.textContent.trim().slice(0, 30)]);
  }
  return found;
}"""


def hostile_batch(database: Database) -> Batch:
    """Markup wherever a user's or a model's text can stand, and words that no window can hold."""
    line = AcceptedLine(
        line_number=1,
        custom_id=HOSTILE,
        prompt=chat(HOSTILE, system=LONG_WORD),
        params=accepted(0).params,
        endpoint="/v1/chat/completions",
    )
    given = submission(file_name=HOSTILE + LONG_WORD, metadata={HOSTILE: LONG_WORD})
    batch = submit_batch(database, given, [line, accepted(1)]).batch
    lease = claim(database)
    answered: Generation = generation("").model_copy(
        update={"choices": (Choice(index=0, text=HOSTILE, finish_reason="stop"),)}
    )
    commit_outcomes(database, lease, [Outcome(idx=0, generation=answered)], ttl_s=TTL_S)
    commit(database, lease, [1], HOSTILE)
    return finalize_batch(database, batch.id)


def fill(database: Database) -> list[str]:
    """Something of everything; returns the paths of all pages."""
    serve_model(database)
    register_worker(database, Worker(id=LONG_WORD, model=MODEL, host="node", pid=1))
    failures = batch_with_failures(database)
    hostile = hostile_batch(database)
    running = submit(database, 20)
    commit(database, claim(database), range(8))
    ids = (failures.id, hostile.id, running.id)
    return ["/", "/workers", "/sign-in", *(f"/batches/{id}" for id in ids)]


def test_hostile_text_stays_text(database: Database, visitor: Visitor) -> None:
    batch = hostile_batch(database)
    page = visitor.open("/")
    expect(page.locator("tbody tr .name a")).to_have_text(HOSTILE + LONG_WORD)
    page.goto(f"/batches/{batch.id}")
    row = page.locator(".records > li").first
    assert row.locator("pre").all_text_contents() == [LONG_WORD, HOSTILE, HOSTILE]
    expect(row.locator(".caption code")).to_have_text(HOSTILE)
    page.get_by_role("link", name=HOSTILE, exact=True).click()
    expect(page.locator(".records > li")).to_have_count(1)
    assert page.evaluate("() => window.hacked") is None
    assert page.locator("script").count() == 1
    assert page.locator("img").count() == 1


def test_no_page_is_wider_than_its_window(database: Database, visitor: Visitor) -> None:
    for path in fill(database):
        page = visitor.open(path, width=PHONE_PX)
        for width in (PHONE_PX, 700, 900, 1100):
            page.set_viewport_size(ViewportSize(width=width, height=800))
            assert page.evaluate("() => document.documentElement.scrollWidth") == width, path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(
    database: Database, visitor: Visitor, scheme: Literal["light", "dark"]
) -> None:
    for path in fill(database):
        page = visitor.open(path, scheme=scheme)
        found = page.evaluate(CONTRASTS)
        assert len(found) > 3
        assert [text for ratio, text in found if ratio < 4.5] == []


def test_dark_is_dark_and_light_is_light(visitor: Visitor) -> None:
    brightness = [
        visitor.open("/", scheme=scheme).evaluate(
            "() => Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])"
        )
        for scheme in ("light", "dark")
    ]
    assert brightness[0] > 200 > 60 > brightness[1]


def test_nothing_moves_for_who_asked_for_stillness(database: Database, visitor: Visitor) -> None:
    submit(database, 8)
    page = visitor.open("/")
    moving = "() => [...document.querySelectorAll('*')].flatMap((e) => e.getAnimations()).length"
    assert page.evaluate(moving) == 0
    page.emulate_media(reduced_motion="no-preference")
    assert page.evaluate("() => document.getAnimations().length") > 0


def test_long_texts_are_folded(database: Database, visitor: Visitor) -> None:
    text = "a long question " * 1000
    line = AcceptedLine(
        line_number=1,
        custom_id="long",
        prompt=chat(text),
        params=accepted(0).params,
        endpoint="/v1/chat/completions",
    )
    batch = submit_batch(database, submission(), [line]).batch
    commit(database, claim(database), [0])
    page = visitor.open(f"/batches/{batch.id}")
    folded = page.locator(".records pre").first
    expect(folded).to_be_hidden()
    page.get_by_text("all 16,000 characters").click()
    expect(folded).to_be_visible()
    assert folded.text_content() == text[:8000]
    expect(page.get_by_text("8,000 more characters are in the files.")).to_be_visible()


def test_every_page_has_landmarks_and_one_heading(database: Database, visitor: Visitor) -> None:
    for path in fill(database):
        page = visitor.open(path)
        for landmark in ("banner", "main"):
            expect(page.get_by_role(landmark)).to_have_count(1)
        expect(page.get_by_role("heading", level=1)).to_have_count(1)
        expect(page.get_by_role("navigation", name="Main")).to_have_count(1)
        ids = page.evaluate("() => [...document.querySelectorAll('[id]')].map((e) => e.id)")
        assert len(ids) == len(set(ids)), path
        unnamed = page.locator("input:not([type=hidden]):not([id]), button:empty, a:empty")
        expect(unnamed).to_have_count(0)


def test_scripts_and_styles_from_elsewhere_do_not_run(visitor: Visitor) -> None:
    page = visitor.open("/")
    page.evaluate(
        "() => { const script = document.createElement('script');"
        " script.textContent = 'window.hacked = true'; document.body.append(script);"
        " document.body.insertAdjacentHTML('beforeend', '<p style=\"color: red\">'); }"
    )
    assert page.evaluate("() => window.hacked") is None
    # So the visitor would have noticed a page that does it.
    for kind in ("inline script violates", "inline style violates"):
        assert any(kind in complaint for complaint in visitor.complaints)
    visitor.complaints.clear()
