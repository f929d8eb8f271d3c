"""A backend over the engine: text on both sides, continuous batching between.

Which model computes is the business of `paged_models.py`. Imported in the engine process alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from secrets import randbelow

import torch

from models.errors import RequestRefused
from models.generation import Refusal
from models.params import DecodingParams
from models.text.prompt_encoder import prompt_param
from worker.backends.answers import PendingAnswer
from worker.backends.base import Description, Prepared
from worker.backends.kv_memory import CacheDemand, blocks_in, blocks_in_free_memory
from worker.backends.machine import free_memory_bytes, total_memory_bytes
from worker.backends.messages import Add, Delta, Finished
from worker.backends.paged_models import LoadedModel
from worker.backends.process_config import EngineProcessConfig
from worker.backends.resolution import Limits, check_prompt, resolve
from worker.engine.config import EngineConfig
from worker.engine.counters import EngineCounters
from worker.engine.engine import Engine
from worker.engine.output import SequenceOutput
from worker.engine.request import EngineRequest, SamplingParams, StopRules
from worker.engine.static_engine import StaticEngine
from worker.llm.artifact import Artifact
from worker.llm.config import ModelConfig
from worker.llm.generation_defaults import GenerationDefaults, read_generation_defaults
from worker.llm.kv_cache import KVCache, block_bytes
from worker.llm.native.kernels import BLOCK_TOKENS
from worker.llm.tokenizer import Tokenizer

_NO_NUMBERS = Refusal(
    code="server_error",
    message="the model computed no valid numbers for this prompt: "
    "try weights of higher precision (bf16, fp32)",
    http_status=500,
)


class EngineBackend:
    """See worker.backends.base.Backend for who may call what."""

    def __init__(
        self,
        engine: Engine | StaticEngine,
        tokenizer: Tokenizer,
        defaults: GenerationDefaults,
        facts: Description,
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._defaults = defaults
        self._facts = facts
        self._limits = Limits(facts.vocab_size, facts.context_tokens, engine.config.sequence_tokens)
        # A model may name ends that it has no logit for.
        self._eos_ids = frozenset(i for i in tokenizer.eos_ids if i < facts.vocab_size)
        self._answers: dict[str, PendingAnswer] = {}

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished."""
        return self._engine.has_work

    @property
    def counters(self) -> EngineCounters:
        """The engine's figures."""
        return self._engine.counters

    def describe(self) -> Description:
        """What was loaded."""
        return self._facts

    def prepare(self, command: Add, arrived_s: float) -> Prepared:
        """Tokenize, check and resolve; raises RequestRefused."""
        prompt_ids = tuple(self._tokenizer.encode(command.prompt))
        check_prompt(prompt_ids, prompt_param(command.prompt), self._limits)
        params = resolve(command.params, self._defaults, self._limits, len(prompt_ids))
        seed = next(
            (seed for seed in (params.seed, command.seed) if seed is not None), randbelow(2**63)
        )
        tokenize_s = time.monotonic() - arrived_s
        return Prepared(command, prompt_ids, params, seed, arrived_s, tokenize_s)

    def add(self, prepared: Prepared) -> None:
        """Queue a prepared request."""
        if prepared.key in self._answers:
            raise RequestRefused(
                f"a request with the key {prepared.key!r} is in flight: use another key",
                code="duplicate_key",
            )
        self._answers[prepared.key] = PendingAnswer(prepared, self._tokenizer)
        self._engine.add(engine_request(prepared, self._eos_ids))

    def cancel(self, keys: Iterable[str]) -> None:
        """Forget requests at once."""
        for key in keys:
            self._engine.cancel(key)
            self._answers.pop(key, None)

    def step(self) -> list[Finished | Delta]:
        """Run one engine step and turn its tokens into events."""
        outputs = self._engine.step()
        now_s = time.monotonic()
        return [event for output in outputs for event in self._take(output, now_s)]

    def _take(self, output: SequenceOutput, now_s: float) -> Iterator[Finished | Delta]:
        """Add one token to its answer; what the sender hears of it."""
        answer = self._answers.get(output.key)
        if answer is None or answer.has_ended(output.index):
            return  # another choice failed in this step, or a token before held a stop string
        if output.failed:
            self.cancel([output.key])
            yield Finished(key=output.key, refusal=_NO_NUMBERS)
            return
        delta, ended = answer.take(output, now_s)
        if delta is not None:
            yield delta
        if ended and output.finish_reason is None:
            self._engine.end(output.key, output.index)
        if answer.finished:
            del self._answers[output.key]
            yield Finished(key=output.key, generation=answer.generation())


def engine_request(prepared: Prepared, eos_ids: Iterable[int]) -> EngineRequest:
    """The engine's form of resolved parameters."""
    params = prepared.params
    ends = frozenset(eos_ids)
    stop_ids = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else ends)
    return EngineRequest(
        key=prepared.key,
        prompt_ids=prepared.prompt_ids,
        stop=StopRules(
            max_tokens=params.max_tokens or 1,
            min_tokens=params.min_tokens,
            stop_ids=stop_ids,
            suppressed_ids=tuple(sorted(stop_ids | ends)),
        ),
        sampling=_sampling(params, prepared.seed),
        n=params.n,
    )


def _sampling(params: DecodingParams, seed: int) -> SamplingParams:
    return SamplingParams(
        temperature=params.temperature or 0.0,
        top_k=params.top_k or 0,
        top_p=1.0 if params.top_p is None else params.top_p,
        min_p=params.min_p or 0.0,
        repetition_penalty=params.repetition_penalty or 1.0,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        logit_bias=tuple((params.logit_bias or {}).items()),
        seed=seed,
        top_logprobs=params.top_logprobs if params.logprobs else None,
    )


def build_backend(
    config: EngineProcessConfig, artifact: Artifact, loaded: LoadedModel
) -> EngineBackend:
    """An engine for a loaded model, its KV cache sized for it; raises SettingsError, ModelError."""
    model = loaded.model
    limits, demand = plan_engine(config, model.config, model.compute_dtype)
    facts = describe(artifact, model.config, limits, demand, kernels=loaded.kernels)
    cache = KVCache(model.config, limits.num_blocks, limits.block_tokens, model.compute_dtype)
    engine = Engine(model, cache, limits)
    return with_text(engine, artifact, facts)


def with_text(
    engine: Engine | StaticEngine, artifact: Artifact, facts: Description
) -> EngineBackend:
    """The engine behind the artifact's tokenizer and defaults; raises ModelError."""
    defaults = read_generation_defaults(artifact.folder)
    return EngineBackend(engine, Tokenizer.load(artifact.folder), defaults, facts)


def describe(
    artifact: Artifact,
    shape: ModelConfig,
    limits: EngineConfig,
    demand: CacheDemand,
    *,
    kernels: str,
) -> Description:
    """What was loaded; `kernels` says what of it is compiled."""
    return Description(
        architecture=shape.architecture,
        weights=artifact.weights,
        artifact_digest=artifact.digest,
        vocab_size=shape.vocab_size,
        context_tokens=limits.context_tokens,
        kv_cache_tokens=limits.cache_tokens,
        kv_cache_bytes=limits.num_blocks * demand.block_bytes,
        max_sequences=limits.max_sequences,
        kernels=kernels,
    )


def plan_engine(
    config: EngineProcessConfig, shape: ModelConfig, dtype: torch.dtype
) -> tuple[EngineConfig, CacheDemand]:
    """What an engine runs at once, by the settings or by the memory that is free."""
    own_limit = shape.max_position_embeddings
    context_tokens = min(own_limit, config.context_tokens or own_limit)
    max_sequences = min(config.max_sequences, config.step_tokens)
    demand = CacheDemand(
        block_bytes(shape, BLOCK_TOKENS, dtype),
        BLOCK_TOKENS,
        max_sequences,
        context_tokens,
    )
    if config.kv_cache_bytes is not None:
        num_blocks = blocks_in(demand, config.kv_cache_bytes)
    else:
        num_blocks = blocks_in_free_memory(
            demand, free_bytes=free_memory_bytes(), total_bytes=total_memory_bytes()
        )
    limits = EngineConfig(
        max_sequences=max_sequences,
        step_tokens=config.step_tokens,
        num_blocks=num_blocks,
        context_tokens=context_tokens,
        block_tokens=BLOCK_TOKENS,
        prefix_cache=config.prefix_cache,
    )
    return limits, demand
