"""What is asked of a model and what it answers: the types between store, worker and wire.

Pydantic models, because they travel as JSON between a worker and its engine process.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

FinishReason = Literal["stop", "length"]


class Frozen(BaseModel):
    """An immutable value that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ChatMessage(Frozen):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class ChatPrompt(Frozen):
    """A conversation; the model's own chat template turns it into tokens."""

    kind: Literal["chat"] = "chat"
    messages: tuple[ChatMessage, ...]


class TextPrompt(Frozen):
    """Plain text, tokenized with the model's special tokens and no template."""

    kind: Literal["text"] = "text"
    text: str


class TokenPrompt(Frozen):
    """Token ids, used as they are."""

    kind: Literal["tokens"] = "tokens"
    token_ids: tuple[int, ...]


Prompt = ChatPrompt | TextPrompt | TokenPrompt


class TopLogprob(Frozen):
    """One alternative at one position; `logprob` is natural."""

    token: str
    logprob: float
    bytes: tuple[int, ...] | None = None


class TokenLogprob(TopLogprob):
    """The chosen token at one position and its alternatives, most likely first."""

    top_logprobs: tuple[TopLogprob, ...] = ()


class Choice(Frozen):
    """One of the `n` answers to a request."""

    index: int
    text: str
    finish_reason: FinishReason
    token_ids: tuple[int, ...] | None = None  # only with return_token_ids
    logprobs: tuple[TokenLogprob, ...] | None = None  # only with logprobs


class Timings(Frozen):
    """Seconds spent on one request, all from one monotonic clock in the engine process.

    total ≈ tokenize + queue + prefill + decode: `queue_s` runs from the end of tokenizing to the
    first step with the request, `prefill_s` from there to the first token, `decode_s` from the
    first token to the last, `time_to_first_token_s` from the request's arrival to the first token.
    """

    tokenize_s: float
    queue_s: float
    prefill_s: float
    time_to_first_token_s: float
    decode_s: float
    total_s: float


class Generation(Frozen):
    """The answer to one request."""

    choices: tuple[Choice, ...]
    prompt_tokens: int
    cached_prompt_tokens: int
    output_tokens: int
    timings: Timings
    prompt_token_ids: tuple[int, ...] | None = None  # only with return_token_ids


class Refusal(Frozen):
    """Why a request has no answer. `http_status` None: it never ran (worker lost, cancelled, …)."""

    code: str
    message: str
    param: str | None = None
    http_status: int | None = 400
