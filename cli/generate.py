"""`nightshift generate`: one prompt, answered at once, without a batch or a database."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.context import load
from cli.display import emit, emit_json, say
from cli.flag_groups import Given, decoding_params, with_flag_groups
from cli.model_choice import ensure_model
from models.errors import EngineError, RequestRefused

if TYPE_CHECKING:
    from models.generation import Generation, Prompt
    from models.model_key import ModelKey
    from worker.backends.messages import Add, Finished
    from worker.jobs.engine_port import EnginePort

KEY = "prompt"
POLL_S = 0.25  # shorter than the engine's reports are apart


@with_flag_groups
def generate(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(help="The prompt; `-` reads it from stdin.")],
    model: options.ModelName,
    weights: options.WeightsKind = None,
    stream: Annotated[bool, typer.Option("--stream", help="Show tokens as they come.")] = False,
    system: options.SystemText = None,
    completions: options.Completions = False,
    *,
    decoding: Given,
    engine: Given,
    as_json: options.AsJson = False,
) -> None:
    """Answer one prompt; the text goes to stdout, the figures to stderr."""
    from worker.backends.messages import Add
    from worker.spawning import engine_spawner

    text = sys.stdin.read() if prompt == "-" else prompt
    command = Add(
        key=KEY,
        prompt=_prompt(text, system, completions),
        params=decoding_params(decoding),
        stream=stream,
    )
    settings = load(context, **engine)
    key = ensure_model(settings, model, weights)
    process = engine_spawner(settings, key)()
    try:
        process.wait_ready(settings.load_timeout_s)
        answer = _answer(
            process,
            command,
            show_text=stream and not as_json,
            stall_timeout_s=settings.stall_timeout_s,
        )
    finally:
        process.kill()
    _show(answer, key, shown=stream, as_json=as_json)


def _prompt(text: str, system: str | None, completions: bool) -> Prompt:
    from models.generation import ChatMessage, ChatPrompt, TextPrompt

    if completions:
        return TextPrompt(text=text)
    first = (ChatMessage(role="system", content=system),) if system else ()
    return ChatPrompt(messages=(*first, ChatMessage(role="user", content=text)))


def _answer(
    process: EnginePort, command: Add, *, show_text: bool, stall_timeout_s: float
) -> Generation:
    """Wait for the end of the request.

    Raises RequestRefused when the engine refuses it, EngineStalled when it makes no progress.
    """
    from worker.jobs.supervisor import check_progress

    process.send(command)
    while True:
        events = process.receive(POLL_S)
        if not events:
            check_progress(process, stall_timeout_s)
        for event in events:
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
