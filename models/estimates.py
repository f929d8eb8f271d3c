"""What a batch would cost, counted line by line with the model's own tokenizer; nothing is stored.

Memory is bounded by the number of lines alone: of each a hash is kept. Must not know the database.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from models.errors import RequestRefused
from models.params import DecodingParams
from models.text.prompt_encoder import Encoded, PromptEncoder, check_length, prompt_param
from models.wire import refusals
from models.wire.lines import AcceptedLine, Line, RefusedLine

MAX_SHOWN: Final = 100  # refused lines


@dataclass(slots=True)
class Estimate:
    """What was counted so far. `output_tokens` holds the most that each request may have."""

    context_tokens: int
    max_new_tokens: int | None  # of an answer whose request does not say
    total: int = 0
    duplicates: int = 0  # accepted requests that an earlier one is equal to
    prompt_tokens: int = 0
    longest_prompt_tokens: int = 0
    output_tokens: Counter[int] = field(default_factory=Counter)  # requests by that most
    refused: Counter[str] = field(default_factory=Counter)  # lines by code
    shown: list[RefusedLine] = field(default_factory=list)
    _seen: set[bytes] = field(default_factory=set)

    @property
    def accepted(self) -> int:
        """Requests that would run."""
        return self.total - self.refused.total()

    @property
    def output_tokens_at_most(self) -> int:
        """If every answer took all that it may."""
        return sum(most * count for most, count in self.output_tokens.items())

    def output_tokens_at(self, mean: float) -> float:
        """If answers wanted so many tokens each and took what they may."""
        return sum(min(most, mean) * count for most, count in self.output_tokens.items())

    def count(self, lines: Sequence[Line], encoder: PromptEncoder) -> None:
        """Add some lines; their prompts are encoded together."""
        usable = [line for line in lines if isinstance(line, AcceptedLine)]
        encoded = iter(encoder.encode_all([line.prompt for line in usable]))
        for line in lines:
            self.total += 1
            if isinstance(line, RefusedLine):
                self._refuse(line)
            else:
                self._accept(line, next(encoded))

    def _accept(self, line: AcceptedLine, encoded: Encoded) -> None:
        try:
            if isinstance(encoded, RequestRefused):
                raise encoded
            check_length(len(encoded), self.context_tokens, prompt_param(line.prompt))
        except RequestRefused as exc:
            refusal = refusals.at_line(exc, line.line_number)
            self._refuse(RefusedLine(line.line_number, line.custom_id, refusal))
            return
        self.prompt_tokens += len(encoded)
        self.longest_prompt_tokens = max(self.longest_prompt_tokens, len(encoded))
        self.output_tokens[self._most(line.params, len(encoded))] += 1
        digest = _digest(encoded, line.params)
        self.duplicates += digest in self._seen
        self._seen.add(digest)

    def _refuse(self, line: RefusedLine) -> None:
        self.refused[line.refusal.code] += 1
        if len(self.shown) < MAX_SHOWN:
            self.shown.append(line)

    def _most(self, params: DecodingParams, n_prompt_tokens: int) -> int:
        room = self.context_tokens - n_prompt_tokens
        wanted = params.max_tokens or self.max_new_tokens or room
        return params.n * min(wanted, room)


def _digest(ids: Iterable[int], params: DecodingParams) -> bytes:
    hashed = blake2b(params.model_dump_json(exclude_defaults=True).encode(), digest_size=16)
    hashed.update(array("q", ids).tobytes())
    return hashed.digest()
