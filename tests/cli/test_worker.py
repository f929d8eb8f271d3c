"""`nightshift worker` with several instances, without any server."""

from __future__ import annotations

import signal
import subprocess

import psutil
import pytest

from cli.worker import parse_instances
from models.errors import SettingsError
from tests.cli.console import Console, assert_one_sentence, command_line
from tests.cli.demo import PROMPTS

LIMIT_S = 60.0


@pytest.mark.parametrize(("text", "count"), [("1", 1), ("12", 12), ("auto", None)])
def test_instances_are_a_number_or_auto(text: str, count: int | None) -> None:
    assert parse_instances(text) == count


@pytest.mark.parametrize("text", ["0", "-1", "many", "", "1.5", "²"])
def test_other_instances_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="give a number from 1 on, or auto"):
        parse_instances(text)


def test_more_instances_than_fit_are_one_sentence(demo_console: Console) -> None:
    ended = demo_console.run("worker", "--model", "demo-model", "--instances", "100000")
    assert ended.returncode == 2
    assert_one_sentence(ended, "100000 workers need a core each")


def test_as_many_as_planned_serve_the_database(demo_console: Console) -> None:
    batch_id = demo_console.succeed("submit", PROMPTS, "--model", "demo-model").strip()
    fleet = demo_console.start("worker", "--model", "demo-model", "--instances", "auto")
    try:
        demo_console.succeed("wait", batch_id)
        processes = psutil.Process(fleet.pid).children(recursive=True)
        assert len(processes) >= 2  # a worker and its engine
    finally:
        fleet.send_signal(signal.SIGTERM)
        _, told = fleet.communicate(timeout=LIMIT_S)
    assert fleet.returncode == 0, told
    assert '"worker process ended"' in told
    assert not any(process.is_running() for process in processes)


def test_one_worker_drains_when_its_input_ends(demo_console: Console) -> None:
    worker = subprocess.Popen(
        command_line("worker", "--model", "demo-model", "--until-eof"),
        env=demo_console.environment(),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    _, told = worker.communicate(timeout=LIMIT_S)  # closes its input
    assert worker.returncode == 0, told
