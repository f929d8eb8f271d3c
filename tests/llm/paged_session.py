"""Runs sequences through a model over a paged cache in scattered blocks, as an engine would."""

from __future__ import annotations

import random

import torch
from transformers import PreTrainedModel

from worker.llm.kv_cache import KVCache
from worker.llm.packed import Segment, pack_step
from worker.llm.paged_model import PagedModel

BLOCK_TOKENS = 4


class Session:
    """Sequences that run through one model in steps of mixed chunks, as an engine would do it."""

    def __init__(
        self, model: PagedModel, sequences: list[list[int]], num_blocks: int = 256
    ) -> None:
        self.model = model
        self.sequences = sequences
        self.cached = [0] * len(sequences)
        self.tables: list[list[int]] = [[] for _ in sequences]
        self.cache = KVCache(model.config, num_blocks, BLOCK_TOKENS, model.compute_dtype)
        self.free = list(range(num_blocks))
        random.Random(5).shuffle(self.free)  # blocks of a sequence are never neighbours

    def step(self, lengths: dict[int, int]) -> torch.Tensor:
        """Run `lengths[i]` more tokens of each sequence i; the logits of each one's last."""
        segments = []
        for index, length in lengths.items():
            start = self.cached[index]
            while len(self.tables[index]) * BLOCK_TOKENS < start + length:
                self.tables[index].append(self.free.pop())
            tokens = self.sequences[index][start : start + length]
            segments.append(Segment(tokens, start, tuple(self.tables[index]), sample=True))
            self.cached[index] = start + length
        return self.model.forward(pack_step(segments, BLOCK_TOKENS), self.cache)


def random_sequences(lengths: list[int]) -> list[list[int]]:
    source = random.Random(11)
    return [[source.randrange(3, 97) for _ in range(length)] for length in lengths]


def assert_logits_of(reference: PreTrainedModel, model: PagedModel, tolerance: float) -> None:
    """Mixed chunks and decodes of several sequences give the logits of transformers."""
    sequences = random_sequences([1, 9, 40, 75, 23])
    with torch.no_grad():
        expected = [
            reference(torch.tensor([tokens]), use_cache=False).logits[0] for tokens in sequences
        ]
    session = Session(model, sequences)
    source = random.Random(3)
    while unfinished := [i for i, s in enumerate(sequences) if session.cached[i] < len(s)]:
        lengths = {
            i: min(source.choice([1, 1, 2, 7, 13]), len(sequences[i]) - session.cached[i])
            for i in unfinished
        }
        logits = session.step(lengths)
        wanted = torch.stack([expected[i][session.cached[i] - 1] for i in lengths])
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, wanted, atol=tolerance, rtol=tolerance)
