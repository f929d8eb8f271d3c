"""`nightshift generate`: one prompt, answered at once, without a batch or a database."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.context import load, open_registry
from cli.display import emit, emit_json, say
from cli.model_choice import ensure_model
from models.errors import EngineError, RequestRefused

if TYPE_CHECKING:
    from models.generation import Generation, Prompt
    from models.model_key import ModelKey
    from models.settings import Settings
    from worker.backends.messages import Add, Finished
    from worker.backends.process import EngineProcess
    from worker.llm.registry import Registry

KEY = "prompt"
POLL_S = 1.0


def generate(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(help="The prompt; `-` reads it from stdin.")],
    model: options.ModelName,
    weights: options.WeightsKind = None,
    stream: Annotated[bool, typer.Option("--stream", help="Show tokens as they come.")] = False,
    system: options.SystemText = None,
    completions: options.Completions = False,
    max_tokens: options.MaxTokens = None,
    min_tokens: options.MinTokens = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    min_p: options.MinP = None,
    repetition_penalty: options.RepetitionPenalty = None,
    stop: options.Stop = None,
    seed: options.Seed = None,
    threads: options.Threads = None,
    as_json: options.AsJson = False,
) -> None:
    """Answer one prompt; the text goes to stdout, the figures to stderr."""
    from worker.backends.messages import Add

    params = options.decoding_params(
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        stop=stop,
        seed=seed,
    )
    text = sys.stdin.read() if prompt == "-" else prompt
    command = Add(key=KEY, prompt=_prompt(text, system, completions), params=params, stream=stream)
    settings = load(context, threads=threads)
    registry = open_registry(settings)
    key = ensure_model(registry, model, weights)
    with _engine(settings, registry, key) as engine:
        answer = _answer(engine, command, show_text=stream and not as_json)
    _show(answer, key, shown=stream, as_json=as_json)


def _prompt(text: str, system: str | None, completions: bool) -> Prompt:
    from models.generation import ChatMessage, ChatPrompt, TextPrompt

    if completions:
        return TextPrompt(text=text)
    first = (ChatMessage(role="system", content=system),) if system else ()
    return ChatPrompt(messages=(*first, ChatMessage(role="user", content=text)))


@contextmanager
def _engine(settings: Settings, registry: Registry, key: ModelKey) -> Iterator[EngineProcess]:
    from worker.backends.process import EngineProcess, EngineProcessConfig

    config = EngineProcessConfig(
        artifact=registry.find(key),
        threads=settings.threads,
        max_sequences=1,
        step_tokens=settings.step_tokens,
        kv_cache_bytes=settings.kv_cache_bytes,
    )
    engine = EngineProcess(config)
    try:
        engine.wait_ready(settings.load_timeout_s)
        yield engine
    finally:
        engine.kill()


def _answer(engine: EngineProcess, command: Add, *, show_text: bool) -> Generation:
    """Wait for the end of the request; raises RequestRefused when the engine refuses it."""
    engine.send(command)
    while True:
        for event in engine.receive(POLL_S):
            if event.kind == "delta" and show_text:
                sys.stdout.write(event.text)
                sys.stdout.flush()
            elif event.kind == "finished":
                return _unwrap(event)


def _unwrap(event: Finished) -> Generation:
    if event.refusal is not None:
        raise RequestRefused(
            event.refusal.message, code=event.refusal.code, param=event.refusal.param
        )
    if event.generation is None:
        raise EngineError("the engine ended the request without an answer; run the command again")
    return event.generation


def _show(answer: Generation, key: ModelKey, *, shown: bool, as_json: bool) -> None:
    if as_json:
        emit_json({"model": str(key), **answer.model_dump(mode="json", exclude_none=True)})
        return
    emit("" if shown else answer.choices[0].text)
    timings = answer.timings
    rate = answer.output_tokens / timings.total_s if timings.total_s > 0 else 0.0
    say(
        f"{answer.prompt_tokens} prompt tokens, {answer.output_tokens} output tokens, "
        f"first token after {timings.time_to_first_token_s:.2f} s, {rate:.0f} tokens/s"
    )
