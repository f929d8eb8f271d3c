"""Small batches for hours on two real workers: does anything grow or stay behind?

`make soak` runs it for two hours; the record that the documentation quotes is one of its runs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sqlalchemy import text

from models.database import Database
from models.model_key import ModelKey, Weights
from models.store.audit import audit_batch
from models.store.batches import get_batch
from models.store.views import Batch
from tests.celery.cluster import PROJECT, wait_for
from tests.faults.batches import submit
from tests.faults.rig import Node, Rig, rig, servers
from tests.servers import RedisServer
from worker.llm.add import add_model
from worker.llm.registry import Registry

MODEL = ModelKey("demo-model", Weights.INT8)
SAMPLE_PERIOD_S = 30.0
BATCH_PERIOD_S = 2.0
BATCH_REQUESTS = 24
MAX_TOKENS = 32
MOST_GROWTH = 0.02
END_S = 120.0
MIB = 1024**2
# The defaults of users, but for memory and cores that two workers of one machine share.
SETTINGS = {
    "LEASE_TTL_S": "90",
    "RENEW_PERIOD_S": "15",
    "SWEEP_PERIOD_S": "15",
    "DISPATCH_TIMEOUT_S": "120",
    "STALL_TIMEOUT_S": "60",
    "MICRO_BATCH_S": "1",
    "LOG_LEVEL": "warning",
    "KV_CACHE_BYTES": str(16 * MIB),
}


@dataclass(frozen=True, slots=True)
class Sample:
    """What one process holds at one time."""

    at_s: float
    process: str
    rss_bytes: int
    n_files: int
    n_threads: int


@dataclass(frozen=True, slots=True)
class Growth:
    """One process over the soak: medians of the first and the last tenth after the warm-up."""

    process: str
    first_rss_bytes: int
    last_rss_bytes: int
    first_n_files: int
    last_n_files: int

    @property
    def share(self) -> float:
        """By how much of itself its memory grew."""
        return self.last_rss_bytes / self.first_rss_bytes - 1


def sample(nodes: Sequence[Node], at_s: float) -> list[Sample]:
    """Workers and engines now."""
    found = []
    for number, node in enumerate(nodes):
        for name, process in (("worker", node.process), ("engine", node.engine)):
            with process.oneshot():
                found.append(
                    Sample(
                        at_s=round(at_s, 1),
                        process=f"{name} {number}",
                        rss_bytes=process.memory_info().rss,
                        n_files=process.num_fds(),
                        n_threads=process.num_threads(),
                    )
                )
    return found


def growths(samples: Sequence[Sample], warm_up_s: float) -> list[Growth]:
    """By process; nothing for a soak that was no longer than its warm-up."""
    warm = [one for one in samples if one.at_s >= warm_up_s]
    found = []
    for name in sorted({one.process for one in warm}):
        mine = [one for one in warm if one.process == name]
        some = max(1, len(mine) // 10)
        first, last = mine[:some], mine[-some:]
        found.append(
            Growth(
                process=name,
                first_rss_bytes=int(statistics.median(one.rss_bytes for one in first)),
                last_rss_bytes=int(statistics.median(one.rss_bytes for one in last)),
                first_n_files=int(statistics.median(one.n_files for one in first)),
                last_n_files=int(statistics.median(one.n_files for one in last)),
            )
        )
    return found


def leaked_rows(database: Database) -> dict[str, int]:
    """Rows that an idle system must not have, by what they are; without those that are none."""
    queries = {
        "open chunks": "SELECT count(*) FROM chunks WHERE state NOT IN "
        "('done', 'quarantined', 'cancelled')",
        "open attempts": "SELECT count(*) FROM attempts WHERE ended_at IS NULL",
        "charged crashes": "SELECT count(*) FROM chunks WHERE crashes > 0",
        "repeated leases": "SELECT count(*) FROM chunks WHERE epoch > 1",
        "workers that never left": "SELECT count(*) FROM workers WHERE left_at IS NULL",
    }
    with database.read() as connection:
        counts = {what: connection.execute(text(sql)).scalar_one() for what, sql in queries.items()}
    return {what: count for what, count in counts.items() if count}


def redis_keys(server: RedisServer) -> list[str]:
    """All keys but the bindings of queues, which stay."""
    with server.client() as client:
        keys = sorted(key.decode() for key in client.scan_iter())
    return [key for key in keys if not key.startswith("_kombu.binding")]


def files_below(folder: Path) -> list[str]:
    """Names of the files in a folder of the workers."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


class Soak:
    """Feeds the workers of a rig and watches them."""

    def __init__(self, made: Rig, *, seconds: float, warm_up_s: float) -> None:
        self._rig = made
        self._seconds = seconds
        self._warm_up_s = warm_up_s
        self._numbers = itertools.count()
        self._files: list[str] | None = None
        self.batches: list[str] = []
        self.samples: list[Sample] = []

    def run(self) -> None:
        """Submit, look, and wait for the last batch."""
        started = time.monotonic()
        sample_at, submit_at = started, started
        while (now := time.monotonic()) - started < self._seconds:
            if now >= sample_at:
                self._look(now - started)
                sample_at += SAMPLE_PERIOD_S
            if now >= submit_at:
                self._submit()
                submit_at += BATCH_PERIOD_S
            time.sleep(max(0.0, min(sample_at, submit_at) - time.monotonic()))
        wait_for(self._all_ended, "all batches have ended", timeout_s=END_S)

    @property
    def growths(self) -> list[Growth]:
        return growths(self.samples, self._warm_up_s)

    def complaints(self) -> list[str]:
        """One sentence for each thing that leaked; call it after the workers have ended."""
        made = self._rig
        said = [f"{g.process} grew by {g.share:.1%}" for g in self.growths if g.share > MOST_GROWTH]
        said += [
            f"{g.process} had {g.first_n_files} open files and then {g.last_n_files}"
            for g in self.growths
            if g.last_n_files > g.first_n_files
        ]
        for batch_id in self.batches:
            if not audit_batch(made.database, batch_id).is_whole:
                said.append(f"batch {batch_id} is not whole")
            if self._batch(batch_id).failed:
                said.append(f"batch {batch_id} has failed requests")
        said += [f"{count} {what}" for what, count in leaked_rows(made.database).items()]
        said += [f"Redis still has the key {key}" for key in redis_keys(made.redis)]
        new = set(files_below(made.home)) - set(self._files or ())
        said += [f"the file {name} was left" for name in sorted(new)]
        return said + [f"still running: {line}" for line in made.leftovers()]

    def _look(self, at_s: float) -> None:
        self.samples += sample(self._rig.nodes, at_s)
        if self._files is None and at_s >= self._warm_up_s:
            self._files = files_below(self._rig.home)

    def _submit(self) -> None:
        prompts = [f"What is {next(self._numbers)} + 7?" for _ in range(BATCH_REQUESTS)]
        self.batches.append(
            submit(
                self._rig.database,
                prompts,
                model=MODEL,
                max_tokens=MAX_TOKENS,
                chunk_requests=BATCH_REQUESTS // 2,
            )
        )

    def _all_ended(self) -> bool:
        return all(self._batch(batch_id).is_terminal for batch_id in self.batches)

    def _batch(self, batch_id: str) -> Batch:
        return get_batch(self._rig.database, batch_id)


def soak(home: Path, *, seconds: float, warm_up_s: float) -> dict[str, object]:
    """Run it on servers of its own; returns the record: what was found, and all samples."""
    add_model(
        Registry(home / "registry"),
        str(PROJECT / "examples/demo-model"),
        name=MODEL.name,
        weights=MODEL.weights,
    )
    with (
        servers() as (redis_server, postgres_server),
        rig(home, redis_server, postgres_server, SETTINGS) as made,
    ):
        for _ in range(2):
            made.start_real_worker(MODEL)
        wait_for(lambda: _n_workers(made.database) == 2, "both workers serve", timeout_s=END_S)
        run = Soak(made, seconds=seconds, warm_up_s=warm_up_s)
        run.run()
        codes = made.stop_workers()
        made.wait_nobody_left()
        return {
            "seconds": seconds,
            "batches": len(run.batches),
            "requests": len(run.batches) * BATCH_REQUESTS,
            "exit_codes": codes,
            "complaints": run.complaints(),
            "growth": [{**asdict(g), "share": round(g.share, 4)} for g in run.growths],
            "samples": [asdict(one) for one in run.samples],
        }


def main() -> int:
    """Soak, print what was found; returns 1 when something leaked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--warm-up-minutes", type=float, default=10)
    parser.add_argument("--record", type=Path, help="write the record to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nightshift-soak-") as home:
        record = soak(
            Path(home),
            seconds=60 * arguments.minutes,
            warm_up_s=60 * arguments.warm_up_minutes,
        )
    if arguments.record:
        arguments.record.write_text(json.dumps(record, indent=1) + "\n")
    found = {name: value for name, value in record.items() if name != "samples"}
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    return 1 if record["complaints"] else 0


def _n_workers(database: Database) -> int:
    with database.read() as connection:
        return int(connection.execute(text("SELECT count(*) FROM workers")).scalar_one())


if __name__ == "__main__":
    sys.exit(main())
