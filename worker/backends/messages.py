"""What a worker and its engine process say to each other: one JSON object a line.

Commands go to the engine, events come back. Must not know torch, sockets or the job store.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from models.generation import Frozen, Generation, Prompt, Refusal
from models.params import DecodingParams


class Add(Frozen):
    """Generate for one request; `key` is the sender's own name for it, unique while in flight.

    `seed` is used when `params.seed` is None; with neither the engine draws one.
    """

    kind: Literal["add"] = "add"
    key: str
    prompt: Annotated[Prompt, Field(discriminator="kind")]
    params: DecodingParams = DecodingParams()
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stream: bool = False  # also send a Delta for every piece of text


class Cancel(Frozen):
    """Forget requests. They get no Finished, except one that was already on its way."""

    kind: Literal["cancel"] = "cancel"
    keys: tuple[str, ...]


Command = Annotated[Add | Cancel, Field(discriminator="kind")]


class Ready(Frozen):
    """The model is loaded; sent once, before everything else."""

    kind: Literal["ready"] = "ready"
    architecture: str
    weights: str
    artifact_digest: str
    vocab_size: int
    context_tokens: int  # prompt and output of one request together
    kv_cache_tokens: int
    kv_cache_bytes: int
    max_sequences: int
    kernels: str  # what of the model is compiled, and why not the rest
    threads: int
    load_s: float
    peak_rss_bytes: int


class Failed(Frozen):
    """The engine cannot start; `error` is the name of a class in models.errors."""

    kind: Literal["failed"] = "failed"
    error: str
    message: str


class Finished(Frozen):
    """The end of one request: exactly one of `generation` and `refusal` is given."""

    kind: Literal["finished"] = "finished"
    key: str
    generation: Generation | None = None
    refusal: Refusal | None = None


class Delta(Frozen):
    """The next piece of one choice's text; the pieces together are the choice's text."""

    kind: Literal["delta"] = "delta"
    key: str
    index: int
    text: str


class Progress(Frozen):
    """A report from the thread that computes: twice a second at work, once when idle.

    One also follows the answer after which nothing is left to do, so the figures are then whole.
    The counters only grow; `prompt_tokens` counts tokens computed, without cached ones.
    """

    kind: Literal["progress"] = "progress"
    steps: int
    prompt_tokens: int
    cached_prompt_tokens: int
    output_tokens: int
    preemptions: int
    forward_s: float  # in the model's forward
    running: int  # sequences
    waiting: int
    kv_blocks_used: int
    peak_rss_bytes: int


Event = Annotated[Ready | Failed | Finished | Delta | Progress, Field(discriminator="kind")]

COMMANDS: TypeAdapter[Add | Cancel] = TypeAdapter(Command)
EVENTS: TypeAdapter[Ready | Failed | Finished | Delta | Progress] = TypeAdapter(Event)


def to_line(message: Frozen) -> bytes:
    """The message as one line; JSON never holds a bare newline."""
    return message.model_dump_json().encode() + b"\n"
