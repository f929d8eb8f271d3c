"""An evaluation as a table for people, as JSON for scripts, and as a plot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cli.candidates import Candidate
from cli.display import format_bytes, format_seconds, print_table
from cli.evaluation import Evaluation
from models.errors import InputError, SettingsError

PLOT_SUFFIXES = (".png", ".svg", ".pdf")
_HEAD = ("CANDIDATE", "SIZE", "LOAD", "MEMORY", "TOKENS/S", "EXACT", "PERPLEXITY", "AGREEMENT")


def print_evaluations(evaluations: Sequence[Evaluation]) -> None:
    """One row per candidate on stdout; the range of speeds where there was more than one trial."""
    rows = [
        (
            str(each.candidate),
            format_bytes(each.artifact_bytes),
            _shown(each.load_s, format_seconds),
            _shown(each.peak_rss_bytes, format_bytes),
            _speed(each),
            _shown(each.exact_percent, "{:.1f} %".format),
            _shown(each.perplexity, "{:.4f}".format),
            _shown(each.agreement_percent, "{:.2f} %".format),
        )
        for each in evaluations
    ]
    print_table(_HEAD, rows)


def summary(evaluations: Sequence[Evaluation], reference: Candidate) -> dict[str, object]:
    """The JSON report."""
    return {
        "model": evaluations[0].key.name,
        "reference": str(reference),
        "candidates": [_as_dict(each) for each in evaluations],
    }


def _as_dict(evaluation: Evaluation) -> dict[str, object]:
    """One candidate in the JSON report; null where nothing was asked that would show it."""
    return {
        "weights": str(evaluation.candidate.weights),
        "backend": str(evaluation.candidate.backend),
        "ipex_lowp": evaluation.candidate.lowp,
        "artifact_bytes": evaluation.artifact_bytes,
        "load_s": evaluation.load_s,
        "peak_rss_bytes": evaluation.peak_rss_bytes,
        "tokens_per_second": evaluation.speed,
        "tokens_per_second_trials": list(evaluation.tokens_per_second),
        "failed": evaluation.failed,
        "exact_percent": evaluation.exact_percent,
        "perplexity": evaluation.perplexity,
        "agreement_percent": evaluation.agreement_percent,
    }


def check_plot(path: Path) -> None:
    """Raise now what would keep `draw` from drawing: InputError, SettingsError."""
    if path.suffix not in PLOT_SUFFIXES:
        raise InputError(f"--plot {path}: give a name that ends in {', '.join(PLOT_SUFFIXES)}")
    _figure_class()


def draw(evaluations: Sequence[Evaluation], path: Path, title: str) -> None:
    """Speed against quality, a bubble's area for memory; raises InputError without both."""
    measure, label = _quality(evaluations)
    figure = _figure_class()(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for each in evaluations:
        quality, memory = measure(each), each.peak_rss_bytes or 0
        if each.speed is None or quality is None:
            raise InputError("a plot shows speed and quality: give --prompts, and --expected or "
                             "--text")  # fmt: skip
        largest = max(other.peak_rss_bytes or 1 for other in evaluations)
        axes.scatter(each.speed, quality, s=60 + 600 * memory / largest, alpha=0.5)
        axes.annotate(str(each.candidate), (each.speed, quality), ha="center", va="center")
    axes.margins(0.2)
    axes.set(title=title, xlabel="output tokens per second (area: memory)", ylabel=label)
    axes.grid(visible=True, alpha=0.3)
    figure.savefig(path)


def _quality(
    evaluations: Sequence[Evaluation],
) -> tuple[Callable[[Evaluation], float | None], str]:
    if all(each.exact_percent is not None for each in evaluations):
        return lambda each: each.exact_percent, "expected answers, %"
    return lambda each: each.perplexity, "perplexity (less is better)"


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise SettingsError(
            "--plot needs matplotlib: install it with `pip install 'nightshift[plot]'`"
        ) from exc
    return Figure


def _speed(evaluation: Evaluation) -> str:
    trials = evaluation.tokens_per_second
    if evaluation.speed is None:
        return "-"
    if len(trials) == 1:
        return f"{evaluation.speed:.0f}"
    return f"{evaluation.speed:.0f} ({min(trials):.0f} to {max(trials):.0f})"


def _shown(value: Any, show: Callable[[Any], str]) -> str:
    return "-" if value is None else show(value)
