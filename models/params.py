"""Decoding parameters of one request: OpenAI's names first, extras as vLLM names them.

A field that is None was not given: the model's generation_config decides, then the neutral value.
docs/parameters.md is generated from the descriptions here.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

MAX_INT = 2**31 - 1  # of what becomes a tensor's entry or a database column

StopString = Annotated[str, Field(min_length=1, max_length=256)]
TokenId = Annotated[int, Field(ge=0, le=MAX_INT)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class DecodingParams(BaseModel):
    """How the tokens of one request are chosen and when it ends."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False
    )

    max_tokens: Annotated[int, Field(ge=1, le=MAX_INT)] | None = Field(
        default=None,
        validation_alias=AliasChoices("max_tokens", "max_completion_tokens"),
        description="Tokens of one answer at most; also `max_completion_tokens`. Not given: the "
        "model's `max_new_tokens`, else what the context holds.",
    )
    min_tokens: Annotated[int, Field(ge=0, le=MAX_INT)] = Field(
        default=0, description="No end token is chosen before so many tokens."
    )
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(
        default=None,
        description="0: always the most likely token; higher: more varied. Not given: the model's.",
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="Only the most likely tokens that together have this probability. Not given: "
        "the model's.",
    )
    top_k: Annotated[int, Field(ge=-1, le=MAX_INT)] | None = Field(
        default=None,
        description="Only so many most likely tokens; 0 and -1: all. Not given: the model's.",
    )
    min_p: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None,
        description="Only tokens with at least this share of the most likely one's probability. "
        "Not given: the model's.",
    )
    repetition_penalty: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="Over 1: tokens of prompt and answer so far become less likely. Not given: the "
        "model's.",
    )
    presence_penalty: Penalty = Field(
        default=0.0, description="Taken from the logit of each token that the answer has so far."
    )
    frequency_penalty: Penalty = Field(
        default=0.0,
        description="Taken from the logit of each token once for each time that the answer has it.",
    )
    logit_bias: dict[TokenId, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        default=None, description="Added to the logits of these token ids."
    )
    stop: tuple[StopString, ...] = Field(
        default=(),
        max_length=16,
        description="The answer ends before any of these texts; a string or a list.",
    )
    stop_token_ids: tuple[TokenId, ...] = Field(
        default=(), fail_fast=True, description="The answer ends with any of these tokens."
    )
    ignore_eos: bool = Field(
        default=False, description="The model's end tokens do not end the answer."
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = Field(
        default=None,
        description="Same seed and request: same answer. Not given: drawn from the batch's seed.",
    )
    n: Annotated[int, Field(ge=1, le=128)] = Field(default=1, description="Answers per request.")
    logprobs: bool = Field(
        default=False,
        description="Log-probabilities of the tokens; in `/v1/completions` the number of "
        "alternatives, as in OpenAI's API.",
    )
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = Field(
        default=0, description="Alternatives shown per token; needs `logprobs`."
    )
    return_token_ids: bool = Field(
        default=False, description="Adds `prompt_token_ids` and, per answer, `token_ids`."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ValueError("min_tokens is greater than max_tokens")
        return self
