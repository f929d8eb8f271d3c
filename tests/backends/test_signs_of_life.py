"""An engine that goes on talking without getting anywhere counts as one that is silent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.generate import _answer
from models.errors import EngineStalled
from models.generation import TextPrompt
from tests.servers import wait_until
from worker.backends.messages import Add, Cancel, Finished, Progress
from worker.backends.process import EngineProcess, EngineProcessConfig
from worker.backends.signs_of_life import SignsOfLife

ROOT = Path(__file__).resolve().parents[2]
SILENCE_S = 1.6  # longer than a healthy engine is ever without a report


def report(*, steps: int = 5, tokens: int = 7, work: int = 3) -> Progress:
    return Progress(
        steps=steps,
        prompt_tokens=tokens,
        cached_prompt_tokens=0,
        output_tokens=tokens,
        preemptions=0,
        forward_s=1.0,
        running=work,
        waiting=0,
        kv_blocks_used=0,
        peak_rss_bytes=1,
    )


def test_with_work_only_counters_that_move_are_a_sign() -> None:
    now = [0.0]
    signs = SignsOfLife(clock=lambda: now[0])
    silences = []
    for event in (
        report(),  # the first one
        report(),
        report(),
        report(steps=6),
        report(steps=6, tokens=8),
        report(steps=6, tokens=8),
        Finished(key="a"),
        report(steps=6, tokens=8),
        report(steps=6, tokens=8, work=0),
        report(steps=6, tokens=8, work=0),
        report(steps=6, tokens=8),
    ):
        now[0] += 1.0
        signs.note([event])
        silences.append(signs.seconds_since)
    assert silences == [0, 1, 2, 0, 0, 1, 0, 1, 0, 0, 1]


def test_a_time_in_which_the_listener_was_stopped_is_no_silence() -> None:
    now = [0.0]
    signs = SignsOfLife(clock=lambda: now[0])
    now[0] += 3600.0
    assert signs.seconds_since == 1.0
    for _ in range(8):
        now[0] += 0.25
        silence_s = signs.seconds_since
    assert silence_s == 3.0


@pytest.fixture
def engine() -> Iterator[EngineProcess]:
    """An engine process whose backend does what it is told."""
    config = EngineProcessConfig(artifact=ROOT, threads=1)
    with EngineProcess(config, module="tests.backends.scripted_engine") as running:
        running.wait_ready(20)
        yield running


def add(text: str) -> Add:
    return Add(key=text, prompt=TextPrompt(text=text))


def reports(engine: EngineProcess, number: int) -> list[Progress]:
    """The next reports, as many as that."""
    found: list[Progress] = []

    def has_all() -> bool:
        found.extend(e for e in engine.receive(1.0) if isinstance(e, Progress))
        return len(found) >= number

    wait_until(has_all, "the engine goes on reporting")
    return found


def test_an_engine_that_reports_standing_still_gives_no_sign_of_life(engine: EngineProcess) -> None:
    engine.send(add("stand still"))
    wait_until(lambda: engine.seconds_since_sign_of_life > SILENCE_S, "the silence is noticed")
    told = reports(engine, 2)
    assert {event.waiting for event in told} == {1}
    assert len({event.steps for event in told}) == 1
    assert engine.seconds_since_sign_of_life > SILENCE_S
    engine.send(Cancel(keys=("stand still",)))
    wait_until(lambda: engine.seconds_since_sign_of_life < SILENCE_S, "an idle engine may stand")


def test_an_engine_that_moves_on_gives_signs_of_life(engine: EngineProcess) -> None:
    engine.send(add("stand still"))
    wait_until(lambda: engine.seconds_since_sign_of_life > SILENCE_S, "the silence is noticed")
    engine.send(add("go on"))
    wait_until(lambda: engine.seconds_since_sign_of_life < SILENCE_S, "steps are a sign")


def test_an_engine_that_hangs_before_it_knows_of_work_gives_no_sign(engine: EngineProcess) -> None:
    engine.send(add("hang the tokenizer"))
    wait_until(lambda: engine.seconds_since_sign_of_life > SILENCE_S, "the silence is noticed")
    assert {event.running + event.waiting for event in reports(engine, 2)} == {0}
    assert engine.seconds_since_sign_of_life > SILENCE_S


@pytest.mark.parametrize("text", ["an echo", "break the tokenizer"])
def test_an_answer_leaves_nothing_to_wait_for(engine: EngineProcess, text: str) -> None:
    engine.send(add(text))
    wait_until(
        lambda: any(isinstance(event, Finished) for event in engine.receive(0.1)),
        "the answer comes",
    )
    silences = []
    for _ in range(3):
        reports(engine, 1)
        silences.append(engine.seconds_since_sign_of_life)
    assert max(silences) < SILENCE_S


def test_one_prompt_alone_does_not_wait_for_a_stalled_engine(engine: EngineProcess) -> None:
    with pytest.raises(EngineStalled, match="no progress for 1 s"):
        _answer(engine, add("stand still"), show_text=False, stall_timeout_s=1.0)
