"""Connecting to the database: SQLite in one file, or PostgreSQL through psycopg 3.

Transactions, driver settings, schema check and upgrade. Must not know any query of the store.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from models.database_errors import UPGRADE_ADVICE, may_repeat, redact, translate
from models.errors import DatabaseUnavailable, NightshiftError, SettingsError
from models.migrations import HEAD

SQLITE_BUSY_TIMEOUT_MS: Final = 30_000
POSTGRES_SETTINGS: Final = {
    "synchronous_commit": "on",
    "statement_timeout": "60s",
    # A client that is gone without a word in the middle of a statement is neither idle nor slow.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "4",
}
IDLE_TRANSACTION_S: Final = 60.0  # lines to submit may come slowly, all in one transaction
_POSTGRES_DRIVERS: Final = frozenset({"postgres", "postgresql", "postgresql+psycopg"})
_REPEAT_DELAYS_S: Final = (0.05, 0.5)

Result = TypeVar("Result")


class Database:
    """One database. Build it with `connect_database`; safe to share between threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.url: Final = redact(engine.url)  # for messages: without the password

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._engine.dialect.name

    @property
    def file(self) -> Path | None:
        """The file of an SQLite database; None: the database is a server's."""
        name = self._engine.url.database
        return Path(name) if self.dialect == "sqlite" and name else None

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A write transaction; on SQLite it takes the write lock at once."""
        with self._connect(write=True) as connection, connection.begin():
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads."""
        with self._connect(write=False) as connection, connection.begin():
            yield connection

    def transact(self, work: Callable[[Connection], Result], *, replayable: bool = False) -> Result:
        """Run `work` in one write transaction, again when the database ended it by itself.

        `replayable` promises that doing it twice is the same as once, so that it is also repeated
        when the connection broke and nobody knows whether COMMIT happened.
        """
        for delay_s in _REPEAT_DELAYS_S:
            try:
                with self.begin() as connection:
                    return work(connection)
            except DatabaseUnavailable as exc:
                if not may_repeat(exc, replayable=replayable):
                    raise
            time.sleep(delay_s)
        with self.begin() as connection:
            return work(connection)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @contextmanager
    def _connect(self, *, write: bool) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection.execution_options(nightshift_write=write)
        except (DBAPIError, PoolTimeout) as exc:
            error = translate(exc, self.url)
            if error is None:
                raise
            raise error from exc


def connect_database(
    url: str, *, create: bool = False, idle_transaction_s: float = IDLE_TRANSACTION_S
) -> Database:
    """Connect and check the schema.

    `create`: an SQLite file that is missing or old is made or upgraded here; two processes may do
    so at once. PostgreSQL is upgraded by `upgrade` alone, so that a cluster decides when.
    `idle_transaction_s`: after which PostgreSQL ends a transaction that waits for its client, and
    so frees the rows that it has locked.
    Raises SettingsError for an unusable URL, DatabaseUnavailable with advice for the rest.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        if create:
            return upgrade(url)
        _require_file(parsed)
    database = Database(_create_engine(parsed, idle_transaction_s))
    try:
        check_schema(database)
    except NightshiftError:
        database.close()
        raise
    return database


def upgrade(url: str) -> Database:
    """Bring the schema to this version, creating an SQLite file; returns the open database."""
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        _create_folder(parsed)
    database = Database(_create_engine(parsed))
    try:
        # A look without a lock: usually there is nothing to do.
        if schema_revision(database) != HEAD:
            _migrate(database)
        check_schema(database)
    except BaseException:
        database.close()
        raise
    return database


def schema_revision(database: Database) -> str | None:
    """The migration that the database is at; None: it has no tables yet."""
    with database.read() as connection:
        return _read_revision(connection)


def check_schema(database: Database) -> None:
    """Raise DatabaseUnavailable with advice unless the schema is this version's."""
    revision = schema_revision(database)
    if revision == HEAD:
        return
    if revision is None:
        raise DatabaseUnavailable(f"the database {database.url} has no tables: {UPGRADE_ADVICE}")
    if revision < HEAD:
        raise DatabaseUnavailable(f"the database {database.url} is old: {UPGRADE_ADVICE}")
    raise DatabaseUnavailable(
        f"the database {database.url} was upgraded by a newer Nightshift: install that version"
    )


def _migrate(database: Database) -> None:
    from models.migrations.run import run_migrations  # Alembic is slow to import

    with database.begin() as connection:
        # One upgrade at a time. On SQLite the transaction itself is the lock.
        if database.dialect == "postgresql":
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('nightshift'))"))
        if (_read_revision(connection) or "") < HEAD:
            run_migrations(connection)


def _read_revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if revision is None else str(revision)


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as exc:  # ValueError: a port that is no number
        raise SettingsError(
            "NIGHTSHIFT_DATABASE_URL is not a URL: give sqlite:///FILE or "
            "postgresql://USER:PASSWORD@HOST/DATABASE"
        ) from exc
    if parsed.drivername in _POSTGRES_DRIVERS:
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername in {"sqlite", "sqlite+pysqlite"} and parsed.database not in {
        None,
        "",
        ":memory:",
    }:
        return parsed
    raise SettingsError(
        f"NIGHTSHIFT_DATABASE_URL {redact(parsed)} cannot be used: give sqlite:///FILE or "
        "postgresql://USER:PASSWORD@HOST/DATABASE"
    )


def _create_engine(url: URL, idle_transaction_s: float = IDLE_TRANSACTION_S) -> Engine:
    if url.get_backend_name() == "sqlite":
        return _create_sqlite_engine(url)
    arguments = _postgres_arguments(url, idle_transaction_s)
    return create_engine(url, pool_pre_ping=True, hide_parameters=True, connect_args=arguments)


def _postgres_arguments(url: URL, idle_transaction_s: float) -> dict[str, Any]:
    idle_ms = round(idle_transaction_s * 1000)
    settings = {**POSTGRES_SETTINGS, "idle_in_transaction_session_timeout": f"{idle_ms}ms"}
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    given = url.query.get("options", "")
    arguments = {
        "application_name": "nightshift",
        "connect_timeout": 10,
        "tcp_user_timeout": 30_000,  # ms; a dead peer is noticed within a lease
        # Also by who has sent everything and waits for an answer: the system's own take two hours.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 4,
    }
    # What the URL says wins; of two equal options PostgreSQL takes the last.
    arguments = {name: value for name, value in arguments.items() if name not in url.query}
    # psycopg would prepare statements, whose plans stay those of the tables when they were small.
    return {**arguments, "prepare_threshold": None, "options": f"{options} {given}".rstrip()}


def _create_sqlite_engine(url: URL) -> Engine:
    arguments = {"timeout": SQLITE_BUSY_TIMEOUT_MS / 1000}
    # Parameters hold prompts, which belong in no message and no log.
    engine = create_engine(url, hide_parameters=True, connect_args=arguments)
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # sqlite3 would open transactions by itself, late and without the write lock.
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {SQLITE_BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    mode = journal_mode(sqlite3.sqlite_version_info)
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != mode:
        connection.execute(f"PRAGMA journal_mode = {mode}")


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes later fails with "locked" whatever the timeout.
    write = connection.get_execution_options().get("nightshift_write", True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def journal_mode(version: tuple[int, ...]) -> str:
    """`wal` where it is safe, else `delete`.

    SQLite 3.7.0 to 3.51.2 can corrupt a WAL database when its log is reset; the fix was also put
    into 3.44.6 and 3.50.7 (https://sqlite.org/wal.html#walresetbug).
    """
    fixed = version >= (3, 51, 3) or any(
        version[:2] == line[:2] and version >= line for line in ((3, 44, 6), (3, 50, 7))
    )
    return "wal" if fixed else "delete"


def _create_folder(url: URL) -> None:
    folder = Path(str(url.database)).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise DatabaseUnavailable(
            f"the folder {folder} of the database cannot be made ({exc.strerror}): choose another "
            "with NIGHTSHIFT_HOME or NIGHTSHIFT_DATABASE_URL"
        ) from exc


def _require_file(url: URL) -> None:
    if not Path(str(url.database)).is_file():
        raise DatabaseUnavailable(f"there is no database {redact(url)}: {UPGRADE_ADVICE}")
