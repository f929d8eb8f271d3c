"""The order in which waiting sequences start. Torch-free.

Sequences with a long prefix in common start together, so that it is found in the cache; otherwise
the longest expected output starts first, so that no long answer is left alone at the end.
"""

from __future__ import annotations

from collections.abc import Iterable

from worker.engine.sequence import Sequence

PREFIX_TOKENS = 64  # prompts that agree in so many tokens count as sharing a prefix
WINDOW_REQUESTS = 512  # nobody waits for requests that came so much later


def in_starting_order(waiting: Iterable[Sequence]) -> list[Sequence]:
    """The sequences, the next one to start first."""
    groups: dict[tuple[int, tuple[int, ...]], list[Sequence]] = {}
    for sequence in waiting:
        window = sequence.arrival // WINDOW_REQUESTS
        prefix = sequence.request.prompt_ids[:PREFIX_TOKENS]
        groups.setdefault((window, prefix), []).append(sequence)
    for group in groups.values():
        group.sort(key=_longest_first)
    first = [(window, _longest_first(group[0]), group) for (window, _), group in groups.items()]
    first.sort(key=lambda entry: entry[:2])
    return [sequence for _, _, group in first for sequence in group]


def _longest_first(sequence: Sequence) -> tuple[int, int, int]:
    return -sequence.request.stop.max_tokens, sequence.arrival, sequence.index
