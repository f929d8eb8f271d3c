"""`nightshift run` and its relatives from a prompt file to the answers, on the demo model."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from models.lowp import Lowp
from tests.cli.console import Console
from tests.cli.demo import MODEL, PROMPTS, long_requests, read_lines, write_lines
from tests.cli.waiting import until
from worker.llm.artifact import MANIFEST_NAME
from worker.llm.ipex.recipe import ActQuant, IpexRecipe

N_WORK = 800


@contextmanager
def started(console: Console, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A command that runs beside the test and does not outlive it."""
    process = console.start(*arguments)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def newest_batch(console: Console) -> dict[str, Any] | None:
    listed = json.loads(console.succeed("status", "--json"))
    return listed[0] if listed else None


def finished_some(console: Console) -> dict[str, Any] | None:
    """The newest batch once some of its requests have answers, but not all."""
    batch = newest_batch(console)
    if batch is None or batch["request_counts"]["completed"] == 0:
        return None
    assert batch["status"] == "in_progress", "it ended before the test could meet it half-way"
    return batch


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A file whose requests together take some seconds."""
    return write_lines(tmp_path / "work.jsonl", long_requests(N_WORK))


def test_every_prompt_has_one_line_in_the_output_shape(
    demo_console: Console, tmp_path: Path
) -> None:
    output, summary = tmp_path / "out.jsonl", tmp_path / "summary.json"
    ended = demo_console.run(
        "run", PROMPTS, "-o", output, "--model", MODEL, "--weights", "int8", "--summary", summary
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == ""
    lines = read_lines(output)
    assert [line["custom_id"] for line in lines] == [
        line["custom_id"] for line in read_lines(PROMPTS)
    ]
    for line in lines:
        assert set(line) == {"id", "custom_id", "response", "error"}
        assert line["error"] is None
        response: Any = line["response"]
        assert response["status_code"] == 200
        body = response["body"]
        assert body["object"] == "chat.completion"
        assert body["model"] == "demo-model"
        assert body["choices"][0]["message"]["role"] == "assistant"
        assert body["choices"][0]["finish_reason"] in {"stop", "length"}
        assert body["usage"]["prompt_tokens"] > 0
    assert not (tmp_path / "out.errors.jsonl").exists()
    check_summary(json.loads(summary.read_text()))
    assert ended.stderr.count("→") == 3  # sample answers


def check_summary(figures: dict[str, Any]) -> None:
    assert figures["requests"] == figures["generated"] == 200
    assert (figures["failed"], figures["kept"]) == (0, 0)
    assert figures["prompt_tokens"] >= figures["cached_tokens"] >= 0
    assert figures["output_tokens"] > 0
    assert 0 < figures["seconds_generate"] < figures["seconds_total"]
    assert 0 < figures["seconds_forward"] < figures["seconds_generate"]
    rate = figures["output_tokens"] / figures["seconds_generate"]
    assert figures["tokens_per_second"] == pytest.approx(rate)
    assert figures["peak_rss_bytes"] > 10_000_000
    assert set(figures["stage_seconds"]) == {"model", "submit", "load", "generate", "write"}
    assert sum(figures["stage_seconds"].values()) <= figures["seconds_total"]


def test_a_killed_run_goes_on_where_it_was(
    demo_console: Console, work: Path, tmp_path: Path
) -> None:
    output, summary = tmp_path / "out.jsonl", tmp_path / "summary.json"
    command = ("run", work, "-o", output, "--model", "demo-model", "--summary", summary)
    with started(demo_console, *command) as first:
        until(lambda: finished_some(demo_console), "the first answers")
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert not output.exists()

    ended = demo_console.run(*command)
    assert ended.returncode == 0, ended.stderr
    figures = json.loads(summary.read_text())
    assert 0 < figures["kept"] < N_WORK
    assert figures["kept"] + figures["generated"] == N_WORK
    assert f"{figures['kept']} of {N_WORK} requests are kept" in ended.stderr
    ids = [line["custom_id"] for line in read_lines(output)]
    assert ids == [f"r-{number}" for number in range(N_WORK)]

    again = demo_console.run(*command)  # all is there: no model is loaded, the file is rewritten
    assert again.returncode == 0
    figures = json.loads(summary.read_text())
    assert (figures["kept"], figures["generated"]) == (N_WORK, 0)
    assert "load" not in figures["stage_seconds"]


def test_an_interrupted_run_says_how_to_go_on(
    demo_console: Console, work: Path, tmp_path: Path
) -> None:
    with started(
        demo_console, "run", work, "-o", tmp_path / "out.jsonl", "--model", "demo-model"
    ) as run:
        until(lambda: finished_some(demo_console), "the first answers")
        run.send_signal(signal.SIGINT)
        _, words = run.communicate()
    assert run.returncode == 130
    assert "the same command goes on" in words
    assert "Traceback" not in words
    batch = newest_batch(demo_console)
    assert batch is not None
    assert batch["request_counts"]["completed"] > 0

    demo_console.succeed("cancel", batch["id"])
    again = demo_console.run("run", work, "-o", tmp_path / "out.jsonl", "--model", "demo-model")
    assert again.returncode == 6
    assert "--new" in again.stderr


def test_one_artifact_under_two_names_makes_two_runs(
    console: Console, models_home: Path, tmp_path: Path
) -> None:
    registry = console.home / "registry"
    for name in ("one", "two"):
        shutil.copytree(models_home / "registry" / "demo-model", registry / name)
    # A file without any good request needs no engine.
    source = write_lines(tmp_path / "in.jsonl", iter([{"prompt": 5}]))
    for name in ("one", "two"):
        console.succeed("run", source, "-o", tmp_path / "out.jsonl", "--model", name)
    listed = json.loads(console.succeed("status", "--json"))
    assert {batch["model"] for batch in listed} == {"one", "two"}


def test_another_precision_of_ipex_makes_another_run(
    console: Console, models_home: Path, tmp_path: Path
) -> None:
    folder = console.home / "registry" / "demo-model" / "int8.ipex"
    shutil.copytree(models_home / "registry" / "demo-model" / "int8", folder)
    manifest = folder / MANIFEST_NAME
    native = json.loads(manifest.read_text())
    source = write_lines(tmp_path / "in.jsonl", iter([{"prompt": 5}]))  # needs no engine

    def run_of(recipe: IpexRecipe, *flags: str) -> str:
        said = native | {"backend": "ipex", "recipe": recipe.as_manifest()}
        manifest.write_text(json.dumps(said))
        command = ("run", source, "-o", tmp_path / "out.jsonl", "--model", "demo-model")
        summary = tmp_path / "summary.json"
        console.succeed(*flags, *command, "--backend", "ipex", "--summary", summary)
        return str(json.loads(summary.read_text())["batch"])

    first = run_of(IpexRecipe(lowp=Lowp.BF16))
    assert run_of(IpexRecipe(lowp=Lowp.BF16), "--set", "ipex_lowp=bf16") == first
    other = run_of(IpexRecipe(lowp=Lowp.BF16), "--set", "ipex_lowp=fp16")
    assert run_of(IpexRecipe(lowp=Lowp.FP16)) == other != first
    assert run_of(IpexRecipe(act_quant=ActQuant.PER_TENSOR)) not in {first, other}


def test_bad_requests_are_named_and_the_others_run(demo_console: Console, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    good = {"custom_id": "good", "prompt": "What is 1 + 2?", "max_tokens": 4}
    lines = [
        json.dumps(good),
        "{not json",
        json.dumps(good),
        json.dumps({"custom_id": "field", "prompt": "x", "colour": "red"}),
        json.dumps({"custom_id": "model", "prompt": "x", "model": "other"}),
        json.dumps({"custom_id": "long", "prompt": "word " * 20_000}),
    ]
    source.write_text("\n".join(lines) + "\n")
    ended = demo_console.run("run", source, "-o", output, "--model", "demo-model")
    assert ended.returncode == 0, ended.stderr
    assert "5 requests failed" in ended.stderr
    assert [line["custom_id"] for line in read_lines(output)] == ["good"]
    errors: list[Any] = read_lines(tmp_path / "out.errors.jsonl")
    told = [
        (line["custom_id"], line["response"]["body"]["error"]["code"], line["response"]["body"])
        for line in errors
    ]
    assert [(custom_id, code) for custom_id, code, _ in told] == [
        (None, "invalid_json_line"),
        ("good", "duplicate_custom_id"),
        ("field", "unsupported_parameter"),
        ("model", "mismatched_model"),
        ("long", "context_length_exceeded"),
    ]
    for number, (_, _, body) in enumerate(told, start=2):
        assert body["error"]["message"].startswith(f"line {number}: ")

    fresh = ("run", source, "-o", output, "--model", "demo-model", "--summary", tmp_path / "s.json")
    first = json.loads(demo_console.succeed("status", "--json"))[0]["id"]
    demo_console.run(*fresh, "--new")
    second = json.loads((tmp_path / "s.json").read_text())
    assert second["batch"] != first
    demo_console.run(*fresh)  # the newest counts from now on
    assert json.loads((tmp_path / "s.json").read_text())["batch"] == second["batch"]


def test_results_are_followed_while_a_worker_makes_them(demo_console: Console, work: Path) -> None:
    with started(demo_console, "worker", "--model", "demo-model") as worker:
        batch = demo_console.succeed("submit", work, "--model", "demo-model").strip()
        with started(demo_console, "results", batch, "--follow") as follower:
            assert follower.stdout is not None
            seen = [json.loads(follower.stdout.readline())["custom_id"]]
            status = json.loads(demo_console.succeed("status", batch, "--json"))
            assert status["status"] == "in_progress"
            assert status["nightshift"]["tokens_per_second"] > 0
            seen += [json.loads(line)["custom_id"] for line in follower.stdout]
            assert follower.wait() == 0
        assert sorted(seen) == sorted(f"r-{number}" for number in range(N_WORK))
        assert demo_console.call("wait", batch).returncode == 0
        worker.send_signal(signal.SIGTERM)
        worker.communicate()
        assert worker.returncode == 0


def test_one_prompt_is_answered_with_tokens_as_they_come(demo_console: Console) -> None:
    ask = ("generate", "Add 24 and 1.", "--model", "demo-model", "--temperature", "0")
    plain = demo_console.run(*ask, "--max-tokens", "8")
    assert plain.returncode == 0, plain.stderr
    assert plain.stdout.strip()
    assert "tokens/s" in plain.stderr
    streamed = demo_console.run(*ask, "--max-tokens", "8", "--stream")
    assert streamed.stdout == plain.stdout
