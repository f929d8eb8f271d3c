"""A cluster over TLS with few rights, set up by the lines of docs/access.md."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import count
from pathlib import Path

import httpx2
import psycopg
import pytest
import redis
from sqlalchemy import text

from api.problems import Problem
from api.request_rates import RequestRates
from models.database import Database, connect_database, upgrade
from models.errors import BrokerUnavailable, DatabaseUnavailable
from models.settings import load_settings
from models.store.batches import list_chunks
from models.store.views import Ring
from tests.api.running import running
from tests.celery.cluster import Cluster, cluster, wait_for, wait_for_end
from tests.cli.console import Console
from tests.faults.batches import plain, submit
from tests.faults.fake_engine import FAKE_MODEL, Script, write_script
from tests.security.secured import PASSWORD, Authority, SecuredPostgres, SecuredRedis
from tests.servers import started
from worker.celery_app import create_app
from worker.doorbell import CeleryDoorbell
from worker.watchdog import DEAF_AFTER_S, DeafnessWatch

UNKNOWN_CHUNK = 10**9
PASSWORD_AS_SENT = "p%40ss%3Aw%2Frd"
STATEMENTS_REFUSED = (
    b"CREATE TABLE mine (n int)",
    b"CREATE TEMP TABLE mine (n int)",
    b"DROP TABLE results",
    b"TRUNCATE results",
)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority") / "own")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that has signed nothing here."""
    return Authority(tmp_path_factory.mktemp("authority") / "other")


@pytest.fixture(scope="module")
def redis_with_tls(authority: Authority) -> Iterator[SecuredRedis]:
    with started(SecuredRedis(authority)) as server:
        yield server


@pytest.fixture(scope="module")
def postgres_with_tls(authority: Authority) -> Iterator[SecuredPostgres]:
    with started(SecuredPostgres(authority)) as server:
        server.set_up()
        upgrade(server.url_with(owner=True)).close()
        yield server


@pytest.fixture
def unused_redis(authority: Authority) -> Iterator[SecuredRedis]:
    """One that no other test was refused anything by."""
    with started(SecuredRedis(authority)) as server:
        yield server


@pytest.fixture
def database(postgres_with_tls: SecuredPostgres) -> Iterator[Database]:
    """With the rights of a worker."""
    with connect_database(postgres_with_tls.url_with()) as made:
        yield made


@pytest.fixture
def nodes(
    tmp_path: Path, redis_with_tls: SecuredRedis, postgres_with_tls: SecuredPostgres
) -> Iterator[Cluster]:
    environment = {
        "NIGHTSHIFT_HOME": str(tmp_path),
        "NIGHTSHIFT_DATABASE_URL": postgres_with_tls.url_with(),
        "NIGHTSHIFT_BROKER_URL": redis_with_tls.url_with(),
        "NIGHTSHIFT_LOG_LEVEL": "debug",
        "NIGHTSHIFT_SWEEP_PERIOD_S": "1",
    }
    with cluster(tmp_path, environment) as running:
        yield running


def worker_command(folder: Path) -> tuple[str, ...]:
    script = write_script(folder / "script", Script())
    return ("tests.faults.worker_program", "--artifact", str(script))


def test_a_worker_hears_generates_and_drains(
    nodes: Cluster, database: Database, redis_with_tls: SecuredRedis, tmp_path: Path
) -> None:
    worker = nodes.start(*worker_command(tmp_path))
    worker.wait_ready()
    batch_id = submit(database, plain(60))
    assert wait_for_end(database, batch_id).completed == 60
    bell = CeleryDoorbell(create_app(load_settings({}, broker_url=redis_with_tls.url_with())))
    bell.check()
    chunk_id = list_chunks(database, batch_id)[0].id
    bell.ring(Ring(chunk_id=chunk_id, batch_id=batch_id, model=FAKE_MODEL, n=1))
    wait_for(
        lambda: any(record["chunk"] == chunk_id for record in worker.said("ring heard")),
        "the ring is heard",
    )
    assert worker.stop(signal.SIGTERM, timeout_s=30) == 0
    said = worker.log.read_text()
    assert "NOPERM" not in said
    assert PASSWORD not in said
    assert PASSWORD_AS_SENT not in said


def test_the_rights_are_enough_for_the_watch_for_lost_messages_and_for_the_doctor(
    unused_redis: SecuredRedis, tmp_path: Path
) -> None:
    url = unused_redis.url_with()
    app = create_app(load_settings({}, broker_url=url), model=FAKE_MODEL)
    bell = CeleryDoorbell(app)
    bell.ring(Ring(chunk_id=UNKNOWN_CHUNK, batch_id="batch_0", model=FAKE_MODEL, n=1))
    watch = DeafnessWatch(
        lambda: bell.waiting(FAKE_MODEL), clock=count(step=DEAF_AFTER_S + 1).__next__
    )
    assert watch.is_deaf()  # its clock jumps over the limit with every look
    with app.connection_for_read() as connection:
        queue = app.amqp.queues[FAKE_MODEL.queue]
        with connection.Consumer([queue], callbacks=[lambda _body, _message: None]):
            connection.drain_events(timeout=10)
        assert bell.waiting(FAKE_MODEL) == 0
        assert not watch.is_deaf()
    assert bell.waiting(FAKE_MODEL) == 1  # taken, never acknowledged, given back
    RequestRates(url).count("key", 2)
    shown = Console(tmp_path, {"NIGHTSHIFT_BROKER_URL": url}).call("doctor").stdout
    assert "ok    redis" in shown
    assert PASSWORD not in shown and PASSWORD_AS_SENT not in shown
    assert unused_redis.refused() == []


def test_without_a_word_about_certificates_they_are_verified(redis_with_tls: SecuredRedis) -> None:
    for options, is_reached in (("", False), ("?ssl_cert_reqs=none", True)):
        url = f"{redis_with_tls.url_without_options}{options}"
        bell = CeleryDoorbell(create_app(load_settings({}, broker_url=url)))
        with nullcontext() if is_reached else pytest.raises(BrokerUnavailable):
            bell.check()


def test_calls_are_counted_with_the_same_rights(
    redis_with_tls: SecuredRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else a busy machine's Redis counts as away, and each process counts for itself.
    monkeypatch.setattr("api.request_rates._TIMEOUT_S", None)
    rates = RequestRates(redis_with_tls.url_with())
    rates.count("key", 2)
    rates.count("key", 2)
    with pytest.raises(Problem, match="2 times a minute"):
        RequestRates(redis_with_tls.url_with()).count("key", 2)


def test_the_api_serves_with_the_rights_of_a_worker(
    postgres_with_tls: SecuredPostgres, tmp_path: Path
) -> None:
    console = Console(tmp_path, {"NIGHTSHIFT_DATABASE_URL": postgres_with_tls.url_with()})
    made = console.run("key", "create", "first")
    assert made.returncode == 0, made.stderr
    assert "ns_" in made.stdout
    with running(console) as served:
        uploaded = httpx2.post(
            f"{served.server.url}/v1/files",
            files={"file": ("prompts.jsonl", b"{}\n")},
            data={"purpose": "batch"},
        )
        assert uploaded.status_code == 200, uploaded.text
        batch = {
            "input_file_id": uploaded.json()["id"],
            "endpoint": "/v1/completions",
            "completion_window": "24h",
        }
        assert served.post("/v1/batches", batch).status_code == 200


def test_redis_gives_no_other_command_and_no_other_key(redis_with_tls: SecuredRedis) -> None:
    with redis_with_tls.client() as client:
        for call in (client.flushall, client.config_get, lambda: client.get("other")):
            with pytest.raises(redis.exceptions.NoPermissionError):
                call()


def test_postgres_gives_a_worker_no_tables_to_make_or_drop(
    postgres_with_tls: SecuredPostgres,
) -> None:
    with psycopg.connect(postgres_with_tls.url_with(), autocommit=True) as session:
        for statement in STATEMENTS_REFUSED:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute(statement)


def test_a_role_without_a_right_is_told_so_in_a_sentence(database: Database) -> None:
    with pytest.raises(DatabaseUnavailable, match="permission denied for table results") as told:
        database.transact(lambda connection: connection.execute(text("TRUNCATE results")))
    assert PASSWORD not in str(told.value)


def test_without_tls_or_with_a_stranger_s_there_is_no_connection(
    postgres_with_tls: SecuredPostgres, stranger: Authority
) -> None:
    for url in (
        postgres_with_tls.url_with(mode="disable"),
        postgres_with_tls.url_with(ca_file=stranger.ca_file),
        postgres_with_tls.url_with(password="wrong"),
    ):
        with pytest.raises(DatabaseUnavailable) as refused:
            connect_database(url)
        assert PASSWORD not in str(refused.value)
        assert PASSWORD_AS_SENT not in str(refused.value)


@pytest.mark.parametrize("fault", ["ca", "password"])
def test_a_worker_that_redis_refuses_says_so_in_a_sentence(
    nodes: Cluster, redis_with_tls: SecuredRedis, stranger: Authority, tmp_path: Path, fault: str
) -> None:
    url = (
        redis_with_tls.url_with(ca_file=stranger.ca_file)
        if fault == "ca"
        else redis_with_tls.url_with(password="wrong-secret")
    )
    worker = nodes.start(*worker_command(tmp_path), broker_url=url)
    assert worker.process.wait(60) == 4
    said = worker.log.read_text()
    assert "start Redis or correct NIGHTSHIFT_BROKER_URL" in said
    for secret in (PASSWORD, PASSWORD_AS_SENT, "wrong-secret", "Traceback"):
        assert secret not in said
