"""Scores texts in a process of its own, as an engine is one: memory that goes, and no secrets.

Torch-free.
"""

from __future__ import annotations

import os
import subprocess
import sys

from pydantic import TypeAdapter

from models.errors import EngineCrashed
from worker.backends.messages import Failed
from worker.backends.process import describe_end, error_of, with_threads
from worker.backends.process_environment import engine_environment
from worker.backends.scoring_messages import ScoringJob, ScoringResult

_ANSWER: TypeAdapter[ScoringResult | Failed] = TypeAdapter(ScoringResult | Failed)


def run_scoring(job: ScoringJob) -> ScoringResult:
    """Wait for the scores; raises what the process failed with, EngineCrashed when it died."""
    config, threads = with_threads(job.config)
    module = [sys.executable, "-P", "-m", "worker.backends.scoring"]
    with subprocess.Popen(
        [*module, "--parent", str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=engine_environment(os.environ, threads),
    ) as process:
        given = job.model_copy(update={"config": config}).model_dump_json().encode()
        try:
            output, _ = process.communicate(given)
        except BaseException:
            process.kill()  # Ctrl-C is for us to hear
            raise
    if not output:
        raise EngineCrashed(describe_end(process, asked=False))
    answer = _ANSWER.validate_json(output)
    if isinstance(answer, Failed):
        raise error_of(answer)
    return answer
