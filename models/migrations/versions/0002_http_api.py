"""The HTTP API: contents of files, the log of commits, keys, webhooks, pauses, validation."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _extend_files()
    for name in ("paused_at", "repeat_until", "validator_until"):
        op.add_column("batches", sa.Column(name, sa.Double(), nullable=True))
    op.add_column("batches", sa.Column("validator_id", sa.Text(), nullable=True))
    op.add_column("served_models", sa.Column("max_new_tokens", sa.Integer(), nullable=True))
    _index_failures()
    _index_open_chunks()
    _create_file_parts()
    _create_commits()
    _log_results_so_far()
    _create_model_files()
    _create_api_keys()
    _create_webhooks()
    _create_deliveries()
    _index_failed_attempts()


def downgrade() -> None:
    for table in ("deliveries", "webhooks", "api_keys", "model_files", "commits", "file_parts"):
        op.drop_table(table)
    for name in ("validator_id", "paused_at", "repeat_until", "validator_until"):
        op.drop_column("batches", name)
    op.drop_column("served_models", "max_new_tokens")
    op.drop_index("ix_attempts_failed", table_name="attempts")
    op.drop_index("ix_results_failures", table_name="results")
    op.drop_index("ix_chunks_open", table_name="chunks")
    for name in ("ix_files_expiring", "ix_files_uploading", "ix_files_tenant_id_created_at"):
        op.drop_index(name, table_name="files")
    for name in ("status", "deleted_at", "n_lines"):
        op.drop_column("files", name)


def _extend_files() -> None:
    op.add_column(
        "files", sa.Column("status", sa.Text(), server_default="processed", nullable=False)
    )
    op.add_column("files", sa.Column("deleted_at", sa.Double(), nullable=True))
    op.add_column("files", sa.Column("n_lines", sa.Integer(), server_default="0", nullable=False))
    op.create_index(
        op.f("ix_files_tenant_id_created_at"), "files", ["tenant_id", "created_at"], unique=False
    )
    for name, column, condition in (
        ("ix_files_expiring", "expires_at", sa.text("deleted_at IS NULL")),
        ("ix_files_uploading", "created_at", sa.text("status = 'uploading'")),
    ):
        op.create_index(
            name,
            "files",
            [column],
            unique=False,
            sqlite_where=condition,
            postgresql_where=condition,
        )


def _index_failures() -> None:
    op.create_index(
        "ix_results_failures",
        "results",
        ["batch_id", "idx", "error_code"],
        unique=False,
        sqlite_where=sa.text("status = 'error'"),
        postgresql_where=sa.text("status = 'error'"),
    )


def _index_open_chunks() -> None:
    is_open = sa.text("state IN ('pending', 'dispatched', 'leased')")
    op.create_index(
        "ix_chunks_open",
        "chunks",
        ["batch_id", "number"],
        unique=False,
        sqlite_where=is_open,
        postgresql_where=is_open,
    )


def _create_file_parts() -> None:
    op.create_table(
        "file_parts",
        sa.Column("file_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["file_id"], ["files.id"], name=op.f("fk_file_parts_file_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("file_id", "number", name=op.f("pk_file_parts")),
    )


def _create_commits() -> None:
    op.create_table(
        "commits",
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("idxs", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=True),
        sa.Column("committed_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["batches.id"], name=op.f("fk_commits_batch_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("batch_id", "position", name=op.f("pk_commits")),
    )
    op.create_index(op.f("ix_commits_committed_at"), "commits", ["committed_at"], unique=False)


def _log_results_so_far() -> None:
    """One commit for the results that a batch has already: whoever follows it misses none."""
    dialect = op.get_bind().dialect.name
    as_array = "json_agg" if dialect == "postgresql" else "json_group_array"
    op.execute(
        "INSERT INTO commits"
        " (batch_id, position, idxs, prompt_tokens, output_tokens, committed_at)"
        f" SELECT batch_id, 0, {as_array}(idx), 0, 0, max(created_at)"
        " FROM (SELECT batch_id, idx, created_at FROM results ORDER BY batch_id, idx) AS ordered"
        " GROUP BY batch_id"
    )


def _create_model_files() -> None:
    op.create_table(
        "model_files",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("weights", sa.Text(), nullable=False),
        sa.Column("file_name", sa.Text(), nullable=False),
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name", "weights", "file_name", name=op.f("pk_model_files")),
    )


def _create_api_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("secret_sha256", sa.Text(), nullable=False),
        sa.Column("scopes", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("requests_per_minute", sa.Integer(), nullable=True),
        sa.Column("max_queued_requests", sa.Integer(), nullable=True),
        sa.Column("max_queued_bytes", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=True),
        sa.Column("revoked_at", sa.Double(), nullable=True),
        sa.Column("last_used_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
    )


def _create_webhooks() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("events", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.create_index(op.f("ix_webhooks_tenant_id"), "webhooks", ["tenant_id"], unique=False)


def _create_deliveries() -> None:
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("webhook_id", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("not_before", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["webhook_id"],
            ["webhooks.id"],
            name=op.f("fk_deliveries_webhook_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["batches.id"], name=op.f("fk_deliveries_batch_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
        sa.UniqueConstraint(
            "webhook_id", "batch_id", "event", name=op.f("uq_deliveries_webhook_id_batch_id_event")
        ),
    )
    op.create_index(
        op.f("ix_deliveries_ended_at_not_before"),
        "deliveries",
        ["ended_at", "not_before"],
        unique=False,
    )


def _index_failed_attempts() -> None:
    op.create_index(
        "ix_attempts_failed",
        "attempts",
        ["outcome"],
        unique=False,
        sqlite_where=sa.text("outcome IN ('lost', 'crashed')"),
        postgresql_where=sa.text("outcome IN ('lost', 'crashed')"),
    )
