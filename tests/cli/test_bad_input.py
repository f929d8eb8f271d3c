"""What cannot work ends with one sentence, the right exit code and nothing half-done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.console import Console, assert_one_sentence
from tests.cli.demo import PROMPTS

NOBODY = "127.0.0.1:1"  # a port where nothing listens


def _model_folder(folder: Path, *, architecture: str, weights: str) -> Path:
    """A folder that looks like a model; no file of it is worth reading."""
    folder.mkdir()
    config = {"architectures": [architecture], "model_type": architecture.lower()}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / weights).write_bytes(b"\x80\x04.")
    return folder


def test_a_wrong_input_path(console: Console, tmp_path: Path) -> None:
    ended = console.run("run", "nope.jsonl", "-o", tmp_path / "out.jsonl", "--model", "m")
    assert ended.returncode == 2
    assert_one_sentence(ended, "nope.jsonl")


def test_an_unknown_model(console: Console, tmp_path: Path) -> None:
    ended = console.run("run", PROMPTS, "-o", tmp_path / "out.jsonl", "--model", "m")
    assert ended.returncode == 3
    assert_one_sentence(ended, "'m'", "nightshift model add")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_model_folder_that_is_not_there(console: Console, tmp_path: Path) -> None:
    ended = console.call("run", PROMPTS, "-o", tmp_path / "out.jsonl", "--model", "./nope")
    assert ended.returncode == 3
    assert_one_sentence(ended, "./nope")


def test_a_folder_with_pickled_weights_alone(console: Console, tmp_path: Path) -> None:
    folder = _model_folder(
        tmp_path / "pickled", architecture="LlamaForCausalLM", weights="pytorch_model.bin"
    )
    ended = console.run("run", PROMPTS, "-o", tmp_path / "out.jsonl", "--model", folder)
    assert ended.returncode == 5
    assert_one_sentence(ended, "safetensors")
    assert console.succeed("model", "list", "--json") == "[]\n"


def test_an_unsupported_architecture(console: Console, tmp_path: Path) -> None:
    folder = _model_folder(tmp_path / "gpt2", architecture="GPT2", weights="model.safetensors")
    ended = console.run("model", "add", folder)
    assert ended.returncode == 5
    assert_one_sentence(ended, "gpt2")
    assert console.succeed("model", "list", "--json") == "[]\n"


def test_a_place_where_no_output_can_be_written(console: Console, tmp_path: Path) -> None:
    ended = console.call("run", PROMPTS, "-o", tmp_path / "no" / "out.jsonl", "--model", "m")
    assert ended.returncode == 2
    assert_one_sentence(ended, "does not exist")


def test_no_file_is_written_over_another_of_the_same_command(
    console: Console, tmp_path: Path
) -> None:
    errors, output = tmp_path / "out.errors.jsonl", tmp_path / "out.jsonl"
    errors.write_bytes(PROMPTS.read_bytes())
    commands = [
        ("run", errors, "-o", errors),
        ("run", errors, "-o", output),  # the errors file's default name is that of the input
        ("run", PROMPTS, "-o", output, "--errors", tmp_path / "sub" / ".." / output.name),
        ("run", PROMPTS, "-o", output, "--summary", output),
    ]
    (tmp_path / "sub").mkdir()
    for command in commands:
        ended = console.call(*command, "--model", "m")
        assert ended.returncode == 2
        assert_one_sentence(ended, "same file")
    assert errors.read_bytes() == PROMPTS.read_bytes()


@pytest.mark.parametrize(
    "arguments", [("status",), ("wait", "batch_0"), ("results", "batch_0"), ("cancel", "batch_0")]
)
def test_an_unreachable_database(console: Console, arguments: tuple[str, ...]) -> None:
    ended = console.call("--database-url", f"postgresql://u:secret@{NOBODY}/x", *arguments)
    assert ended.returncode == 4
    assert_one_sentence(ended, NOBODY.partition(":")[0])
    assert "secret" not in ended.stderr


def test_a_database_without_tables(console: Console, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'other.db'}"
    ended = console.call("--database-url", url, "status")
    assert ended.returncode == 4
    assert_one_sentence(ended, "nightshift db upgrade")
    console.succeed("--database-url", url, "db", "upgrade")
    assert console.succeed("--database-url", url, "status", "--json") == "[]\n"


def test_a_worker_without_its_broker(demo_console: Console) -> None:
    ended = demo_console.run(
        "--broker-url", f"redis://{NOBODY}/0", "worker", "--model", "demo-model"
    )
    assert ended.returncode == 4
    assert_one_sentence(ended, "redis://", "start Redis")


def test_submitting_without_the_broker_warns_and_stores(demo_console: Console) -> None:
    ended = demo_console.run(
        "--broker-url", f"redis://{NOBODY}/0", "submit", PROMPTS, "--model", "demo-model"
    )
    assert ended.returncode == 0
    assert "Traceback" not in ended.stderr
    assert "cannot be reached" in ended.stderr
    status = json.loads(demo_console.succeed("status", ended.stdout.strip(), "--json"))
    assert status["status"] == "in_progress"


@pytest.mark.parametrize(
    ("settings", "arguments", "named"),
    [
        ({"NIGHTSHIFT_BROKR_URL": "x"}, ("status",), "NIGHTSHIFT_BROKER_URL"),
        ({"NIGHTSHIFT_LEASE_TTL_S": "soon"}, ("status",), "NIGHTSHIFT_LEASE_TTL_S"),
        ({}, ("--set", "lease_ttl_s=0", "status"), "NIGHTSHIFT_LEASE_TTL_S"),
        ({}, ("--set", "lease_ttl_s", "status"), "NAME=VALUE"),
        ({}, ("--log-level", "loud", "status"), "--log-level"),
        ({}, ("--database-url", "nonsense", "status"), "DATABASE_URL"),
    ],
)
def test_an_unusable_setting(
    console: Console, settings: dict[str, str], arguments: tuple[str, ...], named: str
) -> None:
    ended = Console(console.home, settings).call(*arguments)
    assert ended.returncode == 2
    assert_one_sentence(ended, named)


@pytest.mark.parametrize("contents", ["hello\nworld\n", "", "\n\n"])
def test_a_file_that_is_no_jsonl_leaves_nothing(
    demo_console: Console, tmp_path: Path, contents: str
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(contents)
    ended = demo_console.run("submit", source, "--model", "demo-model")
    assert ended.returncode == 2
    assert_one_sentence(ended, "in.jsonl")
    assert demo_console.succeed("status", "--json") == "[]\n"


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--temperature", "9"), "temperature"),
        (("--top-p", "0"), "top_p"),
        (("--system", "x", "--completions"), "--system"),
    ],
)
def test_decoding_flags_that_cannot_be_used(
    demo_console: Console, flags: tuple[str, ...], named: str
) -> None:
    ended = demo_console.call("submit", PROMPTS, "--model", "demo-model", *flags)
    assert ended.returncode == 2
    assert_one_sentence(ended, named)
    assert demo_console.succeed("status", "--json") == "[]\n"


def test_an_unknown_batch(console: Console) -> None:
    for command in ("status", "wait", "results", "cancel", "retry"):
        ended = console.call(command, "batch_0")
        assert ended.returncode == 3
        assert_one_sentence(ended, "batch_0")
