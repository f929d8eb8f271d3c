"""`nightshift serve` as a process."""

from __future__ import annotations

import httpx2

from tests.cli.console import Console
from tests.cli.demo import PROMPTS
from tests.servers import HOST, free_port, wait_until


def test_the_models_of_this_machine_can_be_named_before_any_worker_has_started(
    demo_console: Console,
) -> None:
    port = free_port()
    url = f"http://{HOST}:{port}"

    def answers() -> bool:
        try:
            return httpx2.get(f"{url}/ready").is_success
        except httpx2.TransportError:
            return False

    with demo_console.start("serve", "--port", str(port)) as process:
        try:
            wait_until(lambda: answers() or process.poll() is not None, "the server is ready")
            (model,) = httpx2.get(f"{url}/v1/models").json()["data"]
            elsewhere = Console(demo_console.home.with_name("elsewhere"), {"NIGHTSHIFT_URL": url})
            batch = elsewhere.succeed("submit", PROMPTS, "--model", "demo-model").strip()
        finally:
            process.terminate()
            process.communicate()
    assert model["id"] == "demo-model:int8"
    assert batch.startswith("batch_")


def test_a_port_that_cannot_be_is_told(demo_console: Console) -> None:
    ended = demo_console.call("serve", "--port", "70000")
    assert ended.returncode == 2
    assert "--port" in ended.stderr and "Traceback" not in ended.stderr
