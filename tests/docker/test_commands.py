"""The commands that the container files and the README name, run by hand on real servers."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import httpx2
import pytest

from tests.docker.compose import ROOT, load_services
from tests.docker.processes import environment, run, running, succeeds
from tests.documents import shell_blocks
from tests.servers import PostgresServer, RedisServer, free_port, started

ENTRYPOINT = "nightshift"
README = ROOT / "README.md"
DEPLOYMENT = ROOT / "docs" / "deployment.md"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose registry holds the demo model, as the README's second command leaves it."""
    folder = tmp_path_factory.mktemp("home")
    add = next(line.split() for line in first_cluster() if "model add" in line)
    run(add, environment(NIGHTSHIFT_HOME=str(folder)))
    return folder


def first_cluster() -> list[str]:
    """The README's block of commands that make a cluster."""
    return next(block for block in shell_blocks(README) if block[0] == "nightshift db upgrade")


def seconds(duration: str) -> float:
    """The number in a duration of compose such as `45s`."""
    return float(duration.removesuffix("s"))


def test_the_api_of_compose_starts_is_healthy_and_stops(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    api = load_services({"POSTGRES_PASSWORD": "secret"})["api"]
    database_url = postgres_server.create_database()
    variables = environment(
        **api["environment"]
        | {"NIGHTSHIFT_HOME": str(tmp_path / "home"), "NIGHTSHIFT_DATABASE_URL": database_url}
    )
    run([ENTRYPOINT, "db", "upgrade"], variables)
    check, port = api["healthcheck"]["test"][1:], str(free_port())
    check = [*check, f"http://127.0.0.1:{port}"]
    assert not succeeds(check, variables)
    command = [port if word == "8000" else word for word in api["command"]]
    with running([ENTRYPOINT, *command], variables, tmp_path / "log") as process:
        process.wait_until_healthy(check, variables)
        models = f"http://127.0.0.1:{port}/v1/models"
        assert httpx2.get(models).status_code == 401
        headers = {"authorization": f"Bearer {run(first_key(), variables).strip()}"}
        assert httpx2.get(models, headers=headers).status_code == 200
        assert process.terminate(seconds(api["stop_grace_period"])) == 0


def first_key() -> list[str]:
    """What the page on deployment runs inside the container of the API."""
    lines = [line.split() for block in shell_blocks(DEPLOYMENT) for line in block]
    (words,) = (words for words in lines if words[:4] == ["docker", "compose", "exec", "api"])
    return words[4:]


def test_migrate_and_worker_of_compose_start_work_and_stop(
    home: Path, tmp_path: Path, redis_server: RedisServer, postgres_server: PostgresServer
) -> None:
    services = load_services({"POSTGRES_PASSWORD": "secret"})
    worker, migrate = services["worker"], services["migrate"]
    # The variables are the file's own, so that a name it sets wrongly stops the worker here.
    variables = environment(
        **worker["environment"]
        | {
            "NIGHTSHIFT_HOME": str(home),
            "NIGHTSHIFT_THREADS": "1",
            "NIGHTSHIFT_DATABASE_URL": postgres_server.create_database(),
            "NIGHTSHIFT_BROKER_URL": redis_server.url,
        }
    )
    check = worker["healthcheck"]["test"][1:]
    run([ENTRYPOINT, *migrate["command"]], variables)
    assert not succeeds(check, variables)
    with running([ENTRYPOINT, *worker["command"]], variables, tmp_path / "log") as process:
        process.wait_until_healthy(check, variables)
        assert process.terminate(seconds(worker["stop_grace_period"])) == 0
    assert not succeeds(check, variables)


class ComposeRedis(RedisServer):
    """The test server with the options of docker-compose.yml; later options win."""

    def command(self) -> Sequence[str]:
        options = load_services({"POSTGRES_PASSWORD": "secret"})["redis"]["command"][1:]
        return [*super().command(), *options]


def test_the_redis_of_compose_starts_and_never_evicts() -> None:
    with started(ComposeRedis()) as server, server.client() as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("appendonly") == {"appendonly": "yes"}


def test_the_first_cluster_of_the_readme_answers_a_batch(
    home: Path, tmp_path: Path, redis_server: RedisServer, postgres_server: PostgresServer
) -> None:
    variables = environment(
        NIGHTSHIFT_HOME=str(home),
        NIGHTSHIFT_DATABASE_URL=postgres_server.create_database(),
        NIGHTSHIFT_BROKER_URL=redis_server.url,
    )
    upgrade, add, worker, submit = (line.split() for line in first_cluster())
    run(upgrade, variables)
    run(add, variables)
    with running(worker, variables, tmp_path / "log") as process:
        process.wait_until_healthy(["python", "-m", "worker.health"], variables)
        batch = run(submit, variables).strip()
        assert re.fullmatch(r"batch_[0-9a-f]{32}", batch)
        run([ENTRYPOINT, "wait", batch], variables)
        results = run([ENTRYPOINT, "results", batch], variables)
    answered = [json.loads(line)["custom_id"] for line in results.splitlines()]
    asked = [
        json.loads(line)["custom_id"]
        for line in (ROOT / "examples" / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert answered == asked
