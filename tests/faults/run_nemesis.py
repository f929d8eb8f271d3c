"""Runs the nemesis over many seeds, several at once, and keeps a record."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.celery.cluster import PROJECT
from tests.faults.nemesis import Nemesis
from tests.faults.rig import rig, servers

SECONDS = 60.0
FOUND = 1


def run_seed(seed: int, seconds: float) -> dict[str, Any]:
    """One seed on servers of its own; returns its report. The logs of a red one are kept."""
    home = Path(tempfile.mkdtemp(prefix=f"nightshift-nemesis-{seed}-"))
    with (
        servers() as (redis_server, postgres_server),
        rig(home, redis_server, postgres_server) as made,
    ):
        report = Nemesis(made, seed, seconds).run()
    if report.violations:
        report.actions.append(f"the logs of the workers are in {home}")
    else:
        shutil.rmtree(home)
    return asdict(report)


def run_apart(seed: int, seconds: float) -> dict[str, Any]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "tests.faults.run_nemesis"]
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        ended = subprocess.run(
            [*command, "--seed", str(seed), "--seconds", str(seconds), "--report", report.name],
            cwd=PROJECT,
            check=False,
            capture_output=True,
            text=True,
        )
        written = Path(report.name).read_text()
    if not written:
        broken = [f"the run broke: {ended.stderr[-2000:]}"]
        return {"seed": seed, "violations": broken, "actions": [], "requests": 0, "lost": 0}
    found: dict[str, Any] = json.loads(written)
    return found


def main() -> int:
    """Print a line a seed; returns 1 when one was red."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="run seeds 1 to this")
    parser.add_argument("--seed", type=int, help="run this one alone, here")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of faults a seed")
    parser.add_argument("--jobs", type=int, default=2, help="seeds at once")
    parser.add_argument("--report", type=Path, help="write all that was found to this file")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        reports = [run_seed(arguments.seed, arguments.seconds)]
        found: Any = reports[0]
    else:
        with ThreadPoolExecutor(arguments.jobs) as jobs:
            seeds = range(1, arguments.seeds + 1)
            reports = []
            for report in jobs.map(lambda seed: run_apart(seed, arguments.seconds), seeds):
                _print(report)
                reports.append(report)
        found = [{k: v for k, v in r.items() if k != "actions" or r["violations"]} for r in reports]
    if arguments.report:
        arguments.report.write_text(json.dumps(found, indent=1) + "\n")
    red = [report for report in reports if report["violations"]]
    for report in red:
        sys.stdout.write("\n".join([*report["actions"], *report["violations"]]) + "\n")
    return FOUND if red else 0


def _print(report: dict[str, Any]) -> None:
    verdict = "red" if report["violations"] else "green"
    sys.stdout.write(f"seed {report['seed']}: {verdict}, {report['requests']} requests\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
