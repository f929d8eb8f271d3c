"""Dockerfile and docker-compose.yml are well-formed, consistent and cautious."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from models.backend_name import BackendName
from models.settings import load_settings
from tests.docker.compose import COMPOSE_FILE, ROOT, MissingVariable, load_services

DOCKERFILE = ROOT / "Dockerfile"
VARIABLES = {"POSTGRES_PASSWORD": "secret"}
COMPOSE_SCHEMA = ("--builtin-schema", "vendor.compose-spec")
WORKERS = ("worker", "worker-ipex")
OWN_SERVICES = ("api", "migrate", *WORKERS)


def complaints(tool: str, *arguments: str) -> str:
    """What a linter of this environment has to say; empty when it is content."""
    program = Path(sys.executable).parent / tool
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_the_linter_has_nothing_to_say_about_the_dockerfile() -> None:
    assert complaints("hadolint", "--failure-threshold", "style", str(DOCKERFILE)) == ""


def test_the_linter_would_notice_a_bad_dockerfile(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM python:latest\nRUN cd /tmp && sudo pip install torch\n")
    assert "DL3007" in complaints("hadolint", "--failure-threshold", "style", str(bad))


def test_the_compose_file_follows_the_compose_specification() -> None:
    assert complaints("check-jsonschema", *COMPOSE_SCHEMA, str(COMPOSE_FILE)) == ""


def test_the_schema_would_notice_an_unknown_key(tmp_path: Path) -> None:
    bad = tmp_path / "docker-compose.yml"
    bad.write_text("services: {worker: {image: worker, scales: 2}}")
    assert "scales" in complaints("check-jsonschema", *COMPOSE_SCHEMA, str(bad))


def test_shell_scripts_are_clean() -> None:
    scripts = [*sorted(map(str, (ROOT / "tools").glob("*.sh"))), str(ROOT / ".ci" / "run")]
    assert complaints("shellcheck", *scripts) == ""


def test_without_a_password_nothing_starts() -> None:
    with pytest.raises(MissingVariable, match="POSTGRES_PASSWORD"):
        load_services({})


def test_the_password_is_in_no_file_and_reaches_both_sides() -> None:
    services = load_services(VARIABLES)
    assert services["postgres"]["environment"]["POSTGRES_PASSWORD"] == "secret"
    for name in OWN_SERVICES:
        url = services[name]["environment"]["NIGHTSHIFT_DATABASE_URL"]
        assert url == "postgresql://nightshift:secret@postgres:5432/nightshift"


def test_only_the_api_is_published_and_to_this_machine_alone() -> None:
    services = load_services(VARIABLES)
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {"api": ["127.0.0.1:8000:8000"]}


def test_no_service_runs_an_unpinned_image() -> None:
    for name, service in load_services(VARIABLES).items():
        if "build" not in service:
            assert re.search(r":\d", service["image"]), f"{name} has no version"


def test_whatever_keeps_running_has_a_health_check_and_comes_back() -> None:
    for name, service in load_services(VARIABLES).items():
        if name != "migrate":
            assert service["healthcheck"]["test"][0] == "CMD", name
            assert service["restart"] == "unless-stopped", name


@pytest.mark.parametrize("worker", WORKERS)
def test_a_worker_waits_for_its_servers_and_for_the_schema(worker: str) -> None:
    waits = {
        name: how["condition"]
        for name, how in load_services(VARIABLES)[worker]["depends_on"].items()
    }
    assert waits == {
        "redis": "service_healthy",
        "postgres": "service_healthy",
        "migrate": "service_completed_successfully",
    }


@pytest.mark.parametrize("worker", WORKERS)
def test_a_worker_can_be_scaled_and_has_time_to_drain(worker: str) -> None:
    service = load_services(VARIABLES)[worker]
    assert "container_name" not in service  # a fixed name allows one container only
    assert float(service["stop_grace_period"].removesuffix("s")) > load_settings({}).drain_timeout_s


def test_a_worker_of_ipex_is_another_image_for_those_who_ask() -> None:
    services = load_services(VARIABLES)
    assert {name: each["profiles"] for name, each in services.items() if "profiles" in each} == {
        "worker-ipex": ["ipex"]
    }
    usual, ipex = services["worker"], services["worker-ipex"]
    assert {key for key in usual if usual[key] != ipex[key]} == {"image", "build", "environment"}
    assert ipex["build"]["target"] == "worker-ipex"
    assert ipex["environment"] == usual["environment"] | {"NIGHTSHIFT_BACKEND": "ipex"}
    assert load_settings(ipex["environment"]).backend is BackendName.IPEX


def test_every_target_that_compose_builds_exists() -> None:
    targets = set(re.findall(r"^FROM \S+ AS ([\w-]+)$", DOCKERFILE.read_text(), flags=re.MULTILINE))
    for name in OWN_SERVICES:
        assert load_services(VARIABLES)[name]["build"]["target"] in targets


def test_whatever_the_dockerfile_copies_exists_and_reaches_the_builder() -> None:
    copied = set(re.findall(r"^COPY (.+) \S+$", DOCKERFILE.read_text(), flags=re.MULTILINE))
    names = {name for line in copied for name in line.split()}
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"}
    assert names == sent
    assert [name for name in sorted(names) if not (ROOT / name).exists()] == []


def test_images_run_without_root() -> None:
    stages = DOCKERFILE.read_text().split("\nFROM ")[1:]
    final = [stage for stage in stages if not stage.startswith("python:")]
    assert final
    assert all(re.search(r"^USER 10001$", stage, flags=re.MULTILINE) for stage in final)
