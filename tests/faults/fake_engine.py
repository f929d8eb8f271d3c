"""An engine process without a model, for faults that must happen at one certain request.

It is the real engine process in everything but the model: the same program, channel and messages
(`tests/backends/test_conformance.py` runs the same tests on both). An answer is a digest of prompt
and seed, so that anybody can tell whose answer a result is. Prompts that begin with a word of
`MAGIC` do harm instead.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import resource
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from models.errors import RequestRefused
from models.generation import ChatPrompt, Choice, Generation, Prompt, TextPrompt, Timings
from models.model_key import ModelKey, Weights
from worker.backends.base import Backend, Description, Prepared
from worker.backends.messages import Add, Delta, Finished
from worker.backends.process_config import EngineProcessConfig
from worker.backends.server import main
from worker.engine.counters import EngineCounters

FAKE_MODEL: Final = ModelKey("fake", Weights.INT8)
CONTEXT_TOKENS: Final = 256
VOCABULARY: Final = 300
_SCRIPT_NAME: Final = "script.json"
_SLOW_TIMES: Final = 20  # what `!slow` takes of what others take
_GROWTH_BYTES: Final = 32 * 1024**2
_LITTLE_MORE_BYTES: Final = 256 * 1024**2


@dataclass(frozen=True, slots=True)
class Script:
    """How fast the engine is: a step makes one token for every request that runs."""

    step_s: float = 0.002
    load_s: float = 0.0


def write_script(folder: Path, script: Script) -> Path:
    """What stands for the artifact; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _SCRIPT_NAME).write_text(json.dumps(asdict(script)))
    return folder


def expected_text(prompt: str, seed: int, n_tokens: int) -> str:
    """The answer: four characters a token."""
    digest = hashlib.sha256(f"{seed}:{prompt}".encode()).hexdigest()
    return "".join(f"{digest[4 * (i % 16) : 4 * (i % 16) + 4]}" for i in range(n_tokens))


def prompt_text(prompt: Prompt) -> str:
    """What the answer depends on."""
    match prompt:
        case TextPrompt(text=text):
            return text
        case ChatPrompt(messages=messages):
            return "\n".join(message.content for message in messages)
        case _:
            return " ".join(map(str, prompt.token_ids))


def _die() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _hang() -> None:
    ctypes.PyDLL(None).sleep(3600)  # in native code, and with Python's lock held


def _eat() -> None:
    """Ask for memory until there is none."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _LITTLE_MORE_BYTES,) * 2)
    eaten = []
    while True:
        eaten.append(bytes(_GROWTH_BYTES))


def _kill_worker() -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(3600)  # the kernel ends this process with its parent


# What a prompt that begins with the word does when its generation starts.
MAGIC: Final[Mapping[str, Callable[[], None]]] = {
    "!crash": _die,
    "!hang": _hang,
    "!oom": _eat,
    "!worker": _kill_worker,
}


@dataclass(slots=True)
class _Running:
    prepared: Prepared
    started_s: float
    n_tokens: int
    pace: int = 1  # steps per token
    steps: int = 0
    first_token_s: float = field(default=0.0)

    @property
    def done(self) -> int:
        return self.steps // self.pace


class FakeBackend:
    """Satisfies Backend. `!grow` keeps more memory with every request, `!slow` takes long."""

    def __init__(self, config: EngineProcessConfig, script: Script) -> None:
        self._config = config
        self._script = script
        self._waiting: dict[str, Prepared] = {}
        self._running: dict[str, _Running] = {}
        self._kept: list[bytearray] = []
        self._steps = self._prompt_tokens = self._output_tokens = 0
        self._forward_s = 0.0

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._running)

    @property
    def counters(self) -> EngineCounters:
        return EngineCounters(
            steps=self._steps,
            prompt_tokens=self._prompt_tokens,
            cached_prompt_tokens=0,
            output_tokens=self._output_tokens,
            preemptions=0,
            forward_s=self._forward_s,
            running=len(self._running),
            waiting=len(self._waiting),
            kv_blocks_used=0,
        )

    def describe(self) -> Description:
        return Description(
            architecture="fake",
            weights=str(FAKE_MODEL.weights),
            artifact_digest="f" * 64,
            vocab_size=VOCABULARY,
            context_tokens=CONTEXT_TOKENS,
            kv_cache_tokens=CONTEXT_TOKENS,
            kv_cache_bytes=1,
            max_sequences=self._config.max_sequences,
            kernels="none",
        )

    def prepare(self, command: Add, arrived_s: float) -> Prepared:
        ids = tuple(prompt_text(command.prompt).encode())
        if len(ids) >= CONTEXT_TOKENS:
            message = f"the prompt has {len(ids)} tokens and the context holds {CONTEXT_TOKENS}"
            raise RequestRefused(message, code="context_length_exceeded", param="prompt")
        if any(token >= VOCABULARY for token in command.params.logit_bias or ()):
            message = f"a token id is {VOCABULARY} or more"
            raise RequestRefused(message, code="invalid_value", param="logit_bias")
        seed = command.params.seed if command.params.seed is not None else command.seed or 0
        tokenize_s = time.monotonic() - arrived_s
        return Prepared(command, ids, command.params, seed, arrived_s, tokenize_s)

    def add(self, prepared: Prepared) -> None:
        if prepared.key in self._waiting or prepared.key in self._running:
            raise RequestRefused(f"{prepared.key} is in flight", code="duplicate_key")
        self._waiting[prepared.key] = prepared

    def cancel(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._waiting.pop(key, None)
            self._running.pop(key, None)

    def step(self) -> list[Finished | Delta]:
        self._start_waiting()
        before_s = time.monotonic()
        time.sleep(self._script.step_s)
        self._forward_s += time.monotonic() - before_s
        self._steps += 1
        events: list[Finished | Delta] = []
        for key, running in list(self._running.items()):
            events += self._advance(key, running)
        return events

    def _start_waiting(self) -> None:
        while self._waiting and len(self._running) < self._config.max_sequences:
            key = next(iter(self._waiting))
            prepared = self._waiting.pop(key)
            word = prompt_text(prepared.command.prompt).split(" ", 1)[0]
            if word in MAGIC:
                MAGIC[word]()
            if word == "!grow":
                self._kept.append(bytearray(os.urandom(1024)) * (_GROWTH_BYTES // 1024))
            room = CONTEXT_TOKENS - len(prepared.prompt_ids)
            self._running[key] = _Running(
                prepared,
                started_s=time.monotonic(),
                n_tokens=min(prepared.params.max_tokens or room, room),
                pace=_SLOW_TIMES if word == "!slow" else 1,
            )
            self._prompt_tokens += len(prepared.prompt_ids)

    def _advance(self, key: str, running: _Running) -> list[Finished | Delta]:
        before = running.done
        running.steps += 1
        if running.done == before:
            return []
        n_choices = running.prepared.params.n
        self._output_tokens += n_choices
        if running.done == 1:
            running.first_token_s = time.monotonic()
        events: list[Finished | Delta] = []
        if running.prepared.command.stream:
            events += [
                Delta(key=key, index=index, text=_text(running, index)[-4:])
                for index in range(n_choices)
            ]
        if running.done >= running.n_tokens:
            del self._running[key]
            events.append(Finished(key=key, generation=_generation(running)))
        return events


def _text(running: _Running, index: int) -> str:
    prepared = running.prepared
    prompt = prompt_text(prepared.command.prompt)
    return expected_text(prompt, prepared.seed + index, running.done)


def _generation(running: _Running) -> Generation:
    prepared, now_s = running.prepared, time.monotonic()
    queued_s = running.started_s - prepared.arrived_s - prepared.tokenize_s
    return Generation(
        choices=tuple(
            Choice(index=index, text=_text(running, index), finish_reason="length")
            for index in range(prepared.params.n)
        ),
        prompt_tokens=len(prepared.prompt_ids),
        cached_prompt_tokens=0,
        output_tokens=running.n_tokens * prepared.params.n,
        timings=Timings(
            tokenize_s=prepared.tokenize_s,
            queue_s=queued_s,
            prefill_s=running.first_token_s - running.started_s,
            time_to_first_token_s=running.first_token_s - prepared.arrived_s,
            decode_s=now_s - running.first_token_s,
            total_s=now_s - prepared.arrived_s,
        ),
    )


def load_fake(config: EngineProcessConfig) -> Backend:
    """The backend of the script in the artifact's folder."""
    script = Script(**json.loads((config.artifact / _SCRIPT_NAME).read_text()))
    time.sleep(script.load_s)
    return FakeBackend(config, script)


if __name__ == "__main__":
    main(load_fake)
