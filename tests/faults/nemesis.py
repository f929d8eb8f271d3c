"""Random faults on two workers, from a seed: whatever happens, every promise holds.

`make nemesis SEEDS=100` runs that many seeds; a seed that fails is printed with what was done and
is run again by `python -m tests.faults.nemesis --seed N`.
"""

from __future__ import annotations

import itertools
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import psutil

from models.database import Database
from models.errors import NightshiftError, StateError
from models.settings import load_settings
from models.store.batches import cancel_batch, get_batch, list_chunks
from models.store.results import stream_records
from models.store.views import Ring
from tests.celery.cluster import wait_for
from tests.faults.batches import submit
from tests.faults.checker import redone, violations
from tests.faults.failpoints import POINTS
from tests.faults.fake_engine import FAKE_MODEL, Script, prompt_text
from tests.faults.rig import QUICK_SETTINGS, Node, Rig
from worker.celery_app import create_app
from worker.doorbell import CeleryDoorbell

N_WORKERS: Final = 2
N_OPEN_BATCHES: Final = 3
BATCH_REQUESTS: Final = 200
MAX_TOKENS: Final = 16
POISON_SHARE: Final = 0.004
LONGEST_PAUSE_S: Final = 8.0
LEASE_TTL_S: Final = float(QUICK_SETTINGS["LEASE_TTL_S"])
END_S: Final = 240.0
POISONS: Final = ("!crash", "!hang", "!oom", "!worker")
CRASH_LOOP: Final = "the worker leaves service: the engine crashed more than"
# What the faults may do to a request: its worker died with it too often, or somebody cancelled.
MAY_FAIL: Final = ("worker_lost", "batch_cancelled")


@dataclass(frozen=True, slots=True)
class Report:
    """One seed's run."""

    seed: int
    actions: list[str]
    violations: list[str]
    batches: int
    requests: int
    lost: int  # failed as worker_lost although harmless
    redone: int


@dataclass
class Nemesis:
    """Breaks things for some seconds, then lets everything heal and looks."""

    rig: Rig
    seed: int
    seconds: float
    actions: list[str] = field(default_factory=list)
    batch_ids: list[str] = field(default_factory=list)
    _healing: list[tuple[float, Callable[[], None]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(f"{self.seed}:0")
        self._started = time.monotonic()

    def run(self) -> Report:
        """Returns what was found; an empty list of violations is a pass."""
        end = time.monotonic() + self.seconds
        for step in itertools.count(1):
            if time.monotonic() >= end:
                break
            # What a step draws depends on the seed alone, not on how fast those before it were.
            self._random = random.Random(f"{self.seed}:{step}")
            self._keep_going()
            self._act()
            self._wait(self._random.uniform(0.2, 3.0))
        self._heal_all()
        found = self._settle()
        workers = [node.worker for node in self.rig.nodes]
        for batch_id in self.batch_ids:
            found += [
                f"{batch_id}: {sentence}"
                for sentence in violations(
                    self.rig.database, batch_id, may_fail=MAY_FAIL, workers=workers
                )
            ]
        return Report(
            seed=self.seed,
            actions=self.actions,
            violations=found,
            batches=len(self.batch_ids),
            requests=len(self.batch_ids) * BATCH_REQUESTS,
            lost=sum(self._lost(batch_id) for batch_id in self.batch_ids),
            redone=sum(redone(workers, batch_id) for batch_id in self.batch_ids),
        )

    def _settle(self) -> list[str]:
        """Wait for the end of all batches, then for that of all processes."""

        def is_over() -> bool:
            self._start_missing("")
            # A signal ends a worker that has not begun yet as it ends any program.
            running = [node for node in self.rig.nodes if node.is_running]
            all_serve = all(node.worker.said("worker ready") for node in running)
            return all_serve and not self._open_batches()

        found = []
        try:
            wait_for(is_over, "all batches have ended", timeout_s=END_S)
        except AssertionError as exc:
            found.append(str(exc))
        running = [node.worker for node in self.rig.nodes if node.is_running]
        codes = self.rig.stop_workers()
        # A worker whose engine crashed too often has begun to end, with 1, before it was told to.
        due = [int(bool(worker.said(CRASH_LOOP))) for worker in running]
        if codes != due:
            found.append(f"workers ended with {codes}, not {due}, when they were told to stop")
        self.rig.wait_nobody_left()
        return found

    def _keep_going(self) -> None:
        """Like a service manager and a user: start what has ended, submit when little is open."""
        failpoint = ""
        if self._random.random() < 0.3:
            point, times = self._random.choice(sorted(POINTS)), self._random.randint(1, 6)
            failpoint = f"{point}:kill:{times}"
        self._start_missing(failpoint)
        with suppress(NightshiftError):
            if len(self._open_batches()) < N_OPEN_BATCHES:
                self.batch_ids.append(
                    submit(self.rig.database, self._prompts(), max_tokens=MAX_TOKENS)
                )

    def _start_missing(self, failpoint: str) -> None:
        running = [node for node in self.rig.nodes if node.is_running]
        for _ in range(N_WORKERS - len(running)):
            self._note(f"start {failpoint}")
            self.rig.start_worker(script=Script(step_s=0.01), failpoint=failpoint)

    def _prompts(self) -> list[str]:
        number = len(self.batch_ids)
        choice = random.Random(f"{self.seed}:batch {number}")
        prompts = [f"batch {number} prompt {idx}" for idx in range(BATCH_REQUESTS)]
        for idx in range(BATCH_REQUESTS):
            if choice.random() < POISON_SHARE:
                prompts[idx] = f"{choice.choice(POISONS)} {prompts[idx]}"
        return prompts

    def _act(self) -> None:
        actions: list[tuple[int, Callable[[], str]]] = [
            (3, self._kill_worker),
            (4, self._kill_engine),
            (3, self._pause_worker),
            (3, self._stop_worker),
            (3, self._flush_redis),
            (2, self._kill_redis),
            (2, self._break_connections_to_redis),
            (2, self._crash_postgres),
            (6, self._disturb_network),
            (5, self._cut_commit),
            (2, self._ring_for_nothing),
            (1, self._cancel),
        ]
        weights = [weight for weight, _ in actions]
        chosen = self._random.choices(actions, weights)[0][1]
        try:
            self._note(chosen())
        except (NightshiftError, psutil.Error, StateError) as exc:
            self._note(f"{chosen.__name__} found nothing to do ({type(exc).__name__})")

    def _node(self) -> Node:
        return self._random.choice([node for node in self.rig.nodes if node.is_running])

    def _kill_worker(self) -> str:
        node = self._node()
        node.kill()
        return f"kill worker {node.worker.process.pid}"

    def _kill_engine(self) -> str:
        for engine in self._node().process.children():
            engine.kill()
        return "kill engine"

    def _pause_worker(self) -> str:
        node, seconds = self._node(), self._random.uniform(0.5, 2 * LEASE_TTL_S)
        with_engine = self._random.random() < 0.5
        node.pause(with_engine=with_engine)
        self._later(seconds, node.resume)
        return f"pause worker {node.worker.process.pid} for {seconds:.1f} s, engine {with_engine}"

    def _stop_worker(self) -> str:
        node = self._node()
        node.worker.process.send_signal(signal.SIGTERM)
        return f"SIGTERM to worker {node.worker.process.pid}"

    def _flush_redis(self) -> str:
        if self.rig.redis.answers():
            self.rig.redis.flushall()
        return "FLUSHALL"

    def _kill_redis(self) -> str:
        self.rig.redis.kill()
        seconds = self._random.uniform(0.0, LONGEST_PAUSE_S)
        self._later(seconds, self.rig.redis.start)
        return f"kill Redis for {seconds:.1f} s"

    def _break_connections_to_redis(self) -> str:
        for node in self.rig.nodes:
            node.broker.reset()
        return "reset connections to Redis"

    def _crash_postgres(self) -> str:
        self.rig.postgres.crash()
        seconds = self._random.uniform(0.0, LONGEST_PAUSE_S / 2)
        self._wait(seconds)  # the other actions need it
        self.rig.postgres.start()
        return f"crash PostgreSQL for {seconds:.1f} s"

    def _disturb_network(self) -> str:
        node, seconds = self._node(), self._random.uniform(0.5, LONGEST_PAUSE_S)
        name = self._random.choice(["database", "broker"])
        proxy = node.database if name == "database" else node.broker
        how = self._random.choice(["blackhole", "refuse", "delay", "reset"])
        if how == "delay":
            proxy.delay(self._random.uniform(0.05, 0.5))
        else:
            getattr(proxy, how)()
        self._later(seconds, proxy.pass_on)
        return f"{how} {node.worker.process.pid} to the {name} for {seconds:.1f} s"

    def _cut_commit(self) -> str:
        node = self._node()
        node.database.cut_after(rb"COMMIT")
        return f"lose an answer to COMMIT of {node.worker.process.pid}"

    def _ring_for_nothing(self) -> str:
        batch_id = self._random.choice(self.batch_ids)
        chunk = self._random.choice(list_chunks(self.rig.database, batch_id))
        bell = CeleryDoorbell(create_app(load_settings({}, broker_url=self.rig.redis.url)))
        for _ in range(10):
            bell.ring(Ring(chunk_id=chunk.id, batch_id=batch_id, model=FAKE_MODEL, n=1))
        return f"ring ten times for chunk {chunk.id}"

    def _cancel(self) -> str:
        batch_id = self._random.choice(self.batch_ids)
        cancel_batch(self.rig.database, batch_id)
        return f"cancel {batch_id}"

    def _later(self, seconds: float, heal: Callable[[], None]) -> None:
        self._healing.append((time.monotonic() + seconds, heal))

    def _wait(self, seconds: float) -> None:
        """Let time pass, and heal what is due meanwhile."""
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            self._heal(lambda due_at, now=now: due_at <= now)  # type: ignore[misc]
            time.sleep(0.05)

    def _heal_all(self) -> None:
        self._heal(lambda _: True)
        self.rig.redis.start()
        self.rig.postgres.start()
        self._note("all is healed")

    def _heal(self, is_due: Callable[[float], bool]) -> None:
        due = [entry for entry in self._healing if is_due(entry[0])]
        self._healing = [entry for entry in self._healing if entry not in due]
        for _, heal in due:
            with suppress(psutil.Error):  # it died while it was paused
                heal()

    def _open_batches(self) -> list[str]:
        database = self.rig.database
        return [one for one in self.batch_ids if not get_batch(database, one).is_terminal]

    def _lost(self, batch_id: str) -> int:
        return _n_harmless_lost(self.rig.database, batch_id)

    def _note(self, action: str) -> None:
        self.actions.append(f"{time.monotonic() - self._started:6.1f} s  {action}")


def _n_harmless_lost(database: Database, batch_id: str) -> int:
    return sum(
        record.refusal is not None
        and record.refusal.code == "worker_lost"
        and record.prompt is not None
        and not prompt_text(record.prompt).startswith(POISONS)
        for record in stream_records(database, batch_id)
    )
