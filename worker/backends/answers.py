"""Answers that are being generated: sampled tokens in, text, choices and timings out.

Must not know how tokens are computed.
"""

from __future__ import annotations

import math

from models.generation import Choice, FinishReason, Generation, Timings, TokenLogprob, TopLogprob
from worker.backends.base import Prepared
from worker.backends.messages import Delta
from worker.backends.stop_strings import StopStrings
from worker.engine.output import SequenceOutput
from worker.engine.sampling import TokenLogprobs
from worker.llm.tokenizer import Tokenizer


class PendingChoice:
    """One choice's tokens so far. Text is made as it comes only where something looks at it."""

    def __init__(self, prepared: Prepared, index: int, tokenizer: Tokenizer) -> None:
        self._prepared = prepared
        self._index = index
        self._tokenizer = tokenizer
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprobs] = []
        self._stops = StopStrings(prepared.params.stop)
        self._incremental = prepared.command.stream or bool(prepared.params.stop)
        self._detokenizer = tokenizer.detokenizer() if self._incremental else None
        self._pieces: list[str] = []
        self.finish_reason: FinishReason | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens sampled so far."""
        return len(self._token_ids)

    def take(self, output: SequenceOutput) -> str:
        """Add one token; returns the text that became certain. May end the choice."""
        self._token_ids.append(output.token_id)
        if output.logprobs is not None:
            self._logprobs.append(output.logprobs)
        self.finish_reason = output.finish_reason
        piece = self._text_of(output) if self._incremental else ""
        if self._stops.found:
            self.finish_reason = "stop"
        self._pieces.append(piece)
        return piece

    def choice(self) -> Choice:
        """The finished choice."""
        if self.finish_reason is None:
            raise RuntimeError(f"choice {self._index} of {self._prepared.key!r} has not ended")
        return Choice(
            index=self._index,
            text="".join(self._pieces) if self._incremental else self._whole_text(),
            finish_reason=self.finish_reason,
            token_ids=tuple(self._token_ids) if self._prepared.params.return_token_ids else None,
            logprobs=self._token_logprobs() if self._prepared.params.logprobs else None,
        )

    def _text_of(self, output: SequenceOutput) -> str:
        """The token's text; a token that ends the choice has none, but frees what was held."""
        if self._detokenizer is None:
            raise RuntimeError("text is made at the end of this choice")
        armed = self.num_tokens > self._prepared.params.min_tokens
        piece = ""
        if output.finish_reason != "stop":
            piece = self._stops.push(self._detokenizer.push([output.token_id]), armed=armed)
        if output.finish_reason is not None:
            piece += self._stops.push(self._detokenizer.flush(), armed=armed)
            piece += self._stops.flush()
        return piece

    def _whole_text(self) -> str:
        ids = self._token_ids[:-1] if self.finish_reason == "stop" else self._token_ids
        return self._tokenizer.decode(ids)

    def _token_logprobs(self) -> tuple[TokenLogprob, ...]:
        return tuple(
            TokenLogprob(
                token=self._tokenizer.token_text(token),
                logprob=entry.logprob,
                bytes=self._bytes(token),
                top_logprobs=tuple(
                    TopLogprob(
                        token=self._tokenizer.token_text(other),
                        logprob=value,
                        bytes=self._bytes(other),
                    )
                    for other, value in entry.top
                ),
            )
            for token, entry in zip(self._token_ids, self._logprobs, strict=True)
        )

    def _bytes(self, token: int) -> tuple[int, ...]:
        return tuple(self._tokenizer.token_bytes(token))


class PendingAnswer:
    """All choices of one request, and the times that its timings are made of."""

    def __init__(self, prepared: Prepared, tokenizer: Tokenizer) -> None:
        self.prepared = prepared
        self._choices = [
            PendingChoice(prepared, index, tokenizer) for index in range(prepared.params.n)
        ]
        self._started_s = math.inf
        self._first_token_s = math.inf
        self._last_token_s = 0.0
        self._cached_prompt_tokens: int | None = None

    @property
    def finished(self) -> bool:
        """Whether all choices have ended."""
        return all(choice.finish_reason is not None for choice in self._choices)

    def has_ended(self, index: int) -> bool:
        """Whether a choice takes no more tokens."""
        return self._choices[index].finish_reason is not None

    def take(self, output: SequenceOutput, now_s: float) -> tuple[Delta | None, bool]:
        """Add one token; returns new text, if it is wanted, and whether its choice has ended."""
        self._started_s = min(self._started_s, output.started_s)
        self._first_token_s = min(self._first_token_s, now_s)
        self._last_token_s = now_s
        if self._cached_prompt_tokens is None:
            self._cached_prompt_tokens = output.cached_prompt_tokens  # of the choice that led
        choice = self._choices[output.index]
        text = choice.take(output)
        delta = None
        if text and self.prepared.command.stream:
            delta = Delta(key=self.prepared.key, index=output.index, text=text)
        return delta, choice.finish_reason is not None

    def generation(self) -> Generation:
        """The finished answer."""
        prepared = self.prepared
        return Generation(
            choices=tuple(choice.choice() for choice in self._choices),
            prompt_tokens=len(prepared.prompt_ids),
            cached_prompt_tokens=self._cached_prompt_tokens or 0,
            output_tokens=sum(choice.num_tokens for choice in self._choices),
            timings=self._timings(),
            prompt_token_ids=prepared.prompt_ids if prepared.params.return_token_ids else None,
        )

    def _timings(self) -> Timings:
        arrived_s = self.prepared.arrived_s
        tokenized_s = arrived_s + self.prepared.tokenize_s
        return Timings(
            tokenize_s=self.prepared.tokenize_s,
            queue_s=self._started_s - tokenized_s,
            prefill_s=self._first_token_s - self._started_s,
            time_to_first_token_s=self._first_token_s - arrived_s,
            decode_s=self._last_token_s - self._first_token_s,
            total_s=self._last_token_s - arrived_s,
        )
