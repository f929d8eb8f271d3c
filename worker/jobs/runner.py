"""The holder's side of the lease protocol: claim, generate, commit, until no chunk is left.

The one place where the job store and an engine meet. It holds several leases at once, so that
the engine never drains between two chunks. One thread uses a runner.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from models.database import Database
from models.disk_space import DiskSpace
from models.errors import DatabaseUnavailable, EngineError, StorageFull
from models.model_key import ModelKey
from models.settings import Settings
from models.store.leases import claim_chunk, claim_next, missing_requests, release_unknown
from models.store.views import Lease
from worker.backends.messages import Ready
from worker.jobs.committer import Committer
from worker.jobs.engine_port import SpawnEngine
from worker.jobs.feeding import Feeder
from worker.jobs.held import HeldLease, LeaseBook
from worker.jobs.lease_keeper import LeaseKeeper, lease_deadline
from worker.jobs.memory_watch import MemoryWatch
from worker.jobs.patience import Patience
from worker.jobs.supervisor import EngineSupervisor

# Chunks in their last long answers hold a lease each, so the bound is well above what is fed.
MAX_LEASES = 16
_TICK_S = 0.25  # how soon a request to stop is noticed

_log = logging.getLogger(__name__)

Named = Callable[[], int | None]


class ChunkRunner:
    """Works on chunks of one model with one engine.

    `start`, then any number of `serve`, then `close`. `keeper_database` is a connection of its own
    for renewals, which must not wait for a commit. `on_commit` hears of every commit, `on_drain`
    of the end of a `serve` that was asked for, before what is held is given back.
    """

    def __init__(
        self,
        *,
        database: Database,
        keeper_database: Database,
        settings: Settings,
        model: ModelKey,
        worker_id: str,
        spawn: SpawnEngine,
        on_commit: Callable[[Lease], None] = lambda _: None,
        on_drain: Callable[[], None] = lambda: None,
    ) -> None:
        self._database = database
        self._settings = settings
        self._model = model
        self._worker_id = worker_id
        self._on_drain = on_drain
        self._patience = Patience()
        self._until: Callable[[], bool] = lambda: False
        self._may_hold_unknown = False
        self._space = DiskSpace(database, settings.min_free_disk_bytes)
        self._lacks_space = False
        self.book = LeaseBook()
        self.supervisor = EngineSupervisor(spawn, settings)
        self._committer = Committer(
            self.book,
            database=database,
            settings=settings,
            patience=self._patience,
            on_commit=on_commit,
        )
        self._feeder = Feeder(
            self.book, supervisor=self.supervisor, committer=self._committer, settings=settings
        )
        self._memory = MemoryWatch(settings.max_engine_rss_bytes, lambda: self.supervisor.rss_bytes)
        self._keeper = LeaseKeeper(
            self.book,
            database=keeper_database,
            settings=settings,
            is_engine_alive=self.supervisor.is_alive,
        )

    def start(self) -> Ready:
        """Load the model; raises ModelError or EngineError, and then no chunk was touched."""
        ready = self.supervisor.start()
        self._memory.loaded()
        self._keeper.start()
        return ready

    def close(self) -> None:
        """Give back what may be leased unknown to us; stop the engine and the renewals."""
        try:
            self._release_unknown()  # even if the database failed a moment ago: it is the last try
        except (DatabaseUnavailable, StorageFull) as exc:
            _log.warning("a lease that nobody heard of may have to run out: %s", exc)
        self.supervisor.stop()
        self._keeper.stop()

    def check_idle(self) -> None:
        """Between two `serve`: read the engine's signs of life, replace it when it died."""
        try:
            self._feeder.collect(0)
        except EngineError as exc:
            self._recover(exc)

    def serve(
        self,
        *,
        until: Callable[[], bool],
        named: Named = lambda: None,
        only_batch: str | None = None,
    ) -> None:
        """Work until no chunk can be claimed or `until()` holds; afterwards no lease is held.

        `named` gives the chunks that the doorbell announced, one a call; they are tried first.
        Raises EngineGivenUp or ModelError when the engine cannot be brought back.
        """
        self._until = until
        while not until():
            if not self._memory.is_over():
                self._claim_ahead(named, only_batch)
            elif not self.book:
                self._renew_engine()
                continue
            if not self.book:
                return
            try:
                self._work()
            except EngineError as exc:
                self._recover(exc)
        self._drain()

    def _work(self) -> None:
        """One turn: feed the engine, take its answers, write them, let go of what is lost."""
        self._feeder.feed()
        due_s = self._committer.seconds_until_due()
        self._feeder.collect(_TICK_S if due_s is None else min(_TICK_S, due_s))
        self._committer.commit_due()
        for held in self.book.all():
            self._let_go(held)

    def _claim_ahead(self, named: Named, only_batch: str | None) -> None:
        """Claim chunks while the engine would soon run out of requests."""
        while self._wants_more():
            chunk_id = named()
            sent_at = time.monotonic()
            lease = self._patience.attempt(partial(self._claim, chunk_id, only_batch))
            if lease is not None:
                self._memory.worked()
                self._hold(lease, sent_at)
            elif chunk_id is None:
                return

    def _wants_more(self) -> bool:
        return (
            self.book.unfinished < self._feeder.low_water
            and len(self.book) < MAX_LEASES
            and not self._patience.waits
            and not self._committer.is_behind
            and not self._until()
            and not self._is_disk_low()
            and not any(self._feeder.is_suspect(held) for held in self.book.all())
        )

    def _is_disk_low(self) -> bool:
        """Whether what is held should be finished first, so that there is room to write it."""
        shortage = self._space.shortage()
        if shortage is not None and not self._lacks_space:
            _log.warning("no chunk is claimed: %s", shortage)
        self._lacks_space = shortage is not None
        return self._lacks_space

    def _claim(self, chunk_id: int | None, only_batch: str | None) -> Lease | None:
        """Claim this chunk or the next one; first give back what was leased unknown to us."""
        self._release_unknown()
        self._may_hold_unknown = True  # until the answer is here: it may be lost on its way
        lease = (
            self._claim_next(only_batch)
            if chunk_id is None
            else self._claim_named(chunk_id, only_batch)
        )
        self._may_hold_unknown = False
        return lease

    def _claim_named(self, chunk_id: int, only_batch: str | None) -> Lease | None:
        return claim_chunk(
            self._database,
            chunk_id,
            self._worker_id,
            ttl_s=self._settings.lease_ttl_s,
            model=self._model,
            only_batch=only_batch,
            max_crashes=self._settings.max_crashes,
        )

    def _claim_next(self, only_batch: str | None) -> Lease | None:
        return claim_next(
            self._database,
            self._model,
            self._worker_id,
            ttl_s=self._settings.lease_ttl_s,
            only_batch=only_batch,
            max_crashes=self._settings.max_crashes,
        )

    def _release_unknown(self) -> None:
        if not self._may_hold_unknown:
            return
        reason = "the worker did not hear that it has the lease, or could not renew it"
        found = release_unknown(self._database, self._worker_id, self.book.leases, reason=reason)
        if found:
            _log.warning("chunks released: %s", reason, extra={"chunks": found})
        self._may_hold_unknown = False

    def _hold(self, lease: Lease, sent_at: float) -> None:
        """Enter a new lease in the book, with the requests that have no result yet."""
        held = HeldLease(
            lease=lease,
            deadline=lease_deadline(sent_at, self._settings),
            claimed_at=sent_at,
            waiting=deque(),
        )
        self.book.add(held)
        requests = self._patience.attempt(lambda: missing_requests(self._database, lease))
        if requests is None:
            self._committer.release(held, "its requests could not be read")
            self._may_hold_unknown = True  # the database is away for this, too
            return
        held.waiting.extend(requests)
        _log.info(
            "chunk claimed",
            extra={
                "batch": lease.batch_id,
                "chunk": lease.chunk_id,
                "epoch": lease.epoch,
                "missing": len(requests),
            },
        )

    def _let_go(self, held: HeldLease) -> None:
        """Give up a lease that may no longer be written under or whose batch was cancelled."""
        lease = held.lease
        if not held.usable(time.monotonic()):
            self._feeder.cancel(held)
            self.book.forget(held)
            self._may_hold_unknown = True  # if nobody took it over, the database was away
            # The commit that closed the chunk may have succeeded with its answer lost.
            self._committer.finalize(lease.batch_id)
            _log.warning(
                "chunk lost: another worker takes it over",
                extra={"batch": lease.batch_id, "chunk": lease.chunk_id, "epoch": lease.epoch},
            )
        elif held.cancelled:
            self._feeder.cancel(held)
            self._committer.commit(held)
            if self.book.holds(lease.chunk_id) and not held.finished:
                self._committer.release(held, "the batch was cancelled")
        elif held.is_complete and not held.finished and not self._patience.waits:
            self._committer.release(held, "its requests are final but the chunk is not done")

    def _recover(self, exc: EngineError) -> None:
        """Save what finished, give the leases back charged with the crash, start a new engine."""
        _log.error("the engine failed: %s", exc)
        culprit = self._culprit()
        if culprit is not None:
            self._committer.blame(*culprit, message=f"the request crashes the engine: {exc}")
        self._committer.commit_all()
        for held in self.book.all():
            crashed = bool(held.running)  # what still waited cannot be to blame
            self._committer.release(held, str(exc), crashed=crashed)
        self.supervisor.restart()
        self._memory.loaded()

    def _renew_engine(self) -> None:
        """Replace an engine that has grown too big; no lease is held."""
        self._memory.log_restart()
        try:
            self.supervisor.renew()
            self._memory.loaded()
        except EngineError as exc:
            self._recover(exc)

    def _culprit(self) -> tuple[HeldLease, int] | None:
        """The only request in the engine, when its chunk was on its last chance."""
        running = [(held, idx) for held in self.book.all() for idx in held.running]
        if len(running) == 1 and self._feeder.is_last_chance(running[0][0]):
            return running[0]
        return None

    def _drain(self) -> None:
        """Stop generating, write what finished, give the rest back uncharged."""
        self._on_drain()
        try:
            if any(held.running for held in self.book.all()):
                self._feeder.quiet()
        except EngineError as exc:
            _log.warning("the engine ended while the worker stopped: %s", exc)
        deadline = time.monotonic() + self._settings.drain_timeout_s / 2
        self._committer.commit_all()
        while self.book.uncommitted and time.monotonic() < deadline:
            time.sleep(_TICK_S)  # the database is away: patience says when to ask again
            self._committer.commit_all()
        for held in self.book.all():
            self._committer.release(held, "the worker stops")
