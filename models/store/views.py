"""What the store hands out and takes in: frozen values, no rows and no connections.

All times are float Unix seconds of the database's clock. Must not know SQL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from models.errors import StateError
from models.generation import Generation, Prompt, Refusal
from models.model_key import ModelKey
from models.params import DecodingParams
from models.states import BatchState, ChunkState, ResultStatus, is_terminal

DEFAULT_TENANT = "default"
PAUSABLE = (BatchState.VALIDATING, BatchState.IN_PROGRESS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What is submitted, besides the lines themselves.

    `body_sha256` is of everything that makes two submissions the same: the file and its options.
    """

    model: ModelKey
    endpoint: str
    file_name: str
    file_bytes: int
    body_sha256: str
    file_sha256: str = ""  # empty: unknown
    chunk_requests: int = 128
    tenant_id: str = DEFAULT_TENANT
    idempotency_key: str | None = None
    priority: int = 0  # higher runs first
    seed: int | None = None  # 0 ≤ seed < 2**63; None: drawn once and stored
    completion_window_s: float | None = None  # None: the batch never expires
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchError:
    """One line's reason in a batch that failed validation; `line` from 1."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A submitted file. `failed` counts error results; the rest is not final yet."""

    id: str
    tenant_id: str
    file_id: str
    idempotency_key: str | None
    body_sha256: str
    endpoint: str
    model: ModelKey | None  # None until a line has named one
    state: BatchState
    priority: int
    seed: int
    completion_window_s: float | None
    metadata: Mapping[str, str]
    errors: tuple[BatchError, ...]
    total: int
    completed: int
    failed: int
    prompt_tokens: int
    cached_prompt_tokens: int
    output_tokens: int
    created_at: float
    in_progress_at: float | None
    finalizing_at: float | None
    completed_at: float | None
    failed_at: float | None
    cancelling_at: float | None
    cancelled_at: float | None
    expired_at: float | None
    expires_at: float | None
    paused_at: float | None

    @property
    def remaining(self) -> int:
        """Requests without a result."""
        return self.total - self.completed - self.failed

    @property
    def is_terminal(self) -> bool:
        """Whether nothing about the batch will change any more."""
        return is_terminal(self.state)

    @property
    def is_paused(self) -> bool:
        """Whether nothing more of it is claimed until it is resumed."""
        return self.paused_at is not None and self.state in PAUSABLE

    @property
    def known_model(self) -> ModelKey:
        """The model of a batch that has chunks or answers; raises StateError before."""
        if self.model is None:
            raise StateError(f"batch {self.id} is {self.state} and has no model yet")
        return self.model


@dataclass(frozen=True, slots=True)
class Submitted:
    """The batch, and whether this call created it (False: the same submission was known)."""

    batch: Batch
    created: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A run of requests that are leased together."""

    id: int
    batch_id: str
    number: int
    n_requests: int
    state: ChunkState
    epoch: int
    worker_id: str | None
    lease_until: float | None
    attempts: int
    crashes: int
    running_idx: int | None
    not_before: float
    dispatched_at: float | None
    n_dispatches: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to work on a chunk; `epoch` is the fencing token checked at every write."""

    chunk_id: int
    batch_id: str
    epoch: int
    worker_id: str
    model: ModelKey
    attempt: int
    n_requests: int
    lease_until: float
    artifact: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedRequest:
    """One request to generate; `seed` is set always, from the request or from its batch."""

    batch_id: str
    idx: int
    custom_id: str
    prompt: Prompt
    params: DecodingParams
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one request ended: exactly one of the two is given."""

    idx: int
    generation: Generation | None = None
    refusal: Refusal | None = None

    def __post_init__(self) -> None:
        if (self.generation is None) == (self.refusal is None):
            raise ValueError("an outcome is either a generation or a refusal")


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitReceipt:
    """What a commit did; `inserted` counts rows that were not there before."""

    chunk_done: bool
    cancelled: bool  # the batch no longer wants results: release the lease
    inserted: int


@dataclass(frozen=True, slots=True)
class RenewReceipt:
    """The lease holds on; `cancelled`: the batch no longer wants results."""

    cancelled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """One doorbell message: a chunk that is ready, for workers of `model`; `n` counts rings."""

    chunk_id: int
    batch_id: str
    model: ModelKey
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepReport:
    """What one sweep repaired."""

    expired_leases: int
    quarantined_chunks: int
    lost_dispatches: int
    closed_batches: tuple[str, ...]  # completed, cancelled, expired or failed by this sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One request with its final result. `generation` or `refusal`, as `status` says."""

    batch_id: str
    idx: int
    line_number: int
    custom_id: str | None
    prompt: Prompt | None  # None: the line was refused before it had one
    params: DecodingParams | None
    status: ResultStatus
    generation: Generation | None
    refusal: Refusal | None
    epoch: int
    attempt: int
    worker_id: str | None
    artifact: str | None
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFigures:
    """Sums over a batch's results; with `since`, tokens and seconds are of later results only."""

    total: int
    completed: int
    failed: int
    kept: int  # results older than `since`: not made again
    generated: int  # results that a worker wrote since then
    prompt_tokens: int
    cached_prompt_tokens: int
    output_tokens: int
    seconds_generate: float  # first claim to last commit, loading a model not included
    tokenize_s: float  # this and the next: sums over requests, which overlap in time
    queue_s: float
    prefill_s: float
    time_to_first_token_s: float
    decode_s: float
    total_s: float
    attempts: int
    workers: int
    peak_rss_bytes: int | None  # of the largest worker that took part

    @property
    def tokens_per_second(self) -> float:
        """Output tokens per second of `seconds_generate`."""
        return self.output_tokens / self.seconds_generate if self.seconds_generate > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A worker as it registers itself; the database adds its times."""

    id: str
    model: ModelKey
    host: str
    pid: int
    backend: str = "native"
    artifact: str | None = None
    threads: int | None = None
    load_s: float | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    rss_bytes: int | None = None
    peak_rss_bytes: int | None = None
    draining: bool = False
    started_at: float = 0.0
    beat_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model that batches may name; `artifact` is the digest of its manifest."""

    key: ModelKey
    artifact: str
    architecture: str
    context_tokens: int
    source: str = ""
    max_new_tokens: int | None = None  # of an answer whose request does not say
    registered_at: float = 0.0
