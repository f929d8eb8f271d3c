"""The whole pipeline, as a user starts it: `nightshift run` on a file of requests.

Its seconds are those of the whole command, less those in which it waited for the model to load
and did nothing else: reading, SQL, generating, writing. The job's model is the home folder in which
the model was added before. Settings: model (registered name), weights.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.job import Counts, Job, Report, read_job, write_report
from benchmarks.workloads import Workload, read_workload
from worker.backends.machine import usable_cores


def run_pipeline(job: Job) -> Report:
    """Run the command once with a database of its own, and read what it wrote."""
    workload = read_workload(Path(job.workload))
    with tempfile.TemporaryDirectory(dir=Path(job.model).parent) as name:
        folder = Path(name)
        write_input(workload, folder / "input.jsonl")
        started_s = time.perf_counter()
        _run_command(job, folder)
        wall_s = time.perf_counter() - started_s
        summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
        counts = read_counts(folder / "output.jsonl", len(workload.requests))
    load_s = float(summary["stage_seconds"].get("load", 0.0))
    return Report(
        seconds=wall_s - load_s,
        load_seconds=load_s,
        input_counts=counts.input,
        output_counts=counts.output,
        versions={"torch": version("torch")},
        figures=dict(_figures(summary)),
    )


def write_input(workload: Workload, path: Path) -> None:
    """The workload as a file of OpenAI's batch shape; `custom_id` is the request's number."""
    with path.open("w", encoding="utf-8") as file:
        for index, request in enumerate(workload.requests):
            body = {
                "prompt": list(request.token_ids),
                "max_tokens": request.output_tokens,
                "min_tokens": request.output_tokens,
                "ignore_eos": True,
                "temperature": 0,
            }
            line = {
                "custom_id": str(index),
                "method": "POST",
                "url": "/v1/completions",
                "body": body,
            }
            file.write(json.dumps(line) + "\n")


def read_counts(path: Path, requests: int) -> Counts:
    """Tokens of each request as the answers count them; 0 where there is no answer."""
    counts = Counts(input=[0] * requests, output=[0] * requests)
    with path.open(encoding="utf-8") as file:
        for line in file:
            answer = json.loads(line)
            usage = answer["response"]["body"]["usage"]
            counts.input[int(answer["custom_id"])] = usage["prompt_tokens"]
            counts.output[int(answer["custom_id"])] = usage["completion_tokens"]
    return counts


def _run_command(job: Job, folder: Path) -> None:
    environment = {
        **os.environ,
        "NIGHTSHIFT_HOME": job.model,
        "NIGHTSHIFT_DATABASE_URL": f"sqlite:///{folder / 'database.db'}",
    }
    arguments = [
        str(folder / "input.jsonl"),
        *("--output", str(folder / "output.jsonl")),
        *("--summary", str(folder / "summary.json")),
        *("--model", job.text("model")),
        *("--weights", job.text("weights")),
        *_threads(job),
    ]
    subprocess.run([sys.executable, "-m", "cli", "run", *arguments], env=environment, check=True)


def _threads(job: Job) -> Iterator[str]:
    """Fewer threads than cores are asked for; with all cores the command decides, as for a user."""
    if job.threads < usable_cores():
        yield from ("--threads", str(job.threads))


def _figures(summary: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The command's own figures: all numbers of its summary, stages by name."""
    for name, value in summary.items():
        if isinstance(value, int | float):
            yield name, float(value)
    for name, value in summary["stage_seconds"].items():
        yield f"stage_{name}_seconds", float(value)


def main() -> None:
    """Run the job."""
    write_report(run_pipeline(read_job()))


if __name__ == "__main__":
    main()
