"""An engine that does exactly what a test says: answers, crashes, hangs or waits.

It stands in for the engine process only where a fault must happen at one certain moment. The
answer to a prompt is the prompt reversed, so that tests can tell whose answer a result is.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from models.errors import EngineCrashed
from models.generation import Choice, Generation, Refusal, TextPrompt, Timings
from worker.backends.messages import Add, Cancel, Delta, Finished, Progress, Ready


class Script:
    """What all engines of one test do; shared, so that a restarted engine goes on with it."""

    def __init__(self) -> None:
        self.per_turn = 8
        self.padding = ""  # after every answer, to make it long
        self.crashes_on: Callable[[str], bool] = lambda _: False
        self.refuses: Callable[[str], bool] = lambda _: False
        self.holds: Callable[[str], bool] = lambda _: False
        self.hangs = False
        self.loads_for_ever = False
        self.load_error: Exception | None = None
        self.on_turn: Callable[[], None] = lambda: None
        self.engines: list[ScriptedEngine] = []
        self.answered: list[str] = []  # texts, in the order of answering, over all engines
        self.cancelled: list[str] = []

    def spawn(self) -> ScriptedEngine:
        engine = ScriptedEngine(self)
        self.engines.append(engine)
        return engine


class ScriptedEngine:
    """One engine of a script; satisfies EnginePort."""

    rss_bytes = 900
    peak_rss_bytes = 1000
    forward_s = 0.5

    def __init__(self, script: Script) -> None:
        self._script = script
        self._lock = threading.Lock()
        self._waiting: deque[Add] = deque()
        self._dead = False
        self._spoke_at = time.monotonic()
        self.most_at_once = 0

    @property
    def seconds_since_sign_of_life(self) -> float:
        return time.monotonic() - self._spoke_at

    def wait_ready(self, timeout_s: float) -> Ready:  # noqa: ARG002
        if self._script.load_error is not None:
            raise self._script.load_error
        while self._script.loads_for_ever and not self._dead:
            time.sleep(0.01)
        self._alive()
        return Ready(
            architecture="Scripted",
            weights="fp32",
            artifact_digest="0" * 64,
            vocab_size=1,
            context_tokens=128,
            kv_cache_tokens=128,
            kv_cache_bytes=1,
            max_sequences=8,
            kernels="none",
            threads=1,
            load_s=0.0,
            peak_rss_bytes=self.peak_rss_bytes,
        )

    def send(self, *commands: Add | Cancel) -> None:
        self._alive()
        for command in commands:
            if isinstance(command, Add):
                self._waiting.append(command)
            else:
                self._script.cancelled += command.keys
                keys = set(command.keys)
                self._waiting = deque(add for add in self._waiting if add.key not in keys)
        self.most_at_once = max(self.most_at_once, len(self._waiting))

    def receive(self, timeout_s: float) -> list[Finished | Delta | Progress]:
        self._script.on_turn()
        self._alive()
        if self._script.hangs:
            time.sleep(min(timeout_s, 0.02))
            return []
        self._spoke_at = time.monotonic()
        events: list[Finished | Delta | Progress] = []
        for _ in range(min(self._script.per_turn, len(self._waiting))):
            add = self._waiting.popleft()
            if self._script.crashes_on(text_of(add)):
                self.kill()
                break
            if self._script.holds(text_of(add)):
                self._waiting.append(add)
            else:
                events.append(self._answer(add))
        if not any(isinstance(event, Finished) for event in events):
            time.sleep(min(timeout_s, 0.02))
        return [*events, self._progress()]

    def stop(self) -> None:
        self.kill()

    def kill(self) -> None:
        self._dead = True

    def _alive(self) -> None:
        if self._dead:
            raise EngineCrashed("the scripted engine crashed")

    def _answer(self, add: Add) -> Finished:
        text = text_of(add)
        self._script.answered.append(text)
        if self._script.refuses(text):
            refusal = Refusal(code="context_length_exceeded", message="too long", param="prompt")
            return Finished(key=add.key, refusal=refusal)
        return Finished(key=add.key, generation=generation(text[::-1] + self._script.padding))

    def _progress(self) -> Progress:
        return Progress(
            steps=1,
            prompt_tokens=0,
            cached_prompt_tokens=0,
            output_tokens=0,
            preemptions=0,
            forward_s=self.forward_s,
            running=0,
            waiting=len(self._waiting),
            kv_blocks_used=0,
            peak_rss_bytes=self.peak_rss_bytes,
        )


def text_of(add: Add) -> str:
    """The prompt; scripted batches have text prompts only."""
    if not isinstance(add.prompt, TextPrompt):
        raise TypeError(f"a scripted engine reads text, not {add.prompt.kind}")
    return add.prompt.text


def generation(text: str) -> Generation:
    """An answer of that text, which took no time."""
    timings = Timings(
        tokenize_s=0, queue_s=0, prefill_s=0, time_to_first_token_s=0, decode_s=0, total_s=0
    )
    return Generation(
        choices=(Choice(index=0, text=text, finish_reason="stop"),),
        prompt_tokens=1,
        cached_prompt_tokens=0,
        output_tokens=1,
        timings=timings,
    )
