"""What every engine process does, whatever generates in it: also the fake one of fault tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from models.backend_name import BackendName
from models.errors import EngineCrashed
from models.generation import ChatMessage, ChatPrompt, TextPrompt
from models.params import DecodingParams
from tests.backends.exchange import (
    END_S,
    PROMPT,
    READY_S,
    collect,
    generation_of,
    is_gone,
    lasting,
    next_progress,
    until,
)
from tests.backends.tiny_artifact import write_tiny_artifact
from tests.faults.fake_engine import Script, write_script
from worker.backends.messages import Add, Cancel
from worker.backends.process import EngineProcess, EngineProcessConfig

Start = Callable[[], EngineProcess]


@pytest.fixture(scope="module", params=["native", "transformers", "fake"])
def start(
    request: pytest.FixtureRequest, tiny_artifact: Path, tmp_path_factory: pytest.TempPathFactory
) -> Start:
    """Starts one more engine of the kind."""
    config = partial(EngineProcessConfig, threads=1, max_sequences=8)
    if request.param == "native":
        return partial(EngineProcess, config(artifact=tiny_artifact))
    if request.param == "transformers":
        backend = BackendName.TRANSFORMERS
        artifact = write_tiny_artifact(tmp_path_factory.mktemp("tiny"), backend=backend)
        return partial(EngineProcess, config(artifact=artifact, backend=backend))
    script = write_script(tmp_path_factory.mktemp("fake"), Script())
    return partial(EngineProcess, config(artifact=script), module="tests.faults.fake_engine")


@pytest.fixture(scope="module")
def engine(start: Start) -> Iterator[EngineProcess]:
    """One process for all tests that leave it alive."""
    with lasting(start) as running:
        yield running


def test_ready_says_what_runs(engine: EngineProcess) -> None:
    ready = engine.wait_ready(READY_S)
    assert len(ready.artifact_digest) == 64
    assert (ready.context_tokens, ready.max_sequences, ready.threads) == (256, 8, 1)
    assert ready.load_s >= 0
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


def test_the_same_seed_gives_the_same_answer_and_another_seed_another(
    engine: EngineProcess,
) -> None:
    def text(key: str, seed: int) -> str:
        params = DecodingParams(max_tokens=12, temperature=1.5, seed=seed, ignore_eos=True)
        return generation_of(engine, Add(key=key, prompt=PROMPT, params=params)).choices[0].text

    assert text("first", 1) == text("again", 1)
    assert text("again", 1) != text("other", 2)


def test_a_request_s_seconds_add_up(engine: EngineProcess) -> None:
    params = DecodingParams(max_tokens=20, ignore_eos=True)
    timings = generation_of(engine, Add(key="t", prompt=PROMPT, params=params)).timings
    parts = timings.tokenize_s + timings.queue_s + timings.prefill_s + timings.decode_s
    assert parts == pytest.approx(timings.total_s, rel=0.01)
    assert timings.time_to_first_token_s <= timings.total_s


def test_a_killed_engine_is_reported_at_once_with_the_signal(start: Start) -> None:
    engine = start()
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


def test_a_stopped_engine_is_gone_and_says_so(start: Start) -> None:
    engine = start()
    engine.wait_ready(READY_S)
    engine.stop(timeout_s=END_S)
    engine.stop()
    assert is_gone(engine.pid)
    assert engine.exit_code == 0  # it ended by itself, nobody had to kill it
    with pytest.raises(EngineCrashed, match="stopped"):
        while True:
            engine.receive(END_S)
    with pytest.raises(EngineCrashed, match="stopped"):
        engine.send(Cancel(keys=()))
