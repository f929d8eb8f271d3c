"""A worker as `nightshift worker` starts it, with the fake engine and, if wanted, a failpoint."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from models.errors import NightshiftError
from models.settings import load_settings
from tests.faults.failpoints import Failpoint
from tests.faults.fake_engine import FAKE_MODEL
from worker.backends.process import EngineProcess, EngineProcessConfig
from worker.celery_app import run_celery_worker
from worker.logs import configure_logging


def main() -> int:
    """Serve until a signal ends it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--failpoint", type=Failpoint.parse)
    arguments = parser.parse_args()
    if arguments.failpoint:
        arguments.failpoint.install()
    settings = load_settings()
    configure_logging(settings.log_level)
    config = EngineProcessConfig(
        artifact=arguments.artifact, threads=1, max_sequences=settings.max_sequences
    )
    spawn = partial(EngineProcess, config, module="tests.faults.fake_engine")
    try:
        return run_celery_worker(settings, FAKE_MODEL, spawn=spawn)
    except NightshiftError as exc:
        sys.stderr.write(f"{exc}\n")
        return exc.exit_code


if __name__ == "__main__":
    sys.exit(main())
