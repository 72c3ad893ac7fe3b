"""A queue that several services share (owners, leases, turns), priorities, what a job survived, and its probe."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_NEW: tuple[sa.Column[object], ...] = (
    sa.Column("priority", sa.Integer(), nullable=False, server_default="0"),
    sa.Column("alias_number", _SERIAL, nullable=False, server_default="0"),
    sa.Column("owner", sa.String(), nullable=True),
    sa.Column("batch", sa.Integer(), nullable=False, server_default="0"),
    sa.Column("may_have_published", sa.Boolean(), nullable=False, server_default=sa.false()),
    sa.Column("interruptions", sa.Integer(), nullable=False, server_default="0"),
    sa.Column("postponements", sa.Integer(), nullable=False, server_default="0"),
    sa.Column("memory_failures", sa.Integer(), nullable=False, server_default="0"),
    sa.Column("failed_at_step", sa.Integer(), nullable=False, server_default="0"),
    sa.Column("micro_batch_tokens", sa.Integer(), nullable=True),
    sa.Column("evaluated_step", sa.Integer(), nullable=False, server_default="-1"),
    sa.Column("checkpoint_step", sa.Integer(), nullable=False, server_default="0"),
    sa.Column("probe_outcome", sa.String(), nullable=False, server_default=""),
    sa.Column("probe_message", sa.String(), nullable=False, server_default=""),
)


def upgrade() -> None:
    for column in _NEW:
        op.add_column("jobs", column)
    # What was being published when the older service stopped may be published: it must not become CANCELLED.
    op.execute("UPDATE jobs SET may_have_published = (1 = 1) WHERE state = 'PUBLISHING'")
    # So that a job that goes on does not report the base's evaluation a second time.
    op.execute("UPDATE jobs SET evaluated_step = step WHERE base_eval_loss <> 0")
    op.drop_index("ix_jobs_state", table_name="jobs")
    op.create_index("ix_jobs_state", "jobs", ["state", "tenant"])
    op.create_table(
        "queue",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("turn", _SERIAL, nullable=False),
    )
    op.execute("INSERT INTO queue (id, turn) SELECT 1, COALESCE(MAX(served), 0) FROM jobs")
    op.create_table(
        "services",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("lease_until", sa.DateTime(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("services")
    op.drop_table("queue")
    op.drop_index("ix_jobs_state", table_name="jobs")
    op.create_index("ix_jobs_state", "jobs", ["state"])
    for column in reversed(_NEW):
        op.drop_column("jobs", str(column.name))
