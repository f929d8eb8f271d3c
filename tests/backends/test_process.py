"""The engine process: it answers, refuses, cancels, ends when told, and dies with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.errors import ArtifactError, EngineCrashed, EngineStalled
from models.params import DecodingParams
from tests.backends.exchange import END_S, PROMPT, READY_S, generation_of, is_gone, lasting, until
from worker.backends.messages import Add
from worker.backends.process import EngineProcess, EngineProcessConfig
from worker.backends.process_environment import engine_environment


def config_of(artifact: Path) -> EngineProcessConfig:
    return EngineProcessConfig(artifact=artifact, threads=1, max_sequences=8)


@pytest.fixture(scope="module")
def engine(tiny_artifact: Path) -> Iterator[EngineProcess]:
    """One process for all tests that leave it alive."""
    with lasting(lambda: EngineProcess(config_of(tiny_artifact))) as running:
        yield running


def test_ready_says_what_was_loaded(engine: EngineProcess) -> None:
    ready = engine.wait_ready(READY_S)
    assert ready.weights == "fp32"
    assert ready.architecture.startswith("llama")
    assert len(ready.artifact_digest) == 64
    assert (ready.context_tokens, ready.max_sequences, ready.threads) == (256, 8, 1)
    assert ready.kv_cache_tokens == 8 * 256
    assert ready.kv_cache_bytes < 2 * 1024**2
    assert ready.load_s > 0
    assert engine.peak_rss_bytes >= ready.peak_rss_bytes > 0
    assert engine.peak_rss_bytes // 2 < engine.rss_bytes
    assert engine.alive


def test_the_figures_are_whole_once_it_has_stopped(tiny_artifact: Path) -> None:
    with EngineProcess(config_of(tiny_artifact)) as engine:
        engine.wait_ready(READY_S)
        assert engine.forward_s == 0
        add = Add(key="p", prompt=PROMPT, params=DecodingParams(max_tokens=3, ignore_eos=True))
        generation = generation_of(engine, add)
    assert 0 < engine.forward_s < generation.timings.total_s


def test_the_engine_has_no_secrets_and_no_way_to_the_parent_s_output(
    engine: EngineProcess,
) -> None:
    environment = Path(f"/proc/{engine.pid}/environ").read_bytes().split(b"\0")
    names = {entry.partition(b"=")[0].decode() for entry in environment}
    assert not [name for name in names if name.startswith(("HF_TOKEN", "NIGHTSHIFT_"))]
    assert b"HF_HUB_OFFLINE=1" in environment
    assert b"OMP_NUM_THREADS=1" in environment
    stdout, stderr = (os.readlink(f"/proc/{engine.pid}/fd/{fd}") for fd in (1, 2))
    assert stdout == stderr


def test_only_variables_that_are_known_to_be_harmless_reach_the_engine() -> None:
    hubs = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY")
    others = ("NIGHTSHIFT_DATABASE_URL", "PGPASSWORD", "HTTPS_PROXY", "SOMETHING_NEW")
    secret = dict.fromkeys((*hubs, *others), "s")
    given = secret | {"HOME": "/h", "PYTHONPATH": "/p", "LC_ALL": "C", "MALLOC_ARENA_MAX": "2"}
    environment = engine_environment(given, threads=3)
    assert not secret.keys() & environment.keys()
    assert (environment["LC_ALL"], environment["MALLOC_ARENA_MAX"]) == ("C", "2")
    assert (environment["HOME"], environment["OMP_NUM_THREADS"]) == ("/h", "3")
    assert environment["GOMP_SPINCOUNT"] == "1000"
    assert environment["PYTHONPATH"].endswith(f"{os.pathsep}/p")


def test_an_engine_that_dies_while_loading_is_reported(tiny_artifact: Path) -> None:
    engine = EngineProcess(config_of(tiny_artifact))
    os.kill(engine.pid, signal.SIGSEGV)
    with pytest.raises(EngineCrashed, match="SIGSEGV"):
        engine.wait_ready(READY_S)


def test_a_process_that_cannot_be_started_is_an_error_at_once(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(EngineCrashed, match=r"cannot be started.*/nowhere/python"):
        EngineProcess(config_of(tiny_artifact))


def test_a_model_that_loads_too_slowly_is_stopped(tiny_artifact: Path) -> None:
    engine = EngineProcess(config_of(tiny_artifact))
    with pytest.raises(EngineStalled, match="NIGHTSHIFT_LOAD_TIMEOUT_S"):
        engine.wait_ready(0.001)
    assert not engine.alive
    assert is_gone(engine.pid)
    assert engine.rss_bytes == 0


def test_a_folder_that_is_no_artifact_fails_as_the_same_error(tmp_path: Path) -> None:
    with (
        EngineProcess(config_of(tmp_path / "nothing")) as engine,
        pytest.raises(ArtifactError, match="nothing"),
    ):
        engine.wait_ready(READY_S)


PARENT = """
import sys, threading
from pathlib import Path
from worker.backends.process import EngineProcess, EngineProcessConfig
engine = EngineProcess(EngineProcessConfig(artifact=Path(sys.argv[1]), threads=1))
if sys.argv[2] == "ready":
    engine.wait_ready(60)
sys.stdout.write(f"{engine.pid}\\n")
sys.stdout.flush()
if sys.argv[3] == "wait":
    threading.Event().wait()
"""


def start_parent(artifact: Path, moment: str, then: str) -> tuple[subprocess.Popen[str], int]:
    """A process that holds an engine, and the engine's id."""
    root = Path(__file__).resolve().parents[2]
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(artifact), moment, then],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert parent.stdout is not None
    return parent, int(parent.stdout.readline())


@pytest.mark.parametrize("moment", ["loading", "ready"])
def test_a_killed_parent_takes_the_engine_with_it(tiny_artifact: Path, moment: str) -> None:
    parent, engine_pid = start_parent(tiny_artifact, moment, "wait")
    with parent:
        assert not is_gone(engine_pid)
        parent.kill()
    until(lambda: is_gone(engine_pid), "the engine outlived its parent")


def test_a_parent_that_ends_without_a_word_takes_the_engine_with_it(tiny_artifact: Path) -> None:
    parent, engine_pid = start_parent(tiny_artifact, "loading", "end")
    with parent:
        assert parent.wait(END_S) == 0
    until(lambda: is_gone(engine_pid), "the engine outlived its parent")
