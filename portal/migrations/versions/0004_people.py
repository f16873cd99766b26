"""People, their sign-in links and sessions; the wish that a job be run again."""

import sqlalchemy as sa
from alembic import op

import portal.database

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "people",
        sa.Column("email", sa.String(), nullable=False),
        sa.Column("is_administrator", sa.Boolean(), nullable=False),
        sa.Column("disabled_at", portal.database.UtcDateTime(timezone=True), nullable=True),
        sa.Column("created_at", portal.database.UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("email"),
    )
    op.create_table(
        "sign_in_links",
        sa.Column("link_hash", sa.String(), nullable=False),
        sa.Column("person", sa.String(), nullable=False),
        sa.Column("created_at", portal.database.UtcDateTime(timezone=True), nullable=False),
        sa.Column("expires_at", portal.database.UtcDateTime(timezone=True), nullable=False),
        sa.Column("used_at", portal.database.UtcDateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["person"], ["people.email"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("link_hash"),
    )
    op.create_index("ix_sign_in_links_expires_at", "sign_in_links", ["expires_at"])
    op.create_index("ix_sign_in_links_person", "sign_in_links", ["person"])
    with op.batch_alter_table("sessions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("person", sa.String(), nullable=True))
        batch_op.create_index("ix_sessions_person", ["person"])
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("resubmit_asked_at", portal.database.UtcDateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("resubmit_wish", sa.JSON(), nullable=True))
        batch_op.create_index("ix_jobs_resubmit", ["resubmit_asked_at"])


def downgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_index("ix_jobs_resubmit")
        batch_op.drop_column("resubmit_wish")
        batch_op.drop_column("resubmit_asked_at")
    with op.batch_alter_table("sessions", schema=None) as batch_op:
        batch_op.drop_index("ix_sessions_person")
        batch_op.drop_column("person")
    op.drop_table("sign_in_links")
    op.drop_table("people")
