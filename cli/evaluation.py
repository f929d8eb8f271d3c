"""Measures kinds of weights and backends of one model beside each other.

Every candidate answers the same prompts through the same engine process as in a worker, and scores
the same texts in a process of its own. Candidates take turns, so that whatever else the machine
does falls on all of them.
"""

from __future__ import annotations

import secrets
import shutil
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cli.candidates import Candidate, Prepared, ensure_candidate
from cli.display import say
from cli.run_steps import RunPlan, execute
from cli.submission import InputOptions, open_lines
from models.errors import InputError
from models.model_key import ModelKey

if TYPE_CHECKING:
    from cli.summary import RunSummary
    from models.settings import Settings
    from worker.backends.scoring_messages import ScoredText, ScoringResult

_PERCENT = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationPlan:
    """What one command line asks for."""

    candidates: Sequence[Candidate]
    reference: Candidate
    prompts: InputOptions | None
    expected: Mapping[str, str]  # answers by custom_id; may be empty
    text: str | None
    trials: int


def read_plan(
    candidates: Sequence[Candidate],
    reference: Candidate,
    *,
    prompts: Path | None,
    expected: Path | None,
    text: Path | None,
    trials: int,
    decoding: Mapping[str, object],
) -> EvaluationPlan:
    """The plan of these files; raises InputError for one that cannot be used, and for none."""
    from cli.answers import read_expected

    if prompts is None and (text is None or expected is not None):
        raise InputError("there is nothing to measure: give --prompts FILE, --text FILE, or both")
    return EvaluationPlan(
        candidates=candidates,
        reference=reference,
        prompts=None if prompts is None else InputOptions(path=prompts, defaults=decoding),
        expected={} if expected is None else read_expected(expected),
        text=None if text is None else _read_text(text),
        trials=trials,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What was found of one candidate; None where nothing was asked that would show it."""

    candidate: Candidate
    key: ModelKey
    artifact_bytes: int
    load_s: float | None = None
    peak_rss_bytes: int | None = None
    tokens_per_second: Sequence[float] = ()  # of each trial
    failed: int | None = None
    exact_percent: float | None = None
    perplexity: float | None = None
    agreement_percent: float | None = None

    @property
    def speed(self) -> float | None:
        """The median of the trials, in output tokens per second."""
        return statistics.median(self.tokens_per_second) if self.tokens_per_second else None


@dataclass(slots=True)
class _Found:
    runs: list[RunSummary] = field(default_factory=list)
    exact_percent: float | None = None
    scores: ScoringResult | None = None


def evaluate(settings: Settings, model: str, plan: EvaluationPlan) -> list[Evaluation]:
    """Measure all candidates of a registered model or a folder, in the order of the plan.

    What is missing is quantized into the registry. Raises what quantizing, running and scoring
    raise, InputError when there is nothing to score.
    """
    spare = settings.home / f"evaluate-{secrets.token_hex(4)}"  # large, so where artifacts are
    try:
        prepared = {
            each: ensure_candidate(settings, model, each, spare) for each in plan.candidates
        }
        with tempfile.TemporaryDirectory(prefix="nightshift-evaluate-") as folder:
            return _measure(plan, prepared, Path(folder))
    finally:
        shutil.rmtree(spare, ignore_errors=True)


def _measure(
    plan: EvaluationPlan, prepared: Mapping[Candidate, Prepared], folder: Path
) -> list[Evaluation]:
    """`folder` takes answers and a database."""
    found = {candidate: _Found() for candidate in plan.candidates}
    if plan.text is not None or plan.expected:
        for candidate in plan.candidates:
            say(f"scoring: {candidate}")
            found[candidate].scores = _score(plan, prepared[candidate])
    if plan.prompts is not None:
        for trial in range(plan.trials):
            for candidate in plan.candidates:
                say(f"trial {trial + 1} of {plan.trials}: {candidate}")
                output = folder / f"{candidate}.jsonl"
                _run(plan, prepared[candidate], found[candidate], output)
    reference = found[plan.reference].scores
    return [_summed_up(each, prepared[each], found[each], reference) for each in plan.candidates]


def _run(plan: EvaluationPlan, prepared: Prepared, found: _Found, output: Path) -> None:
    """A database for it and others is beside `output`."""
    if plan.prompts is None:
        raise ValueError("there are no prompts")
    run = RunPlan(
        input=plan.prompts,
        output=output,
        errors=output.with_suffix(".errors.jsonl"),
        model=prepared.key.name,
        weights=prepared.key.weights,
        fresh=True,
        quiet=True,
    )
    database = output.with_name("evaluation.db")
    mine = prepared.settings.model_copy(
        update={"database_url": f"sqlite:///{database}", "broker_url": None}
    )
    found.runs.append(execute(mine, run))
    if plan.expected:
        found.exact_percent = exact_percent(output, plan.expected)


def exact_percent(output: Path, expected: Mapping[str, str]) -> float:
    """How many of the expected answers an output file has, but for spaces around them."""
    from cli.answers import count_exact, read_objects

    return _PERCENT * count_exact(read_objects(output), expected) / len(expected)


def _score(plan: EvaluationPlan, prepared: Prepared) -> ScoringResult:
    from worker.backends.scoring_messages import ScoringJob
    from worker.backends.scoring_process import run_scoring
    from worker.spawning import engine_config

    config = engine_config(prepared.settings, prepared.key)
    return run_scoring(ScoringJob(config=config, texts=_texts(plan, prepared)))


def _texts(plan: EvaluationPlan, prepared: Prepared) -> tuple[ScoredText, ...]:
    """The text alone where one was given, else the expected answers after their prompts."""
    from models.wire.lines import AcceptedLine
    from worker.backends.scoring_messages import ScoredText

    if plan.text is not None:
        return (ScoredText(text=plan.text),)
    if plan.prompts is None:
        raise InputError("expected answers need their prompts: give --prompts FILE")
    _, lines = open_lines(prepared.settings, plan.prompts, prepared.key)
    accepted = [line for line in lines if isinstance(line, AcceptedLine)]
    if not accepted:
        raise InputError(
            f"every request of {plan.prompts.path} is refused: `nightshift run` with it says why"
        )
    return tuple(
        ScoredText(prompt=line.prompt, text=plan.expected[line.custom_id])
        for line in accepted
        if line.custom_id in plan.expected
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise InputError(f"{path} cannot be read as UTF-8 text: {exc}") from exc


def _summed_up(
    candidate: Candidate, prepared: Prepared, found: _Found, reference: ScoringResult | None
) -> Evaluation:
    from cli.context import open_registry

    entry = open_registry(prepared.settings).entry(prepared.key)
    scores, runs = found.scores, found.runs
    agreement = None if scores is None or reference is None else scores.agreement(reference)
    return Evaluation(
        candidate=candidate,
        key=prepared.key,
        artifact_bytes=entry.bytes,
        load_s=statistics.median(run.seconds_load for run in runs) if runs else None,
        peak_rss_bytes=max(run.peak_rss_bytes for run in runs) if runs else None,
        tokens_per_second=[run.figures.tokens_per_second for run in runs],
        failed=runs[-1].figures.failed if runs else None,
        exact_percent=found.exact_percent,
        perplexity=None if scores is None else scores.perplexity,
        agreement_percent=None if agreement is None else _PERCENT * agreement,
    )
