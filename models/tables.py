"""The tables. Times are float Unix seconds of the database's clock, durations float seconds.

Migrations in `models/migrations` lead to exactly this schema. Must not know any query.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# A query uses the index of open chunks when it says exactly this.
OPEN_CHUNK: Final = "state IN ('pending', 'dispatched', 'leased')"

# SQLite numbers rows by itself only in a column declared INTEGER.
_ROW_ID: Final = BigInteger().with_variant(Integer(), "sqlite")

files: Final = Table(
    "files",
    metadata,
    Column("id", Text, primary_key=True),  # file-<32 hex>
    Column("tenant_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("n_bytes", BigInteger, nullable=False),
    Column("n_lines", Integer, nullable=False, server_default="0"),  # of an upload, blank ones too
    Column("sha256", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("status", Text, nullable=False, server_default="processed"),  # or `uploading`
    Column("deleted_at", Double),
    Index(None, "tenant_id", "created_at"),
    Index(  # these two: what is dropped some day, looked for every second
        "ix_files_expiring",
        "expires_at",
        sqlite_where=text("deleted_at IS NULL"),
        postgresql_where=text("deleted_at IS NULL"),
    ),
    Index(
        "ix_files_uploading",
        "created_at",
        sqlite_where=text("status = 'uploading'"),
        postgresql_where=text("status = 'uploading'"),
    ),
)

file_parts: Final = Table(
    "file_parts",  # an uploaded file's bytes; all parts but the last are of one size
    metadata,
    Column("file_id", Text, ForeignKey("files.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),  # from 0
    Column("content", LargeBinary, nullable=False),
)

batches: Final = Table(
    "batches",
    metadata,
    Column("id", Text, primary_key=True),  # batch_<32 hex>
    Column("tenant_id", Text, nullable=False),
    Column("file_id", Text, ForeignKey("files.id"), nullable=False),
    Column("idempotency_key", Text),
    Column("body_sha256", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("model_name", Text, nullable=False),  # empty: no line could name one
    Column("weights", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("priority", Integer, nullable=False),  # higher runs first
    Column("seed", BigInteger, nullable=False),
    Column("completion_window_s", Double),
    Column("metadata", JSON(none_as_null=True), nullable=False),
    Column("errors", JSON(none_as_null=True)),  # list of {code, message, param, line}
    Column("n_total", Integer, nullable=False),
    Column("n_completed", Integer, nullable=False),
    Column("n_failed", Integer, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_prompt_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("in_progress_at", Double),
    Column("finalizing_at", Double),
    Column("completed_at", Double),
    Column("failed_at", Double),
    Column("cancelling_at", Double),
    Column("cancelled_at", Double),
    Column("expired_at", Double),
    Column("expires_at", Double),
    Column("paused_at", Double),
    Column("repeat_until", Double),  # until then a first POST alike is this batch's own
    Column("validator_id", Text),
    Column("validator_until", Double),
    UniqueConstraint("tenant_id", "idempotency_key"),
    Index(None, "tenant_id", "created_at"),
    Index(None, "state", "model_name", "weights"),
)

chunks: Final = Table(
    "chunks",
    metadata,
    Column("id", _ROW_ID, primary_key=True, autoincrement=True),
    Column("batch_id", Text, ForeignKey("batches.id", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),  # from 0 within the batch
    Column("n_requests", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),  # fencing token: +1 at every claim
    Column("worker_id", Text),
    Column("lease_until", Double),
    Column("attempts", Integer, nullable=False),  # claims that were not given back
    Column("crashes", Integer, nullable=False),
    Column("running_idx", Integer),  # on the last chance: what its worker's death is blamed on
    Column("not_before", Double, nullable=False),
    Column("dispatched_at", Double),
    Column("n_dispatches", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    UniqueConstraint("batch_id", "number"),
    Index(None, "state", "batch_id"),
    Index(  # what a claim looks through: not the chunks that are over
        "ix_chunks_open",
        "batch_id",
        "number",
        sqlite_where=text(OPEN_CHUNK),
        postgresql_where=text(OPEN_CHUNK),
    ),
)

requests: Final = Table(
    "requests",
    metadata,
    Column("batch_id", Text, ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    Column("idx", Integer, primary_key=True, autoincrement=False),  # from 0 in file order
    Column("line_number", Integer, nullable=False),  # from 1
    Column("accepted", Boolean(create_constraint=False), nullable=False),
    Column("custom_id", Text),  # a refused line may have none, or another line's
    Column("prompt_kind", Text),
    Column("prompt", JSON(none_as_null=True)),
    Column("params", JSON(none_as_null=True)),
    Column("prefix_key", Text),
    Column("prompt_chars", Integer),
    Column("chunk_id", BigInteger, ForeignKey("chunks.id")),
    Index(
        "uq_requests_accepted_custom_id",
        "batch_id",
        "custom_id",
        unique=True,
        sqlite_where=text("accepted"),
        postgresql_where=text("accepted"),
    ),
    Index(None, "chunk_id"),
)

results: Final = Table(
    "results",  # one row per request, ever: inserted, never updated
    metadata,
    Column("batch_id", Text, primary_key=True),
    Column("idx", Integer, primary_key=True, autoincrement=False),
    Column("status", Text, nullable=False),
    Column("error_code", Text),
    Column("error_message", Text),
    Column("error_param", Text),
    Column("http_status", Integer),  # of a refusal; NULL with an error: it never ran
    Column("text", Text),  # of the first choice
    Column("finish_reason", Text),
    Column("choices", JSON(none_as_null=True)),
    Column("prompt_tokens", Integer, nullable=False),
    Column("cached_prompt_tokens", Integer, nullable=False),
    Column("output_tokens", Integer, nullable=False),
    Column("prompt_token_ids", JSON(none_as_null=True)),
    Column("tokenize_s", Double),
    Column("queue_s", Double),
    Column("prefill_s", Double),
    Column("time_to_first_token_s", Double),
    Column("decode_s", Double),
    Column("total_s", Double),
    Column("epoch", BigInteger, nullable=False),  # 0: no worker wrote it
    Column("attempt", Integer, nullable=False),
    Column("worker_id", Text),
    Column("artifact", Text),
    Column("created_at", Double, nullable=False),
    ForeignKeyConstraint(
        ["batch_id", "idx"], ["requests.batch_id", "requests.idx"], ondelete="CASCADE"
    ),
    Index(  # few rows, so that failures are found without reading the answers
        "ix_results_failures",
        "batch_id",
        "idx",
        "error_code",
        sqlite_where=text("status = 'error'"),
        postgresql_where=text("status = 'error'"),
    ),
)

commits: Final = Table(
    "commits",  # which results came when: what a reader follows
    metadata,
    Column("batch_id", Text, ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    # Results of the batch before this commit: they come in the order in which they can be seen.
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("idxs", JSON(none_as_null=True), nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("worker_id", Text),
    Column("committed_at", Double, nullable=False),
    Index(None, "committed_at"),
)

attempts: Final = Table(
    "attempts",  # the audit trail: every lease that ever was
    metadata,
    Column(
        "chunk_id",
        BigInteger,
        ForeignKey("chunks.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("epoch", BigInteger, primary_key=True, autoincrement=False),
    Column("worker_id", Text, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("ended_at", Double),
    Column("outcome", Text),  # NULL while the lease is held
    Column("error", Text),
    Column("n_done", Integer, nullable=False),
    Index(  # few rows, so that they can be counted at any time
        "ix_attempts_failed",
        "outcome",
        sqlite_where=text("outcome IN ('lost', 'crashed')"),
        postgresql_where=text("outcome IN ('lost', 'crashed')"),
    ),
)

workers: Final = Table(
    "workers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("model_name", Text, nullable=False),
    Column("weights", Text, nullable=False),
    Column("artifact", Text),
    Column("backend", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("threads", Integer),
    Column("load_s", Double),
    Column("versions", JSON(none_as_null=True), nullable=False),
    Column("rss_bytes", BigInteger),
    Column("peak_rss_bytes", BigInteger),
    Column("draining", Boolean(create_constraint=False), nullable=False),
    Column("started_at", Double, nullable=False),
    Column("beat_at", Double, nullable=False),
    Column("left_at", Double),
    Index(None, "model_name", "weights", "beat_at"),
)

served_models: Final = Table(
    "served_models",
    metadata,
    Column("name", Text, primary_key=True),
    Column("weights", Text, primary_key=True),
    Column("artifact", Text, nullable=False),  # digest of its manifest
    Column("architecture", Text, nullable=False),
    Column("context_tokens", Integer, nullable=False),
    Column("source", Text, nullable=False),  # repository or folder, with its commit
    Column("registered_at", Double, nullable=False),
    Column("max_new_tokens", Integer),  # of an answer whose request does not say
)

model_files: Final = Table(
    "model_files",  # tokenizer and chat template: tokens can be counted without the model
    metadata,
    Column("name", Text, primary_key=True),
    Column("weights", Text, primary_key=True),
    Column("file_name", Text, primary_key=True),
    Column("artifact", Text, nullable=False),  # whose file it is
    Column("content", LargeBinary, nullable=False),
)

canaries: Final = Table(
    "canaries",  # what live workers made of the same requests, time after time
    metadata,
    Column("id", _ROW_ID, primary_key=True),
    Column("model_name", Text, nullable=False),
    Column("weights", Text, nullable=False),
    Column("measured_at", Double, nullable=False),
    Column("n_expected", Integer, nullable=False),
    Column("n_exact", Integer, nullable=False),
    Column("output_tokens_per_second", Double),
    Index(None, "model_name", "weights", "id"),
)

api_keys: Final = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("secret_sha256", Text, nullable=False),
    Column("scopes", JSON(none_as_null=True), nullable=False),
    Column("requests_per_minute", Integer),
    Column("max_queued_requests", Integer),
    Column("max_queued_bytes", BigInteger),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
    Column("last_used_at", Double),
)

webhooks: Final = Table(
    "webhooks",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("secret", Text, nullable=False),  # whsec_<base64>; signing needs it as it is
    Column("events", JSON(none_as_null=True), nullable=False),
    Column("created_at", Double, nullable=False),
    Index(None, "tenant_id"),
)

deliveries: Final = Table(
    "deliveries",  # one row per event and webhook, until it is delivered or given up
    metadata,
    Column("id", Text, primary_key=True),  # the event's id: the same at every attempt
    Column("webhook_id", Text, ForeignKey("webhooks.id", ondelete="CASCADE"), nullable=False),
    Column("event", Text, nullable=False),
    Column("batch_id", Text, ForeignKey("batches.id", ondelete="CASCADE"), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("not_before", Double, nullable=False),
    Column("ended_at", Double),
    Column("last_error", Text),
    UniqueConstraint("webhook_id", "batch_id", "event"),
    Index(None, "ended_at", "not_before"),
)
