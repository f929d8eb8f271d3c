"""Connecting: which URLs, which driver settings, and what an operator is told when it fails."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, insert, select, text, update
from sqlalchemy.exc import OperationalError

from models.clock import db_now
from models.database import (
    Database,
    check_schema,
    connect_database,
    journal_mode,
    schema_revision,
    upgrade,
)
from models.database_errors import translate
from models.errors import DatabaseUnavailable, SettingsError, StorageFull
from models.migrations import HEAD
from models.settings import load_settings
from models.store.batches import list_batches
from models.tables import served_models
from tests.servers import PostgresServer, free_port
from tests.store.builders import at_once, submit
from worker.connecting import connect_worker

PROJECT = Path(__file__).parents[2]
ADVICE = "nightshift db upgrade"


def sqlite_url(folder: Path) -> str:
    return f"sqlite:///{folder / 'nightshift.db'}"


def set_revision(database: Database, revision: str) -> None:
    with database.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :r"), {"r": revision})


def test_an_sqlite_file_is_made_with_its_folder_when_asked_to(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "new" / "folder")
    with pytest.raises(DatabaseUnavailable, match=ADVICE):
        connect_database(url)
    with connect_database(url, create=True) as database:
        assert schema_revision(database) == HEAD
        assert list_batches(database) == []
    connect_database(url).close()


def test_a_database_without_tables_is_refused_with_advice(
    postgres_server: PostgresServer,
) -> None:
    url = postgres_server.create_database()
    for create in (False, True):  # a cluster is upgraded by its operator alone
        with pytest.raises(DatabaseUnavailable, match=f"no tables.*{ADVICE}"):
            connect_database(url, create=create)
    upgrade(url).close()
    connect_database(url).close()


def test_an_old_and_a_newer_schema_are_refused_with_advice(database: Database) -> None:
    set_revision(database, "0000")
    try:
        with pytest.raises(DatabaseUnavailable, match=f"is old.*{ADVICE}"):
            check_schema(database)
        set_revision(database, "9999")
        with pytest.raises(DatabaseUnavailable, match="newer Nightshift"):
            check_schema(database)
    finally:
        set_revision(database, HEAD)


def test_upgrading_twice_and_at_once_is_upgrading_once(empty_url: str) -> None:
    for database in at_once([lambda: upgrade(empty_url)] * 4):
        assert schema_revision(database) == HEAD
        database.close()
    upgrade(empty_url).close()


def test_processes_that_start_together_make_one_sqlite_database(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    program = (
        "import sys; from models.database import connect_database; "
        "connect_database(sys.argv[1], create=True).close()"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", program, url],
            cwd=PROJECT,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
        )
        for _ in range(3)
    ]
    for process in started:
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, b"")
    connect_database(url).close()


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_usual_spelling_of_postgresql_is_accepted(scheme: str, postgres_url: str) -> None:
    url = postgres_url.replace("postgresql://", f"{scheme}://")
    with connect_database(url) as database:
        assert database.dialect == "postgresql"


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "mysql://u:secret@h/d",
        "postgresql://u:secret@h:port/d",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite+x:///f",
    ],
)
def test_other_urls_are_refused_without_their_password(url: str) -> None:
    with pytest.raises(SettingsError, match="postgresql://USER") as refusal:
        connect_database(url)
    assert "secret" not in str(refusal.value)


def test_a_server_that_is_away_is_one_sentence_without_the_password() -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(DatabaseUnavailable) as failure:
        connect_database(f"postgresql://me:secret@{address}/d?sslpassword=secret")
    message = str(failure.value)
    assert address in message and "NIGHTSHIFT_DATABASE_URL" in message
    assert "secret" not in message and "\n" not in message


def test_a_file_that_is_no_database_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "nightshift.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(DatabaseUnavailable, match="file is not a database"):
        connect_database(sqlite_url(tmp_path))


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DatabaseUnavailable, match="NIGHTSHIFT_HOME"):
        connect_database(sqlite_url(tmp_path / "file" / "folder"), create=True)


def test_missing_tables_are_told_from_an_unreachable_database(database: Database) -> None:
    with pytest.raises(DatabaseUnavailable, match=ADVICE), database.read() as connection:
        connection.execute(text("SELECT * FROM gone"))


def test_a_full_disk_is_storage_full_and_nothing_is_written(tmp_path: Path) -> None:
    with connect_database(sqlite_url(tmp_path), create=True) as database:
        with database.begin() as connection:
            pages = connection.execute(text("PRAGMA page_count")).scalar_one()
            connection.execute(text(f"PRAGMA max_page_count = {pages + 1}"))
        with pytest.raises(StorageFull, match="free some space"):
            submit(database, 500)
        assert list_batches(database) == []


def test_a_full_disk_of_postgresql_is_storage_full() -> None:
    error = OperationalError("INSERT", {}, psycopg.errors.DiskFull("no space left on device"))
    assert isinstance(translate(error, "postgresql://h/d"), StorageFull)


def test_a_read_only_database_is_unavailable(tmp_path: Path) -> None:
    with connect_database(sqlite_url(tmp_path), create=True) as database:
        with database.read() as connection:
            connection.execute(text("PRAGMA query_only = ON"))
        assert list_batches(database) == []
        with pytest.raises(DatabaseUnavailable, match="may write"):
            submit(database, 1)


def test_prompts_are_in_no_error(database: Database) -> None:
    with pytest.raises(DatabaseUnavailable) as failure, database.begin() as connection:
        connection.execute(text("SELECT :prompt FROM gone"), {"prompt": "confidential"})
    assert "confidential" not in f"{failure.value}{failure.value.__cause__}"


def test_sqlite_waits_writes_through_and_checks_references(tmp_path: Path) -> None:
    wanted = {"busy_timeout": 30000, "synchronous": 2, "foreign_keys": 1}
    with connect_database(sqlite_url(tmp_path), create=True) as database:
        with database.read() as connection:
            for pragma, value in wanted.items():
                assert connection.execute(text(f"PRAGMA {pragma}")).scalar_one() == value
            mode = connection.execute(text("PRAGMA journal_mode")).scalar_one()
        assert mode == journal_mode(sqlite3.sqlite_version_info)


@pytest.mark.parametrize(
    ("version", "mode"),
    [
        ((3, 40, 1), "delete"),
        ((3, 44, 5), "delete"),
        ((3, 44, 6), "wal"),
        ((3, 45, 9), "delete"),
        ((3, 50, 6), "delete"),
        ((3, 50, 7), "wal"),
        ((3, 51, 2), "delete"),
        ((3, 51, 3), "wal"),
        ((4, 0, 0), "wal"),
    ],
)
def test_wal_is_used_only_where_it_cannot_corrupt(version: tuple[int, ...], mode: str) -> None:
    assert journal_mode(version) == mode


def test_postgresql_never_waits_for_ever_and_commits_for_real(postgres_url: str) -> None:
    wanted = {
        "synchronous_commit": "on",
        "statement_timeout": "1min",
        "idle_in_transaction_session_timeout": "1min",
        "application_name": "nightshift",
    }
    with connect_database(postgres_url) as database, database.read() as connection:
        for name, value in wanted.items():
            assert connection.execute(text(f"SHOW {name}")).scalar_one() == value


def test_both_ends_of_a_connection_ask_whether_the_other_is_there(postgres_url: str) -> None:
    with connect_database(postgres_url) as database, database.read() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        with socket.socket(fileno=os.dup(driver.fileno())) as ours:
            assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10
            assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 5
            assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 4
        for name, value in {"idle": "10", "interval": "5", "count": "4"}.items():
            shown = text(f"SHOW tcp_keepalives_{name}")  # as the system has it, not as we asked
            assert connection.execute(shown).scalar_one() == value


def test_a_transaction_left_in_the_middle_frees_its_rows_in_time(postgres_url: str) -> None:
    lock = "LOCK TABLE batches"
    with (
        connect_database(postgres_url, idle_transaction_s=0.2) as database,
        psycopg.connect(postgres_url) as other,
        pytest.raises(DatabaseUnavailable, match="idle-in-transaction timeout"),
        database.begin() as connection,
    ):
        connection.execute(text(lock))
        other.execute(lock)  # waits until it is free
        connection.execute(text("SELECT 1"))


@pytest.mark.parametrize(("lease_s", "waited"), [(90, "30s"), (3600, "1min"), (1e10, "1min")])
def test_a_worker_left_in_the_middle_is_waited_for_no_longer_than_others(
    lease_s: float, waited: str, postgres_url: str
) -> None:
    settings = load_settings({}, database_url=postgres_url, lease_ttl_s=lease_s)
    setting = text("SHOW idle_in_transaction_session_timeout")
    with connect_worker(settings) as database, database.read() as connection:
        assert connection.execute(setting).scalar_one() == waited


def test_what_the_url_says_wins(postgres_url: str) -> None:
    url = f"{postgres_url}?application_name=mine&options=-c%20statement_timeout%3D5s"
    with connect_database(url) as database, database.read() as connection:
        assert connection.execute(text("SHOW application_name")).scalar_one() == "mine"
        assert connection.execute(text("SHOW statement_timeout")).scalar_one() == "5s"
        assert connection.execute(text("SHOW synchronous_commit")).scalar_one() == "on"


def test_a_pooled_connection_that_broke_is_replaced(
    postgres_database: Database, postgres_url: str
) -> None:
    assert list_batches(postgres_database) == []
    with psycopg.connect(postgres_url, autocommit=True) as operator:
        operator.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'nightshift' AND datname = current_database()"
        )
    assert list_batches(postgres_database) == []


def test_a_writer_waits_for_another_and_then_succeeds(database: Database) -> None:
    """Reading before writing is no deadlock: SQLite takes the write lock at BEGIN."""
    row = {"name": "m", "weights": "int8", "artifact": "0", "architecture": "llama"}
    row |= {"source": ""}
    with database.begin() as connection:
        values = {**row, "context_tokens": 0, "registered_at": db_now()}
        connection.execute(insert(served_models).values(values))

    def count_up() -> None:
        for _ in range(10):
            with database.begin() as connection:
                seen = connection.execute(
                    select(served_models.c.context_tokens).with_for_update()
                ).scalar_one()
                connection.execute(update(served_models).values(context_tokens=seen + 1))

    at_once([count_up] * 4)
    with database.read() as connection:
        counted = connection.execute(select(served_models.c.context_tokens)).scalar_one()
    assert counted == 40


def test_transactions_that_deadlock_are_repeated(postgres_database: Database) -> None:
    database = postgres_database
    with database.begin() as connection:
        connection.execute(text("CREATE TABLE pair (id int PRIMARY KEY, n int)"))
        connection.execute(text("INSERT INTO pair VALUES (1, 0), (2, 0)"))
    both_hold_one = threading.Barrier(2)

    def count_up(order: tuple[int, int]) -> None:
        first_try = True

        def work(connection: Connection) -> None:
            nonlocal first_try
            for row in order:
                connection.execute(text("UPDATE pair SET n = n + 1 WHERE id = :r"), {"r": row})
                if first_try:
                    first_try = False
                    both_hold_one.wait(timeout=30)

        database.transact(work)

    try:
        at_once([lambda: count_up((1, 2)), lambda: count_up((2, 1))])
        with database.read() as connection:
            counted = connection.execute(text("SELECT n FROM pair ORDER BY id")).scalars().all()
        assert counted == [2, 2]
    finally:
        with database.begin() as connection:
            connection.execute(text("DROP TABLE pair"))


def test_an_error_of_the_caller_is_raised_as_it_is(database: Database) -> None:
    class Own(Exception):
        pass

    def work(_connection: Connection) -> None:
        raise Own

    with pytest.raises(Own):
        database.transact(work, replayable=True)


def test_the_databases_clock_runs_on_within_a_transaction(database: Database) -> None:
    with database.begin() as connection:
        first = connection.execute(select(db_now())).scalar_one()
        later = first
        while later <= first:
            later = connection.execute(select(db_now())).scalar_one()
    assert 1.7e9 < first < later
