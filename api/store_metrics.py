"""What the job store holds, as Prometheus sees it: counted when it is asked for.

Every API process of a cluster tells the same figures.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from models.database import Database
from models.errors import NightshiftError
from models.model_key import ModelKey
from models.states import BatchState
from models.store.canaries import CanaryFigures, canary_figures
from models.store.queue_figures import (
    COUNTED_CHUNKS,
    FAILED_ATTEMPTS,
    ModelFigures,
    QueueFigures,
    queue_figures,
)
from models.store.worker_figures import WorkerFigures, worker_figures

KEPT_FOR_S: Final = 2.0  # several scrapers, or an impatient one, cost the database no more
_TOKENS: Final = {
    "prompt": "Prompt tokens of finished requests, cached ones included.",
    "cached_prompt": "Prompt tokens of finished requests that were not computed again.",
    "output": "Output tokens of finished requests.",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Counted:
    """One look at the store."""

    queue: QueueFigures
    workers: list[WorkerFigures]
    canaries: list[CanaryFigures]


class StoreCollector(Collector):
    """Prometheus' view of one database; safe to share between threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._counted: _Counted | None = None
        self._counted_at = 0.0

    def collect(self) -> Iterator[Metric]:
        """Everything; while the database is away that alone."""
        try:
            counted = self._count()
        except NightshiftError as exc:
            _log.warning("metrics are incomplete: %s", exc)
            yield _up(0)
            return
        yield _up(1)
        yield from _of_queue(counted.queue)
        yield from _of_models(counted.queue)
        yield from _of_workers(counted.workers)
        yield from _of_canaries(counted.canaries)

    def _count(self) -> _Counted:
        with self._lock:
            is_old = time.monotonic() - self._counted_at > KEPT_FOR_S
            if self._counted is None or is_old:
                self._counted = _Counted(
                    queue_figures(self._database),
                    worker_figures(self._database),
                    canary_figures(self._database),
                )
                self._counted_at = time.monotonic()
            return self._counted


def _up(value: int) -> Metric:
    return GaugeMetricFamily("nightshift_database_up", "Whether the database answers.", value)


def _of_queue(queue: QueueFigures) -> Iterator[Metric]:
    attempts = CounterMetricFamily(
        "nightshift_failed_attempts",
        "Leases that ended because they were not renewed (lost) or because an engine crashed.",
        labels=("outcome",),
    )
    for outcome in FAILED_ATTEMPTS:
        attempts.add_metric((str(outcome),), queue.failed_attempts.get(outcome, 0))
    yield attempts
    yield GaugeMetricFamily(
        "nightshift_webhook_deliveries_waiting",
        "Events that no receiver has taken yet and that will be sent again.",
        queue.waiting_deliveries,
    )


def _of_models(queue: QueueFigures) -> Iterable[Metric]:
    batches = _gauge("batches", "Batches.", "model", "state")
    chunks = _gauge(
        "chunks", "Chunks that wait, are held by a worker, or were given up.", "model", "state"
    )
    requests = _gauge("requests", "Requests of open batches without a result.", "model", "state")
    age = _gauge(
        "oldest_waiting_request_age_seconds",
        "Age of the oldest request that no worker holds, paused batches left out; 0 without one.",
        "model",
    )
    finished = CounterMetricFamily(
        "nightshift_requests_finished",
        "Requests with a result.",
        labels=("model", "status"),
    )
    tokens = {
        kind: CounterMetricFamily(f"nightshift_{kind}_tokens", help_text, labels=("model",))
        for kind, help_text in _TOKENS.items()
    }
    for model, figures in queue.models.items():
        name = _name(model)
        for state in BatchState:
            batches.add_metric((name, str(state)), figures.batches.get(state, 0))
        for chunk_state in COUNTED_CHUNKS:
            chunks.add_metric((name, str(chunk_state)), figures.chunks.get(chunk_state, 0))
        requests.add_metric((name, "waiting"), figures.waiting)
        requests.add_metric((name, "running"), figures.running)
        age.add_metric((name,), figures.oldest_waiting_s)
        finished.add_metric((name, "ok"), figures.completed)
        finished.add_metric((name, "error"), figures.failed)
        for kind, family in tokens.items():
            family.add_metric((name,), _tokens(figures, kind))
    return (batches, chunks, requests, age, finished, *tokens.values())


def _of_workers(found: list[WorkerFigures]) -> Iterable[Metric]:
    counts = _gauge("workers", "Workers that have not left.", "model", "state")
    labels = ("worker", "host", "model")
    memory = _gauge("worker_memory_bytes", "Memory that the worker's engine holds.", *labels)
    peak = _gauge("worker_peak_memory_bytes", "The most that it held.", *labels)
    leased = _gauge("worker_leased_chunks", "Chunks that the worker holds.", *labels)
    speed = _gauge(
        "worker_tokens_per_second",
        "Tokens of the results that the worker gave within the last 5 minutes.",
        *labels,
        "kind",
    )
    for model in sorted({str(figures.worker.model) for figures in found}):
        states = [_state(figures) for figures in found if str(figures.worker.model) == model]
        for state in ("live", "draining", "silent"):
            counts.add_metric((model, state), states.count(state))
    for figures in found:
        worker = figures.worker
        names = (worker.id, worker.host, str(worker.model))
        memory.add_metric(names, worker.rss_bytes or 0)
        peak.add_metric(names, worker.peak_rss_bytes or 0)
        leased.add_metric(names, figures.leased_chunks)
        speed.add_metric((*names, "prompt"), figures.prompt_tokens_per_second)
        speed.add_metric((*names, "output"), figures.output_tokens_per_second)
    return (counts, memory, peak, leased, speed)


def _of_canaries(found: list[CanaryFigures]) -> Iterable[Metric]:
    exact = _gauge(
        "canary_exact_ratio", "Share of expected answers that the newest canary got.", "model"
    )
    speed = _gauge(
        "canary_tokens_per_second", "Output tokens a second of the newest canary.", "model"
    )
    at = _gauge("canary_timestamp_seconds", "When the newest canary was measured.", "model")
    for figures in found:
        name = (str(figures.model),)
        exact.add_metric(name, figures.exact_ratio)
        at.add_metric(name, figures.measured_at)
        if figures.output_tokens_per_second is not None:
            speed.add_metric(name, figures.output_tokens_per_second)
    return (exact, speed, at)


def _gauge(name: str, help_text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"nightshift_{name}", help_text, labels=labels)


def _state(figures: WorkerFigures) -> str:
    if figures.is_silent:
        return "silent"
    return "draining" if figures.worker.draining else "live"


def _tokens(figures: ModelFigures, kind: str) -> int:
    counts = {
        "prompt": figures.prompt_tokens,
        "cached_prompt": figures.cached_prompt_tokens,
        "output": figures.output_tokens,
    }
    return counts[kind]


def _name(model: ModelKey | None) -> str:
    return "" if model is None else str(model)
