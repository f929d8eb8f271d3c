"""The engine process: it answers, refuses, cancels, ends when told, and dies with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from models.errors import ArtifactError, EngineCrashed, EngineStalled
from models.generation import ChatMessage, ChatPrompt, Generation, TextPrompt
from models.params import DecodingParams
from worker.backends.messages import Add, Cancel, Delta, Finished, Progress
from worker.backends.process import EngineProcess, EngineProcessConfig
from worker.backends.process_environment import engine_environment

READY_S = 60.0
ANSWER_S = 30.0
END_S = 10.0
PROMPT = TextPrompt(text="the night shift works")


def config_of(artifact: Path) -> EngineProcessConfig:
    return EngineProcessConfig(artifact=artifact, threads=1, max_sequences=8)


@pytest.fixture(scope="module")
def engine(tiny_artifact: Path) -> Iterator[EngineProcess]:
    """One process for all tests that leave it alive; it outlives the thread that made it."""
    made: list[EngineProcess] = []
    maker = threading.Thread(target=lambda: made.append(EngineProcess(config_of(tiny_artifact))))
    maker.start()
    maker.join()
    with made[0] as running:
        running.wait_ready(READY_S)
        yield running


def collect(
    engine: EngineProcess, keys: set[str]
) -> tuple[dict[str, Finished], list[Delta], list[Progress]]:
    """Receive until all keys are finished."""
    finished: dict[str, Finished] = {}
    deltas: list[Delta] = []
    progress: list[Progress] = []
    deadline = time.monotonic() + ANSWER_S
    while not keys <= finished.keys():
        assert time.monotonic() < deadline, f"no answer to {keys - finished.keys()}"
        for event in engine.receive(1.0):
            if isinstance(event, Finished):
                finished[event.key] = event
            elif isinstance(event, Delta):
                deltas.append(event)
            else:
                progress.append(event)
    return finished, deltas, progress


def generation_of(engine: EngineProcess, add: Add) -> Generation:
    engine.send(add)
    generation = collect(engine, {add.key})[0][add.key].generation
    assert generation is not None
    return generation


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + END_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    """Whether no process of that id runs; one that nobody waited for counts as gone."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


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


def test_requests_are_answered_and_bad_ones_refused_beside_them(engine: EngineProcess) -> None:
    short = DecodingParams(max_tokens=5, temperature=0, ignore_eos=True)
    engine.send(
        Add(key="good", prompt=PROMPT, params=short),
        Add(key="long", prompt=TextPrompt(text="night " * 400), params=short),
        Add(key="bias", prompt=PROMPT, params=DecodingParams(logit_bias={99_999: 1.0})),
        Add(key="chat", prompt=ChatPrompt(messages=(ChatMessage(role="user", content="x"),))),
    )
    finished, _, _ = collect(engine, {"good", "long", "bias", "chat"})
    assert finished["good"].generation is not None
    assert finished["good"].generation.output_tokens == 5
    assert finished["chat"].generation is not None
    long, bias = finished["long"].refusal, finished["bias"].refusal
    assert long is not None and bias is not None
    assert (long.code, long.param) == ("context_length_exceeded", "prompt")
    assert "256" in long.message
    assert (bias.code, bias.param) == ("invalid_value", "logit_bias")


def test_streamed_pieces_are_the_text(engine: EngineProcess) -> None:
    params = DecodingParams(max_tokens=60, seed=1, n=2, ignore_eos=True)
    engine.send(Add(key="s", prompt=PROMPT, params=params, stream=True))
    finished, deltas, _ = collect(engine, {"s"})
    generation = finished["s"].generation
    assert generation is not None
    for choice in generation.choices:
        pieces = [delta.text for delta in deltas if delta.index == choice.index]
        assert len(pieces) > 10
        assert "".join(pieces) == choice.text


def test_a_cancelled_request_gets_no_answer(engine: EngineProcess) -> None:
    endless = DecodingParams(ignore_eos=True, n=8)
    engine.send(
        Add(key="cancelled", prompt=PROMPT, params=endless),
        Cancel(keys=("cancelled", "unknown")),
        Add(key="after", prompt=PROMPT, params=DecodingParams(max_tokens=3)),
    )
    finished, _, _ = collect(engine, {"after"})
    assert set(finished) == {"after"}


def test_progress_comes_without_work_and_counts_what_was_done(engine: EngineProcess) -> None:
    before = next_progress(engine)
    add = Add(key="p", prompt=PROMPT, params=DecodingParams(max_tokens=20, ignore_eos=True))
    generation_of(engine, add)
    until(
        lambda: next_progress(engine).output_tokens >= before.output_tokens + 20,
        "progress does not count tokens",
    )
    assert engine.seconds_since_sign_of_life < END_S


def test_the_figures_are_whole_once_it_has_stopped(tiny_artifact: Path) -> None:
    with EngineProcess(config_of(tiny_artifact)) as engine:
        engine.wait_ready(READY_S)
        assert engine.forward_s == 0
        add = Add(key="p", prompt=PROMPT, params=DecodingParams(max_tokens=3, ignore_eos=True))
        generation = generation_of(engine, add)
    assert 0 < engine.forward_s < generation.timings.total_s


def next_progress(engine: EngineProcess) -> Progress:
    deadline = time.monotonic() + END_S
    while time.monotonic() < deadline:
        for event in engine.receive(2.0):
            if isinstance(event, Progress):
                return event
    raise AssertionError("the idle engine gives no sign of life")


def test_sending_never_blocks_and_nothing_is_lost(engine: EngineProcess) -> None:
    os.kill(engine.pid, signal.SIGSTOP)
    try:
        text = TextPrompt(text="night " * 40_000)
        engine.send(*(Add(key=f"big {number}", prompt=text) for number in range(20)))
    finally:
        os.kill(engine.pid, signal.SIGCONT)
    finished, _, _ = collect(engine, {f"big {number}" for number in range(20)})
    assert {f.refusal.code for f in finished.values() if f.refusal} == {"context_length_exceeded"}


def test_interrupts_and_terminations_leave_the_engine_to_its_parent(
    engine: EngineProcess,
) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(engine.pid, number)
    params = DecodingParams(max_tokens=2, temperature=0)
    assert generation_of(engine, Add(key="after signals", prompt=PROMPT, params=params))


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


def test_a_killed_engine_is_reported_at_once_with_the_signal(tiny_artifact: Path) -> None:
    engine = EngineProcess(config_of(tiny_artifact))
    engine.wait_ready(READY_S)
    engine.send(Add(key="a", prompt=PROMPT, params=DecodingParams(ignore_eos=True, n=8)))
    os.kill(engine.pid, signal.SIGKILL)
    until(lambda: not engine.alive, "the death is not noticed")
    with pytest.raises(EngineCrashed, match="SIGKILL"):
        while True:
            engine.receive(END_S)  # events that came before the end come first
    with pytest.raises(EngineCrashed, match="SIGKILL"):
        engine.send(Add(key="b", prompt=PROMPT))
    engine.stop()


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


def test_a_stopped_engine_is_gone_and_says_so(tiny_artifact: Path) -> None:
    engine = EngineProcess(config_of(tiny_artifact))
    engine.wait_ready(READY_S)
    engine.stop(timeout_s=END_S)
    engine.stop()
    assert engine.exit_code == 0  # it ended by itself, nobody had to kill it
    with pytest.raises(EngineCrashed, match="stopped"):
        while True:
            engine.receive(END_S)
    with pytest.raises(EngineCrashed, match="stopped"):
        engine.send(Cancel(keys=()))


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
