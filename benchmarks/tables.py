"""Renders results as Markdown tables: seconds, shares of the machine's limits, ratios."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence

from benchmarks.engines import ENGINES
from benchmarks.limits import best_limits
from benchmarks.prepare import make_workload
from benchmarks.results import Document, Trial
from benchmarks.shapes import SHAPES
from benchmarks.workloads import WORK_NAMES

# Scales left out; those of GGUF are 2 bytes for every 32 weights.
_BYTES_PER_WEIGHT = {
    "int8": 1.0, "w8a8": 1.0, "q8_0": 34 / 32, "int4": 0.5, "q4_0": 18 / 32, "bf16": 2.0,
}  # fmt: skip
# What is compared: ours, and what it is divided by.
_PAIRS = (
    ("nightshift-int8", "vllm-w8a8"),
    ("nightshift-int8", "openvino-int8"),
    ("nightshift-int8", "llama-cpp-q8_0"),
    ("nightshift-bf16", "vllm-bf16"),
    ("nightshift-bf16", "transformers-bf16"),
    ("nightshift-int4", "openvino-int4"),
    ("nightshift-int4", "llama-cpp-q4_0"),
    ("nightshift-int4", "nightshift-int8"),
)


def render(document: Document) -> str:
    """All tables of a document."""
    parts = [_limits_table(document), _trials_table(document)]
    ratios = list(_ratio_rows(document))
    if ratios:
        header = ("work", "ours", "against", "ratio of medians", "least", "most", "rounds")
        parts.append("Ours ÷ the other, below 1 is faster:\n\n" + _table(header, ratios))
    voids = [f"- {t.engine}, {t.work}, {t.number}: {t.void}" for t in document.trials if t.void]
    if voids:
        parts.append("Void:\n\n" + "\n".join(voids))
    return "\n\n".join(parts)


def rows_of(document: Document) -> list[tuple[str, str]]:
    """(work, engine) of all rows with a trial that counts, in the order of works and engines."""
    return [
        (work, engine) for work in WORK_NAMES for engine in ENGINES if document.valid(engine, work)
    ]


def share_of_limit(document: Document, engine: str, work: str) -> tuple[float, str] | None:
    """The reached share of the limit that binds the row, and that limit's name.

    One request alone is bound by reading the weights, work "short" by the time in the model, all
    other works by arithmetic in the form that the weights are multiplied in. None where no limit
    is known.
    """
    seconds = document.median_seconds(engine, work)
    if work == "short":
        return _share_of_forward(document.valid(engine, work))
    if seconds is None or not document.limits:
        return None
    limits = best_limits(list(document.limits))
    shape, workload = SHAPES[document.shape], make_workload(work)
    kind = "bf16" if engine.endswith("bf16") else "int8"
    if work == "single":
        bytes_per_weight = _BYTES_PER_WEIGHT[engine.rpartition("-")[2]]
        streamed = shape.streamed_weights(workload) * bytes_per_weight
        return streamed / seconds / limits.memory_bytes_per_s, "memory"
    limit = limits.bf16_flops_per_s if kind == "bf16" else limits.int8_ops_per_s
    return (shape.linear_operations(workload) / seconds / limit, kind) if limit else None


def _share_of_forward(trials: Sequence[Trial]) -> tuple[float, str] | None:
    """The median share of the seconds that were spent in the model, where the engine tells it."""
    shares = [
        trial.figures["seconds_forward"] / trial.seconds
        for trial in trials
        if trial.seconds is not None and "seconds_forward" in trial.figures
    ]
    return (statistics.median(shares), "forward") if shares else None


def _limits_table(document: Document) -> str:
    machine = document.machine
    lines = [f"{machine.cpu}, {machine.cores} cores, {', '.join(machine.flags)}"]
    if document.limits:
        limits = best_limits(list(document.limits))
        rates = (
            (limits.int8_ops_per_s, "G int8 operations/s"),
            (limits.bf16_flops_per_s, "G bf16 operations/s"),
            (limits.memory_bytes_per_s, "GB/s read from memory"),
        )
        lines.append("; ".join(f"{rate / 1e9:.0f} {unit}" for rate, unit in rates if rate))
    return "\n".join(lines)


def _trials_table(document: Document) -> str:
    header = ("work", "engine", "seconds", "least", "most", "trials", "tokens/s", "of limit",
              "load s", "peak GB")  # fmt: skip
    rows = [_row(document, work, engine) for work, engine in rows_of(document)]
    return _table(header, rows)


def _row(document: Document, work: str, engine: str) -> tuple[str, ...]:
    trials = document.valid(engine, work)
    seconds = sorted(_seconds(trials))
    median = statistics.median(seconds)
    tokens = trials[0].input_tokens + trials[0].output_tokens
    share = share_of_limit(document, engine, work)
    return (
        work,
        engine,
        f"{median:.1f}",
        f"{seconds[0]:.1f}",
        f"{seconds[-1]:.1f}",
        str(len(seconds)),
        f"{tokens / median:.0f}",
        f"{share[0]:.0%} {share[1]}" if share else "",
        f"{statistics.median(t.load_seconds or 0.0 for t in trials):.1f}",
        f"{max(t.peak_rss_bytes for t in trials) / 1e9:.1f}",
    )


def _ratio_rows(document: Document) -> Iterator[tuple[str, ...]]:
    for work in WORK_NAMES:
        for ours, other in _PAIRS:
            own = document.median_seconds(ours, work)
            others = document.median_seconds(other, work)
            if own is None or others is None:
                continue
            ratios = sorted(_round_ratios(document.valid(ours, work), document.valid(other, work)))
            spread = (f"{ratios[0]:.2f}", f"{ratios[-1]:.2f}") if ratios else ("", "")
            yield work, ours, other, f"{own / others:.2f}", *spread, str(len(ratios))


def _round_ratios(ours: Sequence[Trial], others: Sequence[Trial]) -> Iterator[float]:
    """The ratio of each round in which both ran, one after the other."""
    seconds = {trial.number: trial.seconds for trial in others}
    for trial in ours:
        other = seconds.get(trial.number)
        if trial.seconds is not None and other is not None:
            yield trial.seconds / other


def _seconds(trials: Iterable[Trial]) -> list[float]:
    return [trial.seconds for trial in trials if trial.seconds is not None]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
