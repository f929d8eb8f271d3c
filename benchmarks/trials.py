"""Runs one trial: a runner in its environment, watched from outside, its token counts checked."""

from __future__ import annotations

import contextlib
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
    python: str  # of the engine's environment
    job: Job
    log: Path


class TreeUsage:
    """What a process and its descendants have used, as far as it was looked at."""

    def __init__(self) -> None:
        self._peaks: dict[int, int] = {}  # by process id
        self._cpu_seconds: dict[int, float] = {}

    @property
    def peak_rss_bytes(self) -> int:
        """The sum of what each process held at most: an upper bound of what all held at once."""
        return sum(self._peaks.values())

    @property
    def cpu_seconds(self) -> float:
        """CPU time of all processes."""
        return sum(self._cpu_seconds.values())

    def look(self, pid: int) -> None:
        """Take the figures of all processes of the tree that are alive."""
        try:
            root = psutil.Process(pid)
            tree = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess, OSError):  # it has just ended
                times = process.cpu_times()
                self._cpu_seconds[process.pid] = times.user + times.system
                peak_bytes = max(_peak_rss_bytes(process.pid), self._peaks.get(process.pid, 0))
                self._peaks[process.pid] = peak_bytes  # one that is ending holds nothing any more


def _peak_rss_bytes(pid: int) -> int:
    """VmHWM of a process; 0 for one that is ending. Raises OSError when it is gone."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


@dataclass(frozen=True, slots=True)
class Run:
    """What was seen of a runner from outside."""

    exit_code: int
    output: str
    peak_rss_bytes: int
    other_cpu_seconds: float


def runner_command(python: str, module: str, job: Job) -> list[str]:
    """How a runner is started."""
    return [python, "-m", module, json.dumps(asdict(job))]


def run_trial(plan: Plan) -> Trial:
    """Run it and judge it; a failure is a void trial, not an exception."""
    started, load = datetime.now(UTC), load_average()
    run = watch(runner_command(plan.python, plan.spec.runner, plan.job), plan.log)
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
    busy_s, usage = _busy_cpu_seconds(), TreeUsage()
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
        _wait(process, usage)
    other_s = _busy_cpu_seconds() - busy_s - usage.cpu_seconds
    text = output.read_text(encoding="utf-8", errors="replace")
    return Run(process.returncode, text, usage.peak_rss_bytes, max(0.0, other_s))


def _wait(process: subprocess.Popen[bytes], usage: TreeUsage) -> None:
    """Wait for the end, looking at the tree meanwhile; kill the group after the timeout."""
    deadline_s = time.monotonic() + _TIMEOUT_S
    try:
        while process.poll() is None and time.monotonic() < deadline_s:
            usage.look(process.pid)
            try:
                process.wait(_POLL_S)
            except subprocess.TimeoutExpired:
                continue
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _busy_cpu_seconds() -> float:
    """CPU time of all processes since the machine started, stolen time included."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)
