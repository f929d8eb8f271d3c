"""Runs one trial: a runner in its environment, watched from outside, its token counts checked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks.engines import EngineSpec
from benchmarks.job import Job
from benchmarks.machine import load_average
from benchmarks.prepare import PROJECT
from benchmarks.results import Trial
from benchmarks.workloads import Workload

_POLL_S = 1.0
_TIMEOUT_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything about a trial that is known before it runs."""

    spec: EngineSpec
    workload: Workload
    number: int
    commit: str
    command: Sequence[str]
    log: Path
    job: Job


@dataclass(frozen=True, slots=True)
class Run:
    """What was seen of a runner from outside."""

    exit_code: int
    output: str
    peak_rss_bytes: int
    other_cpu_seconds: float


def plan_trial(
    spec: EngineSpec, workload: Workload, *, python: str, model: Path, file: Path, threads: int
) -> tuple[list[str], Job]:
    """The command of a trial and the job that it carries."""
    job = Job(
        model=str(model),
        workload=str(file),
        threads=threads,
        settings=spec.settings_for(workload),
    )
    return [python, "-m", spec.runner, json.dumps(asdict(job))], job


def run_trial(plan: Plan) -> Trial:
    """Run it and judge it; a failure is a void trial, not an exception."""
    started, load = datetime.now(UTC), load_average()
    run = watch(plan.command, plan.log)
    report, problem = read_report(run, plan.workload)
    report = report or {}
    return Trial(
        engine=plan.spec.name,
        work=plan.workload.name,
        number=plan.number,
        void=problem and f"{problem}; see {plan.log.name}",
        seconds=report.get("seconds"),
        load_seconds=report.get("load_seconds"),
        input_tokens=sum(report.get("input_counts", ())),
        output_tokens=sum(report.get("output_counts", ())),
        peak_rss_bytes=run.peak_rss_bytes,
        settings=plan.job.settings,
        versions=report.get("versions", {}),
        figures=report.get("figures", {}),
        commit=plan.commit,
        started=started,
        load_average=load,
        other_cpu_seconds=run.other_cpu_seconds,
    )


def read_report(run: Run, workload: Workload) -> tuple[dict[str, Any] | None, str | None]:
    """The report in the last line that is one, and why the trial does not count, if so."""
    if run.exit_code:
        return None, f"the runner ended with code {run.exit_code}"
    for line in reversed(run.output.splitlines()):
        if line.startswith('{"seconds"'):
            report: dict[str, Any] = json.loads(line)
            return report, check_counts(report, workload)
    return None, "the runner printed no report"


def check_counts(report: dict[str, Any], workload: Workload) -> str | None:
    """Why the tokens are not exactly those that the workload asks for; None when they are."""
    wanted = [(len(request.token_ids), request.output_tokens) for request in workload.requests]
    got = list(zip(report["input_counts"], report["output_counts"], strict=True))
    if got == wanted:
        return None
    wrong = sum(one != other for one, other in zip(got, wanted, strict=False))
    return f"{wrong + abs(len(got) - len(wanted))} requests have other token counts than asked for"


def watch(command: Sequence[str], log: Path) -> Run:
    """Run a command in a process group of its own until it ends; the log gets its stderr."""
    output = log.with_suffix(".out")
    busy_s, own_s = _busy_cpu_seconds(), _children_cpu_seconds()
    with log.open("wb") as stderr, output.open("wb") as stdout:
        process = subprocess.Popen(
            command,
            cwd=PROJECT,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        peak_rss_bytes = _wait(process)
    other_s = _busy_cpu_seconds() - busy_s - (_children_cpu_seconds() - own_s)
    text = output.read_text(encoding="utf-8", errors="replace")
    return Run(process.returncode, text, peak_rss_bytes, max(0.0, other_s))


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Wait for the end, kill the group after the timeout; returns the peak of its memory."""
    deadline_s = time.monotonic() + _TIMEOUT_S
    peaks: dict[int, int] = {}
    try:
        while process.poll() is None and time.monotonic() < deadline_s:
            peaks |= _peaks(process.pid)
            try:
                process.wait(_POLL_S)
            except subprocess.TimeoutExpired:
                continue
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return sum(peaks.values())


def _peaks(pid: int) -> dict[int, int]:
    """The most memory that each process of the tree has held so far, by process id."""
    peaks = {}
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return {}
    for process in tree:
        peak = _peak_rss_bytes(process.pid)
        if peak is not None:
            peaks[process.pid] = peak
    return peaks


def _peak_rss_bytes(pid: int) -> int | None:
    """VmHWM of a process; None when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def _busy_cpu_seconds() -> float:
    """CPU time of all processes since the machine started, stolen time included."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def _children_cpu_seconds() -> float:
    """CPU time of this process's ended children and of theirs."""
    times = os.times()
    return times.children_user + times.children_system
