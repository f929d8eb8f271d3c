"""An engine process over a scripted backend: `python -m tests.backends.scripted_server FD KIND`.

Torch-free, so it starts at once. Prompts that say what to do drive it: `break the tokenizer`,
`hang the tokenizer`, `crash`, `stand still`, `go on` (both without an end), and anything else is
answered with itself.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterable

from models.errors import UnsupportedModel
from models.generation import Choice, Generation, TextPrompt, Timings
from worker.backends.base import Backend, Description, Prepared
from worker.backends.messages import Add, Delta, Finished
from worker.backends.server import Server
from worker.engine.counters import EngineCounters

TIMINGS = Timings(
    tokenize_s=0, queue_s=0, prefill_s=0, time_to_first_token_s=0, decode_s=0, total_s=0
)
ENDLESS = {"stand still", "go on"}


class ScriptedBackend:
    """Answers every prompt with itself."""

    def __init__(self) -> None:
        self._waiting: dict[str, str] = {}
        self._steps = 0

    @property
    def has_work(self) -> bool:
        return bool(self._waiting)

    @property
    def counters(self) -> EngineCounters:
        return EngineCounters(self._steps, 0, 0, 0, 0, 0.0, 0, len(self._waiting), 0)

    def describe(self) -> Description:
        return Description("scripted", "fp32", "0" * 64, 1, 1, 1, 1, 1, "none")

    def prepare(self, command: Add, arrived_s: float) -> Prepared:
        if command.prompt == TextPrompt(text="break the tokenizer"):
            raise ZeroDivisionError("the tokenizer has a bug")
        if command.prompt == TextPrompt(text="hang the tokenizer"):
            threading.Event().wait()
        return Prepared(command, (1,), command.params, 0, arrived_s, 0.0)

    def add(self, prepared: Prepared) -> None:
        assert isinstance(prepared.command.prompt, TextPrompt)
        self._waiting[prepared.key] = prepared.command.prompt.text

    def cancel(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._waiting.pop(key, None)

    def step(self) -> list[Finished | Delta]:
        if ENDLESS & set(self._waiting.values()):
            self._steps += "go on" in self._waiting.values()
            time.sleep(0.01)
            return []
        self._steps += 1
        print("a library prints to standard output", flush=True)  # noqa: T201
        key, text = self._waiting.popitem()
        if text == "crash":
            raise MemoryError("the step needs more than there is")
        choice = Choice(index=0, text=text, finish_reason="stop")
        generation = Generation(
            choices=(choice,),
            prompt_tokens=1,
            cached_prompt_tokens=0,
            output_tokens=1,
            timings=TIMINGS,
        )
        return [Finished(key=key, generation=generation)]


def load(kind: str) -> Backend:
    """The scripted backend, or an error of the kind that is asked for."""
    if kind == "unsupported":
        raise UnsupportedModel("this architecture is not supported: use another one")
    if kind == "bug":
        raise ZeroDivisionError("loading has a bug")
    return ScriptedBackend()


if __name__ == "__main__":
    os.dup2(2, 1)
    Server(socket.socket(fileno=int(sys.argv[1])), lambda: load(sys.argv[2]), 1).serve()
