"""`python -m benchmarks.redis_memory`: what Redis holds while a million requests wait.

Submits them to an SQLite database, registers 1, 10 and 100 live workers and lets the dispatcher
ring for them in a Redis of its own. Prints a table and writes the results file.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.machine import current_commit
from benchmarks.prepare import PROJECT
from benchmarks.protocol_fill import MODEL, queue_batch
from models.database import Database, upgrade
from models.generation import Frozen
from models.settings import Settings
from models.store.views import Worker
from models.store.workers import register_worker
from tests.servers import RedisServer, started
from worker.celery_app import create_app
from worker.dispatcher import Dispatcher
from worker.doorbell import CeleryDoorbell

RESULTS_FILE = PROJECT / "benchmarks" / "results" / "protocol" / "redis.json"
N_REQUESTS = 1_000_000
BATCH_REQUESTS = 50_000
N_WORKERS = (1, 10, 100)
_WAITS = 10


class Held(Frozen):
    """What Redis holds, above what the empty server had."""

    n_workers: int
    n_keys: int
    n_messages: int
    keys_bytes: int  # of all keys with what is in them
    used_bytes: int  # INFO memory's used_memory, with the dispatcher's connection


class Document(Frozen):
    """One measurement."""

    format: int = 1
    commit: str
    redis: str
    n_requests: int
    held: tuple[Held, ...]
    client_bytes: float  # of one more client that waits for a message


class Redis:
    """A server as it is filled for more and more workers."""

    def __init__(self, server: RedisServer, database: Database) -> None:
        self._server = server
        self._database = database
        self.settings = Settings(broker_url=server.url)
        server.flushall()
        self._empty_bytes = self._used_bytes()

    @property
    def version(self) -> str:
        """The server's."""
        return str(self._info("server")["redis_version"])

    def held_for(self, n_workers: int) -> Held:
        """Register so many live workers, let the dispatcher fill the window, and look."""
        for number in range(n_workers):
            worker = Worker(id=f"worker-{number}", model=MODEL, host="localhost", pid=number + 1)
            register_worker(self._database, worker)
        with create_app(self.settings) as app:
            dispatcher = Dispatcher(
                database=self._database, doorbell=CeleryDoorbell(app), settings=self.settings
            )
            while dispatcher.dispatch():
                pass  # one call fills the window: the next shows that it stays full
            used_bytes = self._used_bytes() - self._empty_bytes
            return Held(n_workers=n_workers, **self._keys(), used_bytes=used_bytes)

    def _keys(self) -> dict[str, int]:
        with self._server.client() as client:
            keys = list(client.scan_iter())
            return {
                "n_keys": len(keys),
                "n_messages": sum(client.llen(key) for key in keys if client.type(key) == b"list"),
                "keys_bytes": sum(client.memory_usage(key, samples=0) or 0 for key in keys),
            }

    def bytes_of_client(self, n_clients: int) -> float:
        """What each of so many takes that wait for a message as Celery does, for a second each.

        Redis takes back most of a new connection's buffers within some seconds.
        """
        before = self._used_bytes()
        with ExitStack() as stack:
            clients = [stack.enter_context(self._server.client()) for _ in range(n_clients)]
            for client in clients:
                client.connection = client.connection_pool.get_connection()
            for _ in range(_WAITS):
                for client in clients:
                    client.connection.send_command("BRPOP", "nothing", 1)
                for client in clients:
                    client.connection.read_response()
            return (self._used_bytes() - before) / n_clients

    def _used_bytes(self) -> int:
        return int(self._info("memory")["used_memory"])

    def _info(self, section: str) -> dict[str, Any]:
        with self._server.client() as client:
            return dict(client.info(section))


def main() -> None:
    """Measure, print and write."""
    with (
        tempfile.TemporaryDirectory() as name,
        started(RedisServer()) as server,
        upgrade(f"sqlite:///{Path(name) / 'nightshift.db'}") as database,
    ):
        for number in range(N_REQUESTS // BATCH_REQUESTS):
            queue_batch(database, number, BATCH_REQUESTS)
        redis = Redis(server, database)
        document = Document(
            commit=current_commit(),
            redis=redis.version,
            n_requests=N_REQUESTS,
            held=tuple(redis.held_for(n_workers) for n_workers in N_WORKERS),
            client_bytes=redis.bytes_of_client(N_WORKERS[-1]),
        )
    RESULTS_FILE.write_text(document.model_dump_json(indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{render(document)}\n")


def render(document: Document) -> str:
    """The table."""
    rows = [["workers", "keys", "messages", "bytes of the keys", "used_memory"], ["---"] * 5]
    for held in document.held:
        numbers = (held.n_workers, held.n_keys, held.n_messages, held.keys_bytes, held.used_bytes)
        rows.append([f"{number:,}" for number in numbers])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    main()
