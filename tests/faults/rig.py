"""What a fault test breaks: servers of its own, proxies before them, workers, and their engines."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import psutil

from models.database import Database, upgrade
from models.model_key import ModelKey
from tests.celery.cluster import Cluster, WorkerProcess, cluster, wait_for
from tests.faults.fake_engine import FAKE_MODEL, Script, write_script
from tests.faults.proxy import Network, Proxy, network
from tests.servers import HOST, PostgresServer, RedisServer, started

# Short leases, so that a test sees the whole protocol in seconds. The ratios are the defaults'.
QUICK_SETTINGS = {
    "LEASE_TTL_S": "6",
    "RENEW_PERIOD_S": "1",
    "SWEEP_PERIOD_S": "1",
    "DISPATCH_TIMEOUT_S": "5",
    "STALL_TIMEOUT_S": "3",
    "MICRO_BATCH_S": "0.3",
    "MAX_SEQUENCES": "16",
    "THREADS": "1",
    "LOG_LEVEL": "debug",
}
END_S = 30.0


@dataclass
class Node:
    """One worker with its own way to each server."""

    worker: WorkerProcess
    database: Proxy
    broker: Proxy

    @property
    def process(self) -> psutil.Process:
        """The worker's process; its engine is the child."""
        return psutil.Process(self.worker.process.pid)

    @property
    def engine(self) -> psutil.Process:
        """The engine process; fails while there is none."""
        (engine,) = self.process.children()
        return engine

    @property
    def id(self) -> str:
        """The worker's id, once it is ready."""
        (worker_id,) = {str(record["worker"]) for record in self.worker.said("worker ready")}
        return worker_id

    @property
    def is_running(self) -> bool:
        return self.worker.process.poll() is None

    def kill(self) -> None:
        """SIGKILL, as the kernel or a power cut does it."""
        self.worker.process.kill()
        self.worker.process.wait(END_S)

    def pause(self, *, with_engine: bool) -> None:
        """Stop the worker where it is, and its engine too if wanted."""
        for process in [*(self.process.children() if with_engine else ()), self.process]:
            process.send_signal(signal.SIGSTOP)

    def is_frozen(self) -> bool:
        """Whether a signal has stopped the worker where it was."""
        return self.process.status() == psutil.STATUS_STOPPED

    def resume(self) -> None:
        """Let worker and engine go on."""
        for process in [self.process, *self.process.children()]:
            process.send_signal(signal.SIGCONT)


class Rig:
    """Redis, PostgreSQL and workers. `database` is the tests' own way in, past all proxies."""

    def __init__(
        self,
        home: Path,
        *,
        redis_server: RedisServer,
        postgres_server: PostgresServer,
        database: Database,
        net: Network,
        nodes: Cluster,
    ) -> None:
        self.home = home
        self.redis = redis_server
        self.postgres = postgres_server
        self.database = database
        self._net = net
        self._cluster = nodes
        self.nodes: list[Node] = []

    def start_worker(
        self,
        *,
        script: Script | None = None,
        failpoint: str = "",
        clock_offset_s: int = 0,
        is_deaf: bool = False,
        **settings: str,
    ) -> Node:
        """A worker with the fake engine, which follows `script`. Returns before it is ready.

        `failpoint` is what tests.faults.failpoints takes, `clock_offset_s` how far its clock is
        off, a deaf one never hears its queue.
        """
        artifact = write_script(self.home / f"script-{len(self.nodes)}", script or Script())
        command = ["tests.faults.worker_program", "--artifact", str(artifact)]
        if failpoint:
            command += ["--failpoint", failpoint]
        if clock_offset_s:
            command += ["--clock-offset-s", str(clock_offset_s)]
        if is_deaf:
            command.append("--deaf")
        return self.start(command, **settings)

    def start_real_worker(self, model: ModelKey, **settings: str) -> Node:
        """`nightshift worker` with the model's own engine."""
        command = ["cli", "worker", "--model", model.name, "--weights", model.weights]
        return self.start(command, **settings)

    def start(self, command: Sequence[str], **settings: str) -> Node:
        database, broker = self.proxy(self.postgres.port), self.proxy(self.redis.port)
        worker = self._cluster.start(
            *command,
            **{
                "database_url": self.database_url(database.port),
                "broker_url": f"redis://{HOST}:{broker.port}/0",
                **settings,
            },
        )
        node = Node(worker, database, broker)
        self.nodes.append(node)
        return node

    def start_workers(self, number: int, *, script: Script | None = None) -> list[Node]:
        """Several workers with the fake engine, ready."""
        nodes = [self.start_worker(script=script) for _ in range(number)]
        for node in nodes:
            node.worker.wait_ready()
        return nodes

    def proxy(self, port: int) -> Proxy:
        """A new proxy before a server."""
        return Proxy(self._net, port)

    def database_url(self, port: int) -> str:
        """The database's URL through another port."""
        return self.database.url.replace(f":{self.postgres.port}/", f":{port}/")

    def stop_workers(self) -> list[int]:
        """SIGTERM to all that run; returns their exit codes."""
        running = [node.worker for node in self.nodes if node.is_running]
        for worker in running:
            worker.process.send_signal(signal.SIGCONT)
            worker.process.send_signal(signal.SIGTERM)
        return [worker.process.wait(END_S) for worker in running]

    def wait(self, seconds: float) -> None:
        """Let a fault last for so long."""
        until = time.monotonic() + seconds
        wait_for(lambda: time.monotonic() >= until, "time passes", timeout_s=seconds + END_S)

    def leftovers(self) -> list[str]:
        """Command lines of engines and workers that still run; empty after `stop_workers`."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and self._is_ours(process):
                    found.append(" ".join(process.cmdline()))
            except psutil.Error:
                continue
        return found

    def wait_nobody_left(self) -> None:
        """Engines die with their workers, which takes a moment."""
        wait_for(lambda: not self.leftovers(), "no process is left behind", timeout_s=END_S)

    def _is_ours(self, process: psutil.Process) -> bool:
        line = process.cmdline()
        return bool(line) and line[0] == sys.executable and str(self.home) in " ".join(line)


@contextmanager
def servers() -> Iterator[tuple[RedisServer, PostgresServer]]:
    """Servers that nobody else uses, because they will be killed."""
    with started(RedisServer()) as redis_server, started(PostgresServer()) as postgres_server:
        yield redis_server, postgres_server


@contextmanager
def rig(
    home: Path,
    redis_server: RedisServer,
    postgres_server: PostgresServer,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Rig]:
    """A new database and an empty queue on running servers; nothing of it is left in the end.

    `settings` win over QUICK_SETTINGS.
    """
    wanted = {**QUICK_SETTINGS, "HOME": str(home), **settings}
    environment = {f"NIGHTSHIFT_{name}": value for name, value in wanted.items()}
    redis_server.start()
    postgres_server.start()
    redis_server.flushall()
    with ExitStack() as stack:
        net = stack.enter_context(network())
        database = stack.enter_context(upgrade(postgres_server.create_database()))
        nodes = stack.enter_context(cluster(home, environment))
        made = Rig(
            home,
            redis_server=redis_server,
            postgres_server=postgres_server,
            database=database,
            net=net,
            nodes=nodes,
        )
        yield made


__all__ = ["END_S", "FAKE_MODEL", "Node", "Rig", "rig", "servers"]
