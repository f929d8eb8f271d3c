"""Talking to an engine process: send, wait for what comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

from models.generation import Generation, TextPrompt
from worker.backends.messages import Add, Delta, Finished, Progress
from worker.backends.process import EngineProcess

READY_S = 60.0
ANSWER_S = 30.0
END_S = 10.0
PROMPT = TextPrompt(text="the night shift works")


@contextmanager
def lasting(make: Callable[[], EngineProcess]) -> Iterator[EngineProcess]:
    """A ready engine; it outlives the thread that made it."""
    made: list[EngineProcess] = []
    maker = threading.Thread(target=lambda: made.append(make()))
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


def next_progress(engine: EngineProcess) -> Progress:
    deadline = time.monotonic() + END_S
    while time.monotonic() < deadline:
        for event in engine.receive(2.0):
            if isinstance(event, Progress):
                return event
    raise AssertionError("the idle engine gives no sign of life")


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
