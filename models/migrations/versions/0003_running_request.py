"""Which request of a chunk on its last chance runs: the one to blame when its worker dies."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("chunks", sa.Column("running_idx", sa.Integer(), nullable=True))


def downgrade() -> None:
    op.drop_column("chunks", "running_idx")
