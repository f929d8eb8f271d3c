"""A model whose next token is a hash of all tokens before it, read back from the paged cache.

Any wrong slot, block or position changes the hash, so equal outputs mean equal cache contents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence as Ids

import torch
from torch import Tensor

from worker.engine.config import EngineConfig
from worker.engine.engine import Engine
from worker.engine.output import SequenceOutput
from worker.engine.request import EngineRequest, SamplingParams, StopRules
from worker.llm.config import ModelConfig
from worker.llm.kv_cache import KVCache
from worker.llm.packed import PackedInput

VOCABULARY = 48
SHAPE = ModelConfig(
    model_type="llama",
    hidden_size=2,
    intermediate_size=2,
    num_layers=1,
    num_heads=1,
    num_kv_heads=1,
    head_dim=2,
    vocab_size=VOCABULARY,
    max_position_embeddings=4096,
)


def logits_after(token_ids: Ids[int]) -> Tensor:
    """The stand-in's logits (V,) after these tokens."""
    digest = hashlib.blake2b(repr(list(token_ids)).encode(), digest_size=7).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
    return torch.randn(VOCABULARY, generator=generator) * 3


class HashModel:
    """Writes token and position of every row to the cache, then reads them back."""

    def __init__(self) -> None:
        self.rows_per_step: list[int] = []
        self.broken_after: tuple[int, ...] | None = None  # these tokens give NaN

    def forward(self, packed: PackedInput, cache: KVCache) -> Tensor:
        pairs = torch.stack([packed.token_ids, packed.positions], dim=-1).float()
        cache.write(0, packed.slots, pairs.unsqueeze(1), pairs.unsqueeze(1))
        self.rows_per_step.append(len(packed.token_ids))
        wanted = set(packed.sample_rows.tolist())
        rows = [
            self._logits(self._read(span.blocks, span.context, cache))
            for span in packed.spans
            if span.start + span.length - 1 in wanted
        ]
        return torch.stack(rows) if rows else torch.empty(0, VOCABULARY)

    def _logits(self, token_ids: list[int]) -> Tensor:
        logits = logits_after(token_ids)
        if tuple(token_ids) == self.broken_after:
            logits[7] = torch.nan
        return logits

    def _read(self, blocks: Ids[int], context: int, cache: KVCache) -> list[int]:
        positions = torch.arange(context)
        table = torch.tensor(list(blocks))
        slots = table[positions // cache.block_tokens] * cache.block_tokens
        stored = cache.keys[0][slots + positions % cache.block_tokens, 0]  # (context, 2)
        assert torch.equal(stored[:, 1].long(), positions)
        ids: list[int] = stored[:, 0].long().tolist()
        return ids


def small_engine(**limits: int | bool) -> tuple[Engine, HashModel]:
    """An engine over the stand-in with blocks of 4 tokens."""
    values: dict[str, int | bool] = {
        "max_sequences": 8,
        "step_tokens": 16,
        "num_blocks": 64,
        "context_tokens": 200,
        "block_tokens": 4,
        "remembered_tokens": 0,  # what is asked again is computed again
    }
    config = EngineConfig(**{**values, **limits})  # type: ignore[arg-type]
    model = HashModel()
    cache = KVCache(SHAPE, config.num_blocks, config.block_tokens, torch.float32)
    return Engine(model, cache, config), model


def request(
    key: str,
    prompt_ids: Ids[int],
    max_tokens: int,
    *,
    n: int = 1,
    stop_ids: Ids[int] = (),
    min_tokens: int = 0,
    sampling: SamplingParams | None = None,
) -> EngineRequest:
    """A request with the usual rules."""
    rules = StopRules(max_tokens, min_tokens, frozenset(stop_ids), tuple(stop_ids))
    return EngineRequest(key, tuple(prompt_ids), rules, sampling or SamplingParams(), n)


def run(engine: Engine) -> list[SequenceOutput]:
    """Step to the end, checking the bookkeeping after every step."""
    outputs: list[SequenceOutput] = []
    for _ in range(100_000):
        if not engine.has_work:
            return outputs
        outputs += engine.step()
        engine.check_integrity()
    raise AssertionError("the engine does not come to an end")


def tokens_of(outputs: Ids[SequenceOutput]) -> dict[tuple[str, int], list[int]]:
    """Sampled tokens by request and choice."""
    tokens: dict[tuple[str, int], list[int]] = {}
    for output in outputs:
        tokens.setdefault((output.key, output.index), []).append(output.token_id)
    return tokens


def greedy_reference(prompt_ids: Ids[int], max_tokens: int) -> list[int]:
    """What the stand-in says without any engine."""
    ids = list(prompt_ids)
    for _ in range(max_tokens):
        ids.append(int(logits_after(ids).argmax()))
    return ids[len(prompt_ids) :]
