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
    Column("sha256", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
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
    Column("model_name", Text, nullable=False),
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
    Column("not_before", Double, nullable=False),
    Column("dispatched_at", Double),
    Column("n_dispatches", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    UniqueConstraint("batch_id", "number"),
    Index(None, "state", "batch_id"),
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
)
