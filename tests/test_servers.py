"""The test servers themselves: other tests can only be trusted when these hold."""

from __future__ import annotations

import socket
from pathlib import Path

import psycopg
import pytest

from tests.servers import HOST, PostgresServer, RedisServer, ServerError, find_program, wait_until


def test_redis_comes_back_empty_on_the_same_port(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.set("key", "value")
        redis_server.stop()
        assert not redis_server.answers()
        redis_server.start()
        assert client.get("key") is None


def test_a_server_that_is_down_keeps_its_port(redis_server: RedisServer) -> None:
    redis_server.stop()
    with socket.socket() as rival, pytest.raises(OSError, match="in use"):
        rival.bind((HOST, redis_server.port))
    redis_server.start()


def test_flushall_forgets_every_key(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.set("key", "value")
        redis_server.flushall()
        assert client.dbsize() == 0


def test_postgres_keeps_its_databases_over_a_restart(postgres_server: PostgresServer) -> None:
    url = postgres_server.create_database()
    with psycopg.connect(url) as session:
        session.execute("CREATE TABLE kept (n int)")
    postgres_server.stop()
    assert not postgres_server.answers()
    postgres_server.start()
    with psycopg.connect(url) as session:
        assert session.execute("SELECT count(*) FROM kept").fetchone() == (0,)


def test_every_database_is_a_new_one(postgres_server: PostgresServer) -> None:
    assert postgres_server.create_database() != postgres_server.create_database()


def test_a_closed_server_leaves_no_folder() -> None:
    server = RedisServer()
    server.start()
    server.close()
    assert not server.folder.exists()


def test_a_server_that_ends_at_once_is_reported_with_its_words(redis_server: RedisServer) -> None:
    rival = RedisServer()
    rival.port = redis_server.port
    rival.answers = lambda: False  # type: ignore[method-assign]  # the other server would answer
    with pytest.raises(ServerError, match=r"(?s)redis ended with code 1: .*in use"):
        rival.start()
    rival.close()


def test_a_missing_program_is_a_failure_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerError, match="apt-get install redis-server"):
        find_program("redis-server", "redis-server")


def test_waiting_ends_with_what_was_waited_for() -> None:
    with pytest.raises(ServerError, match="pigs fly"):
        wait_until(lambda: False, "pigs fly", timeout_s=0.05)
