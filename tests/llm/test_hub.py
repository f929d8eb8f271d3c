"""Sources of models, through the real Hub client against a Hub on loopback.

The client reads HF_ENDPOINT and HF_HOME when it is imported, so it runs in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.errors import HubError, NotFoundError, UnsupportedModel
from tests.llm.hub_server import COMMIT, TOKEN, StandInHub, serve_hub
from tests.llm.tiny_models import make_reference, save_reference
from tests.llm.tiny_tokenizers import make_byte_level
from worker.llm.artifact import open_artifact
from worker.llm.hub import EDGE_BYTES, folder_digest, resolve_source

RESOLVE = """
import json, sys
from models.errors import NightshiftError
from worker.llm.hub import resolve_source
assert "torch" not in sys.modules
for name, revision in json.loads(sys.argv[1]):
    try:
        found = resolve_source(name, revision)
        answer = {"folder": str(found.folder), "commit": found.source.commit}
    except NightshiftError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(answer))
"""

FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": b"weights",
    "tokenizer.json": b"{}",
    "tokenizer.model": b"pieces",
    "chat_template.jinja": b"{{ messages }}",
    "LICENSE": b"terms",
    "pytorch_model.bin": b"pickle",
    "modeling_evil.py": b"code",
    "consolidated.safetensors": b"the same weights again",
    "original/params.json": b"{}",
}
WANTED = {
    "config.json", "model.safetensors", "tokenizer.json", "tokenizer.model", "chat_template.jinja",
    "LICENSE",
}  # fmt: skip


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[StandInHub]:
    repositories = {}
    for name, files in {
        "org/good": FILES,
        "org/gated": FILES,
        "org/busy": FILES,
        "org/pickled": {"config.json": b"{}", "pytorch_model.bin": b"pickle"},
        "org/empty": {"README.md": b"nothing"},
    }.items():
        repositories[name] = tmp_path / "repositories" / name
        for file, content in files.items():
            path = repositories[name] / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    gated, failing = frozenset({"org/gated"}), frozenset({"org/busy"})
    with serve_hub(StandInHub(repositories, gated, failing)) as running:
        yield running


def resolve(
    hub: StandInHub, home: Path, *models: tuple[str, str | None], **environment: str
) -> list[dict[str, str]]:
    """What a fresh process answers for each (name, revision)."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    variables |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), **environment}
    done = subprocess.run(
        [sys.executable, "-c", RESOLVE, json.dumps(models)],
        env=variables, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_only_safe_files_are_downloaded_and_the_commit_is_pinned(
    hub: StandInHub, tmp_path: Path
) -> None:
    first, second = resolve(hub, tmp_path / "hf", ("org/good", None), ("org/good", COMMIT))
    assert first == second
    assert first["commit"] == COMMIT
    folder = Path(first["folder"])
    assert hub.downloaded == WANTED
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == WANTED
    assert (folder / "model.safetensors").read_bytes() == b"weights"


def test_what_was_downloaded_serves_without_a_connection(hub: StandInHub, tmp_path: Path) -> None:
    (online,) = resolve(hub, tmp_path / "hf", ("org/good", None))
    asked = len(hub.requests)
    found, unknown = resolve(
        hub, tmp_path / "hf", ("org/good", None), ("org/other", None), HF_HUB_OFFLINE="1"
    )
    assert found == online
    assert len(hub.requests) == asked
    assert unknown["error"] == "HubError"
    assert "not downloaded before" in unknown["message"]
    away = StandInHub({}, endpoint="http://127.0.0.1:9")  # nobody listens there
    found, unknown = resolve(away, tmp_path / "hf", ("org/good", None), ("org/other", None))
    assert found == online
    assert "cannot be reached" in unknown["message"]


def test_refusals_say_what_to_do(hub: StandInHub, tmp_path: Path) -> None:
    gated, missing, revision, busy, pickled, empty = resolve(
        hub,
        tmp_path / "hf",
        ("org/gated", None),
        ("org/missing", None),
        ("org/good", "v9"),
        ("org/busy", None),
        ("org/pickled", None),
        ("org/empty", None),
    )
    assert gated["error"] == "HubError"
    assert "HF_TOKEN" in gated["message"]
    assert "accept its licence" in gated["message"]
    assert missing["error"] == "HubError"
    assert "check the name" in missing["message"]
    assert revision == {
        "error": "HubError",
        "message": "org/good has no revision v9: give a branch, tag or commit of it",
    }
    assert busy["error"] == "HubError"
    assert "503" in busy["message"]
    assert pickled["error"] == "UnsafeModel"
    assert empty["error"] == "UnsupportedModel"
    assert hub.downloaded == set()
    for answer in (gated, missing, revision, busy, pickled, empty):
        assert "\n" not in answer["message"]


def test_a_token_opens_a_gated_model(hub: StandInHub, tmp_path: Path) -> None:
    (found,) = resolve(hub, tmp_path / "hf", ("org/gated", None), HF_TOKEN=TOKEN)
    assert found["commit"] == COMMIT
    assert hub.downloaded == WANTED


ADD = """
import json, shutil, sys
from pathlib import Path
from models.model_key import Weights
from worker.llm.add import add_model
from worker.llm.registry import Registry
registry, home = Registry(Path(sys.argv[1])), Path(sys.argv[2])
for _ in range(2):
    entry = add_model(registry, "org/real", weights=Weights.INT8, revision="main")
    shutil.rmtree(home, ignore_errors=True)  # the artifact alone must do for the second time
print(json.dumps([str(entry.key), entry.source, entry.commit, str(entry.folder)]))
"""


def test_a_model_of_the_hub_is_downloaded_and_quantized_once(tmp_path: Path) -> None:
    folder = make_byte_level(save_reference(make_reference(vocab_size=400), tmp_path / "real"))
    home = tmp_path / "hf"
    with serve_hub(StandInHub({"org/real": folder})) as hub:
        variables = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        done = subprocess.run(
            [sys.executable, "-c", ADD, str(tmp_path / "registry"), str(home)],
            env=variables | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home)},
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *named, place = json.loads(done.stdout)
    assert named == ["real:int8", "org/real", COMMIT]
    assert open_artifact(Path(place), verify=True).manifest.source.revision == "main"
    weights = [line for line in hub.requests if line.endswith("model.safetensors")]
    assert [line.split()[0] for line in weights].count("GET") == 1


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    found = resolve_source(str(tmp_path))
    assert found.folder == tmp_path
    assert found.source.commit is None
    assert found.source.repository == str(tmp_path)


def test_what_is_neither_folder_nor_id_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.gguf").write_bytes(b"")
    with pytest.raises(UnsupportedModel, match="is a file"):
        resolve_source(str(tmp_path / "model.gguf"))
    for name in (str(tmp_path / "nowhere"), "./models/x", "../x", "name", "a/b/c", "", "-x/y"):
        with pytest.raises(NotFoundError, match="there is no folder"):
            resolve_source(name)
    with pytest.raises(HubError, match="--revision"):
        resolve_source(str(tmp_path), revision="main")


def test_a_folder_digest_follows_every_change_that_matters(tmp_path: Path) -> None:
    def content(name: str, data: bytes) -> str:
        (tmp_path / name).write_bytes(data)
        return folder_digest(tmp_path)

    seen = [
        content("config.json", b"{}"),
        content("config.json", b"[]"),
        content("model.safetensors", b"1"),
        content("model.safetensors", b"2"),
        content("tokenizer.model", b"2"),
    ]
    assert len(set(seen)) == len(seen)
    assert content("README.md", b"words") == seen[-1]


def test_the_digest_of_large_files_follows_size_time_and_edges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.llm.hub.WHOLE_HASH_BYTES", 0)
    path = tmp_path / "model.safetensors"
    data = bytearray(3 * EDGE_BYTES)

    def digest(time_s: int) -> str:
        path.write_bytes(data)
        os.utime(path, (time_s, time_s))
        return folder_digest(tmp_path)

    first = digest(1)
    assert digest(1) == first
    assert digest(2) != first
    for place in (0, -1):
        data[place] = 1
        assert digest(1) != first
        data[place] = 0
