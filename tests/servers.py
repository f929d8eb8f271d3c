"""Real Redis and PostgreSQL servers on free loopback ports, in folders that go with them.

Knows nothing of Nightshift: tests get URLs. A missing program is a failure that says what to
install, never a skip, because a test that does not run proves nothing.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, TypeVar

import psycopg
import redis
from psycopg import sql

HOST = "127.0.0.1"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
POLL_PERIOD_S = 0.02


class ServerError(Exception):
    """A server is missing, did not start or did not stop; the message says what to do."""


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def hold_port() -> socket.socket:
    """Keeps a free loopback port from all who ask the kernel for one, until it is closed.

    Nobody listens meanwhile, but a server that is told the port: those bind with SO_REUSEADDR.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind((HOST, 0))
    return holder


def wait_until(holds: Callable[[], bool], what: str, *, timeout_s: float = START_TIMEOUT_S) -> None:
    """Poll until the condition holds; raises ServerError naming `what` when the time is up."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            raise ServerError(f"not so within {timeout_s:g} s: {what}")
        time.sleep(POLL_PERIOD_S)


def find_program(name: str, package: str) -> str:
    """The program's path, from PATH or from Debian's folders of PostgreSQL programs."""
    found = shutil.which(name)
    if found is not None:
        return found
    installed = list(Path("/usr/lib/postgresql").glob(f"[1-9]*/bin/{name}"))
    if not installed:
        raise ServerError(
            f"{name} is missing and the tests need it: install it "
            f"(on Debian: apt-get install {package}), or run `make test` as root, which does that"
        )
    return str(max(installed, key=lambda path: float(path.parent.parent.name)))


class Server(ABC):
    """One server process with a folder of its own; its port stays the same over restarts.

    `folder` is made; None: a temporary one.
    """

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]

    def __init__(
        self, *, account: pwd.struct_passwd | None = None, folder: Path | None = None
    ) -> None:
        self.host = HOST
        # Else another listener, or a client's own end, could have it while the server is down.
        self._held_port = hold_port()
        self.port: int = self._held_port.getsockname()[1]
        if folder is not None:
            folder.mkdir()
        self.folder = folder or Path(tempfile.mkdtemp(prefix=f"nightshift-{self.name}-"))
        self._uid = account.pw_uid if account else None
        self._gid = account.pw_gid if account else None
        if account:
            os.chown(self.folder, account.pw_uid, account.pw_gid)
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> Sequence[str]:
        """The command line that runs the server in the foreground."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether a client can use the server now."""

    def start(self) -> None:
        """Start the server and wait until it answers; no-op while it runs."""
        if self._process is not None:
            return
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                user=self._uid,
                group=self._gid,
                # A Ctrl-C at the terminal is for pytest, which then stops the servers.
                start_new_session=True,
            )
        wait_until(self._is_up, f"{self.name} answers on port {self.port}")

    def stop(self) -> None:
        """Stop the server and wait for its end; no-op when it does not run."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(self.stop_signal)
            process.wait(STOP_TIMEOUT_S)

    def kill(self) -> None:
        """End the server as a power cut does; no-op when it does not run."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(STOP_TIMEOUT_S)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the running server, which keeps counting as running."""
        if self._process is not None:
            self._process.send_signal(number)

    def close(self) -> None:
        """Stop the server for good and remove its folder."""
        self.stop()
        self._held_port.close()
        shutil.rmtree(self.folder)

    @property
    def _log(self) -> Path:
        return self.folder / "server.log"

    def _is_up(self) -> bool:
        process = self._process
        if process is not None and process.poll() is not None:
            self._process = None
            said = self._log.read_text(errors="replace")[-2000:]
            raise ServerError(f"{self.name} ended with code {process.returncode}: {said}")
        return self.answers()

    def _run(self, command: Sequence[str]) -> None:
        done = subprocess.run(
            command,
            cwd=self.folder,
            user=self._uid,
            group=self._gid,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ServerError(f"{' '.join(command)} failed: {done.stdout}{done.stderr}")


Running = TypeVar("Running", bound=Server)


@contextmanager
def started(server: Running) -> Iterator[Running]:
    """The server while it runs; also one that did not start is closed."""
    try:
        server.start()
        yield server
    finally:
        server.close()


class RedisServer(Server):
    """A Redis without persistence: stopping it loses everything, which is what tests want."""

    name = "redis"
    stop_signal = signal.SIGTERM

    def __init__(self) -> None:
        self._program = find_program("redis-server", "redis-server")
        super().__init__()

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    def command(self) -> Sequence[str]:
        options = {
            "bind": self.host,
            "port": str(self.port),
            "dir": str(self.folder),
            "save": "",
            "appendonly": "no",
            "maxmemory-policy": "noeviction",
        }
        return [self._program, *(part for k, v in options.items() for part in (f"--{k}", v))]

    def answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def client(self) -> redis.Redis:
        """A new client; the caller closes it."""
        return redis.Redis(host=self.host, port=self.port)

    def flushall(self) -> None:
        """Forget every key, as an operator's FLUSHALL does."""
        with self.client() as client:
            client.flushall()


class PostgresServer(Server):
    """A PostgreSQL cluster; `fsync` is off unless a test is about durability."""

    name = "postgres"
    user: ClassVar[str] = "nightshift"
    stop_signal = signal.SIGINT  # PostgreSQL's fast shutdown: clients are cut off

    def __init__(self, *, fsync: bool = False, folder: Path | None = None) -> None:
        self._program = find_program("postgres", "postgresql")
        self._fsync = fsync
        super().__init__(account=_unprivileged_account(), folder=folder)
        self._data = self.folder / "data"
        self._run(
            [
                find_program("initdb", "postgresql"),
                f"--pgdata={self._data}",
                f"--username={self.user}",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
            ]
        )

    def crash(self) -> None:
        """End the server without a checkpoint; the next start recovers from its log."""
        self.send_signal(signal.SIGQUIT)  # PostgreSQL's immediate shutdown
        process, self._process = self._process, None
        if process is not None:
            process.wait(STOP_TIMEOUT_S)

    def url(self, database: str) -> str:
        return f"postgresql://{self.user}@{self.host}:{self.port}/{database}"

    def command(self) -> Sequence[str]:
        durable = "on" if self._fsync else "off"
        settings = {
            "listen_addresses": self.host,
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": durable,
            "synchronous_commit": durable,
            "full_page_writes": durable,
            "shared_buffers": "32MB",
        }
        options = (part for k, v in settings.items() for part in ("-c", f"{k}={v}"))
        return [self._program, "-D", str(self._data), *options]

    def answers(self) -> bool:
        try:
            self._execute(sql.SQL("SELECT 1"))
        except psycopg.OperationalError:
            return False
        return True

    def create_database(self) -> str:
        """Make an empty database; returns its URL."""
        name = f"nightshift_{uuid.uuid4().hex}"
        self._execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.url(name)

    def _execute(self, statement: sql.SQL | sql.Composed) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True, connect_timeout=5) as session:
            session.execute(statement)


def _unprivileged_account() -> pwd.struct_passwd | None:
    """The account to run as; None means the caller's own. PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    for user in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(user)
        except KeyError:
            continue
    raise ServerError("PostgreSQL refuses to run as root, and there is no user postgres or nobody")
