"""Since when the scheduler's accounting does not answer."""

import sqlalchemy as sa
from alembic import op

import portal.database

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("scheduler_health", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("accounting_silent_since", portal.database.UtcDateTime(timezone=True), nullable=True)
        )


def downgrade() -> None:
    with op.batch_alter_table("scheduler_health", schema=None) as batch_op:
        batch_op.drop_column("accounting_silent_since")
