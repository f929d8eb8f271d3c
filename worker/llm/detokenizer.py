"""Text from tokens as they come, never half a character.

Knows a function from token ids to text and nothing of models or tokenizers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
MAX_PENDING_TOKENS = 8  # a character is at most four bytes, and a token at least one
MAX_TAIL_TOKENS = 3  # of which the last completes it

Decode = Callable[[Sequence[int]], str]


class Detokenizer:
    """The text of one answer, piece by piece; the pieces together are the text of all its tokens.

    Decodes a window of the last few tokens at every step, because what a token reads like depends
    on the one before it; so the whole takes time linear in the number of tokens.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._window: list[int] = []  # tokens already given out, then those that are pending
        self._given = 0  # how many of the window's tokens were given out
        self._prefix = ""  # text of those

    def push(self, token_ids: Sequence[int]) -> str:
        """Take further tokens; returns the text that is now certain, which may be empty."""
        return "".join(self._push_one(token_id) for token_id in token_ids)

    def flush(self) -> str:
        """The rest at the end of the answer; half a character reads as U+FFFD."""
        return self._give(len(self._window))

    def _push_one(self, token_id: int) -> str:
        self._window.append(token_id)
        if not self._decode(self._window).endswith(REPLACEMENT):
            return self._give(len(self._window))
        if len(self._window) - self._given > MAX_PENDING_TOKENS:
            return self._give(self._whole_characters())
        return ""

    def _whole_characters(self) -> int:
        """How many tokens to give out of a window of broken UTF-8 that ends in half a character.

        The tail that may still become a character reads as U+FFFD and changes nothing before it.
        """
        text = self._decode(self._window)
        for tail in range(1, MAX_TAIL_TOKENS + 1):
            rest = self._decode(self._window[-tail:])
            broken = rest == REPLACEMENT * len(rest)
            if broken and self._decode(self._window[:-tail]) + rest == text:
                return len(self._window) - tail
        return len(self._window)

    def _give(self, count: int) -> str:
        """Give out the window's first `count` tokens; the newest of them stay, as context."""
        whole = self._decode(self._window[:count])
        if whole.startswith(self._prefix):
            text = whole[len(self._prefix) :]
        else:  # what was given out reads differently now; it cannot be taken back
            text = self._decode(self._window[self._given : count])
        if text:
            self._window = self._window[self._given :]
            self._given = count - self._given
            self._prefix = self._decode(self._window[: self._given])
        else:  # special tokens read as nothing and would be no context
            del self._window[self._given : count]
        return text
