"""Deliveries: signed, repeated until they are taken, by any number of processes, and no burden."""

from __future__ import annotations

import logging
import ssl
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest
import trustme
from sqlalchemy import update

from api.deliverer import Deliverer
from api.outgoing import Outgoing
from models.database import Database, upgrade
from models.settings import load_settings
from models.store.batch_ends import MAX_ATTEMPTS, WAITS_S
from models.store.batches import get_batch
from models.store.results import database_time
from models.store.webhooks import add_webhook
from models.tables import deliveries
from tests.api.hooks import (
    ALL,
    OPEN,
    complete,
    create_for_an_unknown_model,
    let_time_pass,
    listening,
    register,
    unwrap,
    wait_ended,
    wait_received,
)
from tests.api.live import live_server
from tests.api.receiver import Receiver, receiving, status
from tests.api.serving import serving
from tests.cli.console import Console
from tests.servers import HOST, wait_until
from tests.store.builders import rows


def test_tls_with_a_certificate_of_an_own_authority(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(tls)
    with receiving(tls) as receiver:
        secret = register(database, receiver).secret
        with listening(database, receiver):
            batch = complete(database)
            wait_received(receiver, 1)
    assert unwrap(receiver.received[0], secret).data.id == batch.id


def test_a_failed_attempt_is_repeated_after_a_restart_with_the_same_id(
    database: Database, receiver: Receiver
) -> None:
    secret = register(database, receiver).secret
    receiver.answer = status(500)
    with serving(database, **OPEN):
        complete(database)
        wait_until(
            lambda: rows(database, deliveries)[0]["last_error"] is not None, "an attempt failed"
        )
    (row,) = rows(database, deliveries)
    assert (row["attempts"], row["last_error"]) == (1, "the answer was 500")
    assert row["ended_at"] is None
    let_time_pass(database)
    receiver.answer = status(204)
    with listening(database, receiver):
        (row,) = wait_ended(database)
    assert (row["attempts"], row["last_error"]) == (2, None)
    first, second = receiver.received
    assert first.body == second.body
    assert unwrap(first, secret).id == unwrap(second, secret).id == row["id"]


def test_a_delivery_of_a_process_that_died_is_taken_up_again(
    database: Database, receiver: Receiver
) -> None:
    register(database, receiver)
    complete(database)
    with database.begin() as connection:  # as `claim_delivery` leaves it
        connection.execute(update(deliveries).values(attempts=1))
    with listening(database, receiver):
        (row,) = wait_ended(database)
    assert row["attempts"] == 2


def test_waits_grow_and_end_within_a_day(database: Database, receiver: Receiver) -> None:
    register(database, receiver)
    receiver.answer = status(503)
    complete(database)
    settings = load_settings({}, **OPEN)
    deliverer = Deliverer(database, settings, Outgoing(private_addresses=True))
    waits: list[float] = []
    for number in range(1, MAX_ATTEMPTS + 1):
        before = database_time(database)
        deliverer.deliver_due()
        (row,) = rows(database, deliveries)
        assert (row["attempts"], row["last_error"]) == (number, "the answer was 503")
        if row["ended_at"] is None:
            waits.append(row["not_before"] - before)
            deliverer.deliver_due()  # which is too early
            let_time_pass(database)
    let_time_pass(database)
    deliverer.deliver_due()
    assert len(receiver.received) == MAX_ATTEMPTS == 8
    assert waits == sorted(waits)
    assert all(wait_s >= least for wait_s, least in zip(waits, WAITS_S, strict=True))
    assert sum(WAITS_S) < 24 * 3600


def test_a_receiver_that_is_away_does_not_keep_others_waiting(
    database: Database, receiver: Receiver
) -> None:
    with receiving() as away:
        away.answer = away.hang
        register(database, away)
        register(database, receiver)
        for _ in range(3):
            complete(database)
        with listening(database, receiver):
            wait_received(receiver, 3)
            # Its first attempt took the whole time limit; the others wait for their turn.
            assert len(away.received) < 3
            away.over.set()


def test_slow_receivers_do_not_delay_validation(database: Database, receiver: Receiver) -> None:
    register(database, receiver)
    receiver.answer = receiver.hang
    with listening(database, receiver):
        complete(database)
        wait_received(receiver, 1)
        batch_id = create_for_an_unknown_model(database)
        wait_until(lambda: get_batch(database, batch_id).is_terminal, "the batch is validated")
        assert len(receiver.received) == 1


def test_a_url_that_leads_inside_is_not_called_when_the_setting_is_off(
    database: Database, receiver: Receiver
) -> None:
    register(database, receiver)
    add_webhook(database, f"https://localhost:{receiver.port}/", ALL)
    with serving(database, webhooks=True):
        complete(database)
        wait_until(
            lambda: all(row["last_error"] for row in rows(database, deliveries)),
            "both attempts were refused",
        )
    assert receiver.received == []
    reasons = sorted(str(row["last_error"]) for row in rows(database, deliveries))
    assert reasons[0].startswith("localhost leads to")
    assert reasons[1] == "the URL should begin with https://"


def test_neither_secret_nor_url_is_in_the_log(
    database: Database, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.handler.setFormatter(logging.Formatter("%(message)s %(name)s"))
    with listening(database, receiver) as url:
        added = httpx2.post(f"{url}/v1/webhooks", json={"url": receiver.url}).json()
        receiver.answer = status(500)
        complete(database)
        wait_until(
            lambda: rows(database, deliveries)[0]["last_error"] is not None, "an attempt failed"
        )
        let_time_pass(database)
        receiver.answer = status(204)
        wait_ended(database)
    said = "\n".join(
        record.getMessage() + repr(record.__dict__)
        for record in caplog.records
        if record.name.startswith(("api", "models"))
    )
    assert "was not delivered" in said
    assert "event delivered" in said
    everything = caplog.text + said
    for hidden in (added["signing_secret"], added["signing_secret"][6:], "key=1"):
        assert hidden not in everything


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_two_api_processes_deliver_once(
    request: pytest.FixtureRequest, tmp_path: Path, receiver: Receiver, kind: str
) -> None:
    if kind == "sqlite":
        database_url = f"sqlite:///{tmp_path / 'nightshift.db'}"
    else:
        database_url = request.getfixturevalue("postgres_server").create_database()
    settings = {
        "NIGHTSHIFT_DATABASE_URL": database_url,
        "NIGHTSHIFT_WEBHOOKS": "true",
        "NIGHTSHIFT_WEBHOOK_PRIVATE_ADDRESSES": "true",
    }
    with ExitStack() as stack:
        database = stack.enter_context(upgrade(database_url))
        secret = register(database, receiver).secret
        logs = [tmp_path / name / "serve.log" for name in ("one", "two")]
        for log in logs:
            log.parent.mkdir()
            stack.enter_context(live_server(Console(log.parent, settings), "--no-keys"))
        ids: set[str] = set()

        def both_took_part() -> bool:
            ids.add(complete(database).id)
            return all("event delivered" in log.read_text() for log in logs)

        wait_until(both_took_part, "both processes have delivered something")
        wait_ended(database)
    assert len(receiver.received) == len(ids)
    assert {unwrap(received, secret).data.id for received in receiver.received} == ids
    assert not any(secret[6:] in log.read_text() for log in logs)
