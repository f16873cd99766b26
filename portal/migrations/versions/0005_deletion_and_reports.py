"""How long jobs are kept, who wants them deleted, and what a dispatcher found when it took over."""

import sqlalchemy as sa
from alembic import op

import portal.database

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "dispatcher_report",
        sa.Column("row_id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("at", portal.database.UtcDateTime(timezone=True), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("mended", sa.Integer(), nullable=False),
        sa.Column("adopted", sa.Integer(), nullable=False),
        sa.Column("resubmitted", sa.Integer(), nullable=False),
        sa.Column("lost", sa.Integer(), nullable=False),
        sa.Column("unreadable", sa.Integer(), nullable=False),
        sa.Column("detail", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("row_id", name=op.f("pk_dispatcher_report")),
        sa.UniqueConstraint("epoch", name=op.f("uq_dispatcher_report_epoch")),
    )
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("kept_until", portal.database.UtcDateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("delete_asked_at", portal.database.UtcDateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("delete_asked_by", sa.String(), nullable=True))
        batch_op.create_index("ix_jobs_kept_until", ["kept_until"], unique=False)
        batch_op.create_index("ix_jobs_delete_asked", ["delete_asked_at"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_index("ix_jobs_delete_asked")
        batch_op.drop_index("ix_jobs_kept_until")
        batch_op.drop_column("delete_asked_by")
        batch_op.drop_column("delete_asked_at")
        batch_op.drop_column("kept_until")
    op.drop_table("dispatcher_report")
