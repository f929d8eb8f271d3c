"""A worker as `nightshift worker` starts it, with the fake engine and, if wanted, a failpoint."""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path

from cli.stopping import stop_on_signals
from models.database import connect_database
from models.errors import NightshiftError
from models.settings import Settings, load_settings
from tests.faults.failpoints import Failpoint
from tests.faults.fake_engine import FAKE_MODEL
from worker import celery_app
from worker.backends.process import EngineProcess, EngineProcessConfig
from worker.embedded import EmbeddedWorker
from worker.jobs.engine_port import SpawnEngine
from worker.logs import configure_logging
from worker.redis_transport import Channel
from worker.watchdog import DeafnessWatch

DEAF_AFTER_S = 3.0


def run_embedded_worker(settings: Settings, spawn: SpawnEngine) -> int:
    """Without a broker, over SQLite."""
    with (
        connect_database(settings.resolved_database_url) as database,
        stop_on_signals() as stop,
    ):
        worker = EmbeddedWorker(settings, database, FAKE_MODEL, spawn=spawn)
        return worker.run_forever(stop.is_set)


def disturb(arguments: argparse.Namespace) -> None:
    """Make this process as faulty as it is asked to be."""
    if arguments.deaf:
        Channel._brpop_start = lambda *_, **__: None  # type: ignore[method-assign]
        quick = partial(DeafnessWatch, limit_s=DEAF_AFTER_S)
        celery_app.DeafnessWatch = quick  # type: ignore[assignment, attr-defined]
    if arguments.clock_offset_s:
        true_time = time.time
        time.time = lambda: true_time() + arguments.clock_offset_s
    if arguments.failpoint:
        arguments.failpoint.install()


def main() -> int:
    """Serve until a signal ends it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--failpoint", type=Failpoint.parse)
    parser.add_argument("--clock-offset-s", type=int, default=0)
    parser.add_argument("--deaf", action="store_true", help="never hear the queue")
    arguments = parser.parse_args()
    disturb(arguments)
    settings = load_settings()
    configure_logging(settings.log_level)
    config = EngineProcessConfig(
        artifact=arguments.artifact, threads=1, max_sequences=settings.max_sequences
    )
    spawn = partial(EngineProcess, config, module="tests.faults.fake_engine")
    try:
        if settings.broker_url is None:
            return run_embedded_worker(settings, spawn)
        return celery_app.run_celery_worker(settings, FAKE_MODEL, spawn=spawn)
    except NightshiftError as exc:
        sys.stderr.write(f"{exc}\n")
        return exc.exit_code


if __name__ == "__main__":
    sys.exit(main())
