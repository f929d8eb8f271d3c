"""Whoever waits for changes of batches: one look a second for all of them, however many they are.

Lives in the event loop and holds no thread while it waits. Must not know HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool

from models.database import Database
from models.errors import NightshiftError
from models.projections import describe_batches
from models.store.batches import find_batches
from models.store.views import Batch
from models.wire.json_lines import json_line

PERIOD_S = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sight:
    """A batch as it was seen, and as JSON."""

    batch: Batch
    shown: str


class Watch:
    """One caller's view of a batch; it is told what differs from what it was told before."""

    def __init__(self, batch: Batch) -> None:
        self.told = batch
        self.is_over = False  # nothing is told any more: the process stops
        self._sight: Sight | None = None
        self._news = asyncio.Event()

    async def next(self, timeout_s: float | None = None) -> Sight | None:
        """The newest state as soon as there is another; None when time or watch are over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        self._news.clear()
        sight, self._sight = self._sight, None
        return sight

    def tell(self, sight: Sight) -> None:
        """Let the caller have this state; one that it did not fetch yet is skipped."""
        self.told, self._sight = sight.batch, sight
        self._news.set()

    def end(self) -> None:
        """Let the caller go."""
        self.is_over = True
        self._news.set()


class Watchers:
    """All watches of this process, and the task that looks for them while there are any."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._watches: set[Watch] = set()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    @contextmanager
    def watch(self, batch: Batch) -> Iterator[Watch]:
        """Be told, inside the block, of every state of the batch after this one."""
        watch = Watch(batch)
        self._watches.add(watch)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        try:
            yield watch
        finally:
            self._watches.discard(watch)

    async def until_ended(self, batch: Batch, timeout_s: float) -> None:
        """Wait for the batch's end, but no longer than that and not when the process stops."""
        with suppress(TimeoutError), self.watch(batch) as watch:
            async with asyncio.timeout(timeout_s):
                while not watch.told.is_terminal and not watch.is_over:
                    await watch.next()

    def stop(self) -> None:
        """From anywhere, also from a signal's handler: let everybody go within a period."""
        self._stopping = True

    async def _run(self) -> None:
        while self._watches and not self._stopping:
            try:
                await self._look()
            except NightshiftError as exc:
                _log.warning("watched batches are not looked at: %s", exc)
            except Exception:
                _log.exception("a look at watched batches failed; the next period tries again")
            await asyncio.sleep(PERIOD_S)
        for watch in self._watches:
            watch.end()

    async def _look(self) -> None:
        watches = list(self._watches)  # who comes during the look may know newer states already
        seen = await run_in_threadpool(self._changed, watches)
        for watch in watches:
            sight = seen.get(watch.told.id)
            if sight is not None and sight.batch != watch.told:
                watch.tell(sight)

    def _changed(self, watches: Sequence[Watch]) -> dict[str, Sight]:
        """Those batches, by id, that are not as each watch was told."""
        found = find_batches(self._database, {watch.told.id for watch in watches})
        ids = {watch.told.id for watch in watches if found.get(watch.told.id) != watch.told}
        changed = [batch for id_, batch in found.items() if id_ in ids]
        described = describe_batches(self._database, changed)
        return {
            batch.id: Sight(batch, json_line(shown))
            for batch, shown in zip(changed, described, strict=True)
        }
