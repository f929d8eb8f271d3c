"""`/metrics`: what is documented is told, the figures are right, and callers cannot add series."""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import create_engine, update

from api import store_metrics
from models.database import Database
from models.store.canaries import record_canary
from models.store.commit import commit_outcomes
from models.store.queue_figures import QueueFigures, queue_figures
from models.store.sweep import sweep
from models.store.views import Worker
from models.store.workers import beat, register_worker
from models.tables import batches, chunks
from tests.api.serving import serving
from tests.documents import ROOT
from tests.servers import HOST, free_port
from tests.store.builders import MODEL, answer, claim, end_leases, finish, submit


class Scraped:
    """One answer of /metrics, taken apart."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}

    def value(self, name: str, **labels: str) -> float:
        """The only sample of exactly these labels."""
        family = self.families[name.removesuffix("_total")]
        (value,) = (
            sample.value
            for sample in family.samples
            if sample.name == name and sample.labels == labels
        )
        return value

    def labels(self, name: str, label: str) -> set[str]:
        return {sample.labels[label] for sample in self.families[name].samples}


def scrape(url: str) -> Scraped:
    answer = httpx2.get(f"{url}/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return Scraped(answer.text)


def scrape_once(database: Database) -> Scraped:
    with serving(database) as url:
        return scrape(url)


def a_bit_of_everything(database: Database) -> None:
    """A finished, a running and a waiting batch, and a worker that lost a lease."""
    register_worker(
        database,
        Worker(
            id="w1", model=MODEL, host="node-1", pid=1, rss_bytes=1 << 30, peak_rss_bytes=1 << 31
        ),
    )
    submit(database, 8)
    finish(database, claim(database))
    submit(database, 16)
    claim(database)
    end_leases(database)
    sweep(database, dispatch_timeout_s=60, max_crashes=1)  # the first of its chunks is given up
    claim(database)
    submit(database, 8)
    record_canary(database, MODEL, n_expected=4, n_exact=3, output_tokens_per_second=50.0)


def documented() -> dict[str, tuple[str, tuple[str, ...], str]]:
    """Type, labels and meaning of each metric of the page, by its name."""
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([\w, ]*) \| (.+) \|$", page, flags=re.MULTILINE)
    return {
        name: (kind, tuple(labels.split(", ")) if labels.strip() else (), meaning)
        for name, kind, labels, meaning in rows
    }


def test_the_page_tells_what_there_is(database: Database) -> None:
    a_bit_of_everything(database)
    with serving(database) as url:
        scrape(url)  # so that a request was answered before
        told = scrape(url).families
    found = {}
    for name, family in told.items():
        if name.endswith("_created"):
            continue
        full = f"{name}_total" if family.type == "counter" else name
        labels = {tuple(set(sample.labels) - {"le"}) for sample in family.samples}
        assert len({frozenset(names) for names in labels}) == 1, name
        found[full] = (family.type, frozenset(labels.pop()), family.documentation)
    assert found == {
        name: (kind, frozenset(labels), meaning)
        for name, (kind, labels, meaning) in documented().items()
    }


def test_figures_are_those_of_the_store(database: Database) -> None:
    a_bit_of_everything(database)
    told = scrape_once(database)
    model = str(MODEL)

    def of_model(name: str, **labels: str) -> float:
        return told.value(f"nightshift_{name}", model=model, **labels)

    assert told.value("nightshift_database_up") == 1
    assert of_model("batches", state="completed") == 1
    assert of_model("batches", state="in_progress") == 2
    assert of_model("batches", state="failed") == 0
    assert of_model("chunks", state="leased") == 1
    assert of_model("chunks", state="pending") == 1
    assert of_model("chunks", state="quarantined") == 1
    assert of_model("requests", state="running") == 8
    assert of_model("requests", state="waiting") == 8
    assert of_model("requests_finished_total", status="ok") == 8
    assert of_model("requests_finished_total", status="error") == 8
    assert of_model("prompt_tokens_total") == 24
    assert of_model("cached_prompt_tokens_total") == 8
    assert of_model("output_tokens_total") == 16
    assert told.value("nightshift_failed_attempts_total", outcome="lost") == 1
    assert told.value("nightshift_failed_attempts_total", outcome="crashed") == 0
    worker = {"worker": "w1", "host": "node-1", "model": model}
    assert told.value("nightshift_worker_memory_bytes", **worker) == 1 << 30
    assert told.value("nightshift_worker_peak_memory_bytes", **worker) == 1 << 31
    assert told.value("nightshift_worker_leased_chunks", **worker) == 1
    assert told.value("nightshift_worker_tokens_per_second", **worker, kind="output") > 0
    assert of_model("workers", state="live") == 1
    assert of_model("canary_exact_ratio") == 0.75
    assert of_model("canary_tokens_per_second") == 50.0
    assert of_model("canary_timestamp_seconds") > 1.7e9


def test_requests_that_one_attempt_finished_do_not_run(database: Database) -> None:
    def counts() -> tuple[int, int]:
        figures = queue_figures(database).models[MODEL]
        return figures.running, figures.waiting

    submit(database, 8)
    assert counts() == (0, 8)
    commit_outcomes(database, claim(database), [answer(0), answer(1), answer(2)], ttl_s=60)
    assert counts() == (5, 0)
    end_leases(database)
    second = claim(database, "w2")
    assert counts() == (5, 0)
    finish(database, second)
    assert counts() == (0, 0)


def test_the_oldest_waiting_request_ages_and_paused_batches_do_not_count(
    database: Database,
) -> None:
    def age_s() -> float:
        return queue_figures(database).models[MODEL].oldest_waiting_s

    submit(database, 8)
    with database.begin() as connection:
        connection.execute(update(chunks).values(created_at=chunks.c.created_at - 1000))
    submit(database, 8)
    assert 1000 <= age_s() < 1100
    with database.begin() as connection:
        connection.execute(update(batches).values(paused_at=1.0))
    assert age_s() == 0


def test_a_worker_is_counted_where_it_stands(database: Database) -> None:
    for name in ("w1", "w2", "w3"):
        register_worker(database, Worker(id=name, model=MODEL, host="node-1", pid=1))
    beat(database, "w3", draining=True)
    told = scrape_once(database)
    counts = {
        state: told.value("nightshift_workers", model=str(MODEL), state=state)
        for state in ("live", "draining", "silent")
    }
    assert counts == {"live": 2, "draining": 1, "silent": 0}


def test_requests_are_counted_by_route_and_no_caller_adds_a_series(database: Database) -> None:
    with serving(database) as url:
        for number in range(20):
            assert httpx2.get(f"{url}/v1/nothing/{number}").status_code == 404
            assert httpx2.get(f"{url}/v1/batches/batch_{number}").status_code == 404
            httpx2.request(f"ODD{number}", f"{url}/v1/batches")
        httpx2.get(f"{url}/health")
        httpx2.post(f"{url}/v1/batches", content=b"x")
        told = scrape(url)

    def count(route: str, method: str, status: str) -> float:
        name = "nightshift_http_requests_total"
        return told.value(name, route=route, method=method, status=status)

    assert count("other", "GET", "404") == 20
    assert count("/v1/batches/{batch_id}", "GET", "404") == 20
    assert count("/v1/batches", "other", "405") == 20
    assert count("/health", "GET", "200") == 1
    assert count("/v1/batches", "POST", "415") == 1
    assert told.labels("nightshift_http_requests", "method") == {"GET", "POST", "other"}


def test_a_request_that_breaks_the_server_counts_as_500(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_database: Database) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("api.routes.models.list_models", fail)
    with serving(database) as url:
        assert httpx2.get(f"{url}/v1/models").status_code == 500
        told = scrape(url)
    requests = {"route": "/v1/models", "method": "GET", "status": "500"}
    assert told.value("nightshift_http_requests_total", **requests) == 1


def test_without_its_database_the_api_tells_that_and_its_own_figures() -> None:
    url_of_nobody = f"postgresql+psycopg://nobody@{HOST}:{free_port()}/nothing"
    with Database(create_engine(url_of_nobody)) as away, serving(away) as url:
        assert httpx2.get(f"{url}/ready").status_code == 503
        told = scrape(url)
    assert told.value("nightshift_database_up") == 0
    assert "nightshift_batches" not in told.families
    requests = {"route": "/ready", "method": "GET", "status": "503"}
    assert told.value("nightshift_http_requests_total", **requests) == 1


def test_many_scrapers_count_the_store_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[None] = []

    def count(database: Database) -> QueueFigures:
        counted.append(None)
        return queue_figures(database)

    monkeypatch.setattr(store_metrics, "queue_figures", count)
    monkeypatch.setattr(store_metrics, "KEPT_FOR_S", 3600.0)
    with serving(database) as url, ThreadPoolExecutor(8) as pool:
        for told in pool.map(scrape, [url] * 24):
            assert told.value("nightshift_database_up") == 1
    assert len(counted) == 1


@pytest.mark.parametrize(
    "headers",
    [{"x-forwarded-for": "203.0.113.9"}, {"forwarded": "for=127.0.0.1"}, {"via": "1.1 proxy"}],
)
def test_who_is_not_of_this_machine_is_told_when_a_setting_says_so(
    database: Database, headers: Mapping[str, str]
) -> None:
    with serving(database) as url:
        answer = httpx2.get(f"{url}/metrics", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "metrics_not_public")
    with serving(database, public_metrics=True) as url:
        assert httpx2.get(f"{url}/metrics", headers=headers).status_code == 200
