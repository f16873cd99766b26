"""The tables of the embedded scheduler: what waits, what runs, how what has ended ended, and who works.

A job is in exactly one of the first three. Compute clients move rows from `job_queue` to `job_running`, and from
there to `job_history`, which is the embedded scheduler's accounting.
"""

from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from portal.database import Base, UtcDateTime
from portal.schedulers.base import SchedulerState


class _LocalJob:
    """What each of the three tables says of a job."""

    queue_id: Mapped[int] = mapped_column(primary_key=True)
    """The scheduler id."""
    name: Mapped[str] = mapped_column(unique=True)
    script: Mapped[str]
    working_dir: Mapped[str]
    time_limit_minutes: Mapped[int]
    queued_at: Mapped[datetime] = mapped_column(UtcDateTime)


class QueuedJob(_LocalJob, Base):
    """A job that waits. Ids are never used again (AUTOINCREMENT)."""

    __tablename__ = "job_queue"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012


class RunningJob(_LocalJob, Base):
    """A job that a compute client has taken."""

    __tablename__ = "job_running"

    client_id: Mapped[str] = mapped_column(index=True)
    node: Mapped[str]
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    cancel_asked: Mapped[bool] = mapped_column(default=False)


class EndedJob(_LocalJob, Base):
    """How a job ended."""

    __tablename__ = "job_history"

    state: Mapped[SchedulerState]
    exit_code: Mapped[int | None]
    signal: Mapped[int | None]
    node: Mapped[str | None]
    reason: Mapped[str | None]
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    ended_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    ended_by_portal: Mapped[bool] = mapped_column(default=False)


class ClientLease(Base):
    """One compute client that is at work, with the lease on all that it has taken."""

    __tablename__ = "compute_clients"

    client_id: Mapped[str] = mapped_column(primary_key=True)
    """Random word of one client process."""
    node: Mapped[str]
    slots: Mapped[int]
    heartbeats: Mapped[int] = mapped_column(default=0)
    """Raised by the client while it lives. The lease ends when the number is seen to stand still, by the observer's
    own monotonic clock, so that no two machines' clocks need agree."""
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
