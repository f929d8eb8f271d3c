"""Identical greedy requests are computed once: one sequence, followed by many choices.

Greedy choices are identical when prompt, parameters and stop rules are; stop strings do not count,
as they are the backend's. A choice that comes late hears all tokens so far at the next step, and
finished answers are remembered for choices that come later still. Every other sequence is followed
by the one choice that it is computed for.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace

from models.generation import FinishReason
from worker.engine.output import SequenceOutput
from worker.engine.request import EngineRequest
from worker.engine.sampling import Sampled
from worker.engine.sequence import Sequence

ANSWER_TOKENS = 16  # as many take the memory that every answer needs, however short


@dataclass(slots=True)
class Follower:
    """One choice of one request, and how much of the output it has heard."""

    joined_s: float  # monotonic clock
    cached_prompt_tokens: int  # all of the prompt, but for the one that it is computed for
    num_heard: int = 0


@dataclass(slots=True, eq=False)
class FollowedSequence:
    """A sequence, what was sampled for it, and the choices that have not heard its end."""

    sequence: Sequence
    identity: Hashable | None  # None: no other choice may follow
    followers: dict[tuple[str, int], Follower] = field(default_factory=dict)  # by key and index
    sampled: list[Sampled] = field(default_factory=list)  # the output, or what failed at its end
    finish_reason: FinishReason | None = None

    @property
    def failed(self) -> bool:
        """Whether the model computed no numbers."""
        return bool(self.sampled) and self.sampled[-1].failed

    @property
    def finished(self) -> bool:
        """Whether nothing more will be sampled."""
        return self.failed or self.finish_reason is not None

    @property
    def has_news(self) -> bool:
        """Whether a follower has not heard everything."""
        return any(f.num_heard < len(self.sampled) for f in self.followers.values())

    @property
    def weight_tokens(self) -> int:
        """What is kept of it: its tokens; a log probability, bias or stop token is one more."""
        request = self.sequence.request
        alternatives = request.sampling.top_logprobs
        logprobs = 0 if alternatives is None else 1 + alternatives
        rules = len(request.sampling.logit_bias) + len(request.stop.suppressed_ids)
        return ANSWER_TOKENS + self.sequence.num_tokens + len(self.sampled) * logprobs + rules

    def news(self) -> Iterator[SequenceOutput]:
        """What each follower has not heard yet."""
        for (key, index), follower in self.followers.items():
            for place in range(follower.num_heard, len(self.sampled)):
                sampled = self.sampled[place]
                yield SequenceOutput(
                    key=key,
                    index=index,
                    token_id=sampled.token_id,
                    finish_reason=self.finish_reason if place == len(self.sampled) - 1 else None,
                    logprobs=sampled.logprobs,
                    started_s=max(follower.joined_s, self.sequence.started_s or 0.0),
                    cached_prompt_tokens=follower.cached_prompt_tokens,
                    failed=sampled.failed,
                )
            follower.num_heard = len(self.sampled)


class Duplicates:
    """Who follows which sequence; finished ones are remembered up to a number of tokens."""

    def __init__(self, remembered_tokens: int) -> None:
        self._most_tokens = remembered_tokens
        self._choices: dict[str, dict[int, FollowedSequence]] = {}  # by key and index
        self._unfinished: dict[Sequence, FollowedSequence] = {}
        self._by_identity: dict[Hashable, FollowedSequence] = {}  # unfinished and remembered
        self._remembered: deque[FollowedSequence] = deque()  # the oldest first
        self._kept_tokens = 0
        self._with_news: dict[FollowedSequence, None] = {}  # for at least one follower

    def __contains__(self, key: str) -> bool:
        return key in self._choices

    @property
    def has_followers(self) -> bool:
        """Whether any choice has not heard its end."""
        return bool(self._choices)

    @property
    def has_news(self) -> bool:
        """Whether `take_news` has something to tell."""
        return bool(self._with_news)

    def join(self, request: EngineRequest, index: int, arrival: int) -> Sequence | None:
        """Let a choice follow its sequence; returns the sequence when it is new and has to run."""
        identity = _identity(request)
        followed = self._by_identity.get(identity)
        new = followed is None
        if followed is None:
            followed = FollowedSequence(Sequence(request, index, arrival), identity)
            self._unfinished[followed.sequence] = followed
            if identity is not None:
                self._by_identity[identity] = followed
        follower = Follower(time.monotonic(), len(request.prompt_ids))
        followed.followers[request.key, index] = follower
        self._choices.setdefault(request.key, {})[index] = followed
        if followed.sampled:
            self._with_news[followed] = None
        return followed.sequence if new else None

    def admit(self, request: EngineRequest, arrival: int, sequence_tokens: int) -> list[Sequence]:
        """Let all choices of a request join; returns the sequences that are new and have to run.

        Raises ValueError for one that is in flight, or that could never run to its end.
        """
        if request.key in self:
            raise ValueError(f"request {request.key!r} is in flight already: use another key")
        if not 0 < len(request.prompt_ids) < sequence_tokens or request.n < 1:
            raise ValueError(
                f"{len(request.prompt_ids)} prompt tokens and {request.n} choices cannot run: "
                f"a sequence holds 1 to {sequence_tokens - 1} prompt tokens"
            )
        joined = [self.join(request, index, arrival) for index in range(request.n)]
        return [sequence for sequence in joined if sequence is not None]

    def leave(self, key: str, index: int | None = None) -> list[Sequence]:
        """Let one choice hear no more, or (None) all of a request; unknown ones are no error.

        Returns the unfinished sequences that nobody follows now: they are forgotten.
        """
        abandoned = []
        for left in list(self._choices.get(key, ())) if index is None else [index]:
            followed = self._choices.get(key, {}).get(left)
            if followed is None:
                continue
            self._remove(followed, key, left)
            if not followed.has_news:
                self._with_news.pop(followed, None)
            if not followed.followers and not followed.finished:
                self._forget(followed)
                abandoned.append(followed.sequence)
        return abandoned

    def append(self, sequence: Sequence, sampled: Sampled, reason: FinishReason | None) -> None:
        """Add what was sampled, or that it failed; a reason or a failure finishes the sequence."""
        followed = self._unfinished[sequence]
        if not followed.sampled:
            first = next(iter(followed.followers.values()))
            first.cached_prompt_tokens = sequence.cached_prompt_tokens or 0
        followed.sampled.append(sampled)
        followed.finish_reason = reason
        self._with_news[followed] = None
        if followed.failed:
            self._forget(followed)
        elif followed.finished:
            self._remember(followed)

    def take_news(self) -> list[SequenceOutput]:
        """All that followers have not heard yet; those that hear the end are forgotten."""
        news = [output for followed in self._with_news for output in followed.news()]
        for followed in self._with_news:
            if followed.finished:
                for key, index in list(followed.followers):
                    self._remove(followed, key, index)
        self._with_news.clear()
        return news

    def check_integrity(self) -> None:
        """Raise RuntimeError unless the tables agree; call between steps."""
        unfinished, remembered = set(self._unfinished.values()), set(self._remembered)
        followed = [one for choices in self._choices.values() for one in choices.values()]
        with_news = {one for one in followed if one.has_news}
        _require(with_news == set(self._with_news), "news are told to nobody, or to few")
        _require(
            unfinished | with_news == set(followed),
            "a sequence runs for nobody, or somebody follows one that has ended",
        )
        _require(
            len(followed) == sum(len(f.followers) for f in unfinished | remembered | with_news),
            "a sequence is followed by a choice that is gone",
        )
        _require(
            set(self._by_identity.values()) == {f for f in unfinished if f.identity} | remembered,
            "sequences can be joined that are gone, or the reverse",
        )
        kept_tokens = sum(one.weight_tokens for one in remembered)
        _require(kept_tokens == self._kept_tokens <= self._most_tokens, "too much is remembered")

    def _remove(self, followed: FollowedSequence, key: str, index: int) -> None:
        """Take one choice out of the tables."""
        del followed.followers[key, index]
        del self._choices[key][index]
        if not self._choices[key]:
            del self._choices[key]

    def _forget(self, followed: FollowedSequence) -> None:
        """Take an unfinished or failed sequence out of the tables: nobody can join it any more."""
        del self._unfinished[followed.sequence]
        if followed.identity is not None:
            del self._by_identity[followed.identity]

    def _remember(self, followed: FollowedSequence) -> None:
        """Keep a finished sequence for choices to come, and the oldest ones no longer."""
        del self._unfinished[followed.sequence]
        if followed.identity is None:
            return
        self._remembered.append(followed)
        self._kept_tokens += followed.weight_tokens
        while self._kept_tokens > self._most_tokens:
            oldest = self._remembered.popleft()
            self._kept_tokens -= oldest.weight_tokens
            del self._by_identity[oldest.identity]


def _identity(request: EngineRequest) -> Hashable | None:
    """Equal for requests with the same answer; None where chance decides."""
    if not request.sampling.greedy:
        return None
    sampling = replace(request.sampling, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, seed=0)
    return request.prompt_ids, request.stop, sampling


def _require(condition: bool, violation: str) -> None:
    if not condition:
        raise RuntimeError(f"the bookkeeping of duplicates is broken: {violation}")
