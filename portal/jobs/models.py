"""The rows of jobs: what the database knows of them. The job directory outlives all of it.

Every time is UTC. `jobs.version` rises with each change that a page would show; it is the ETag of a job.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, ForeignKeyConstraint, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from portal.database import Base, UtcDateTime
from portal.jobs.states import FailureReason, JobState


class Job(Base):
    """One accepted job. `state` and `failure_reason` are those of the attempt that counts."""

    __tablename__ = "jobs"

    job_id: Mapped[str] = mapped_column(primary_key=True)
    application: Mapped[str]
    email: Mapped[str]
    """The address as it was typed, where mail goes."""
    owner: Mapped[str]
    """The address in its canonical form, which is the person."""
    token: Mapped[str] = mapped_column(unique=True)
    """The one-time token of the form (or of the API call): the same token is the same job."""
    session_id: Mapped[str | None]
    """Hash of the browser session that sent it in."""
    key_generation: Mapped[int] = mapped_column(default=1)
    state: Mapped[JobState]
    failure_reason: Mapped[FailureReason | None]
    attempt_number: Mapped[int] = mapped_column(default=1)
    """The attempt that counts."""
    resources: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    cancel_asked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    cancel_asked_by: Mapped[str | None]
    kept_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """Since it ended: when it is deleted, as its visitor was told. None where its application has gone."""
    delete_asked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """From here on it looks to everybody as if it had gone; the dispatcher removes it."""
    delete_asked_by: Mapped[str | None]
    resubmit_asked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """When somebody asked that it run again; None once the dispatcher has seen to it."""
    resubmit_wish: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """By whom and with what: `portal.jobs.wish.ResubmitWish` as JSON."""
    version: Mapped[int] = mapped_column(default=1)

    __table_args__ = (
        Index("ix_jobs_state_created", "state", "created_at"),
        Index("ix_jobs_owner_created", "owner", "created_at"),
        Index("ix_jobs_session", "session_id"),
        Index("ix_jobs_kept_until", "kept_until"),
        Index("ix_jobs_delete_asked", "delete_asked_at"),
        Index("ix_jobs_resubmit", "resubmit_asked_at"),
    )


class JobInput(Base):
    """One input of a job in its canonical form."""

    __tablename__ = "job_inputs"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.job_id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int]
    kind: Mapped[str]
    """The parameter's type: integer, number, text, longtext, choice, boolean, file."""
    text: Mapped[str]
    """The canonical text; of a file or long text, its path in the job directory."""
    number: Mapped[float | None]
    """For comparisons as numbers; infinite where it does not fit."""
    filename: Mapped[str | None]
    """What the visitor's file was called, for display only."""

    __table_args__ = (
        Index("ix_job_inputs_number", "name", "number"),
        Index("ix_job_inputs_text", "name", "text"),
    )


class Attempt(Base):
    """One try at a job: one directory, one scheduler name, at most one start of the program."""

    __tablename__ = "attempts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.job_id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[JobState]
    failure_reason: Mapped[FailureReason | None]
    scheduler_name: Mapped[str] = mapped_column(unique=True)
    scheduler_id: Mapped[str | None]
    cluster: Mapped[str] = mapped_column(default="")
    node: Mapped[str | None]
    exit_code: Mapped[int | None]
    signal: Mapped[int | None]
    reason: Mapped[str | None]
    """In words: why it waits, or why it ended."""
    raw_state: Mapped[str | None]
    """The scheduler's own word."""
    counts: Mapped[bool] = mapped_column(default=True)
    """Whether it counts towards `max_attempts`: one that the portal's own shutdown ended does not."""
    excluded_nodes: Mapped[list[str]] = mapped_column(JSON, default=list)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    intent_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """When SUBMITTING was committed: the earliest moment at which the scheduler can have it."""
    next_try_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """Not to be handed in before: the scheduler put it off, or the last call's outcome is in doubt."""
    submitted_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    expected_start_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """When the scheduler means to start it, while it waits."""
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    end_seen_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """When the scheduler was first seen to call it ended, or not to know it: the grace period runs from here."""

    __table_args__ = (Index("ix_attempts_state", "state"),)


class JobEvent(Base):
    """One change of a job's state, with the evidence. Rows are only ever added."""

    __tablename__ = "job_events"

    event_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.job_id", ondelete="CASCADE"), index=True)
    attempt_number: Mapped[int]
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    from_state: Mapped[JobState | None]
    to_state: Mapped[JobState]
    source: Mapped[str]
    """Where the evidence came from: form, directory, scheduler, status_file, wish, policy."""
    detail: Mapped[str]
    by: Mapped[str]
    """Who: an address, `portal`, or the scheduler's word for an operator."""


class JobResult(Base):
    """What came of a job: one row, from the attempt that counts."""

    __tablename__ = "job_results"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.job_id", ondelete="CASCADE"), primary_key=True)
    attempt_number: Mapped[int]
    answer: Mapped[str | None]
    warning: Mapped[str | None]
    wall_seconds: Mapped[float | None]
    peak_memory_mib: Mapped[float | None]


class MailOutbox(Base):
    """One message that is owed for one outcome: put in by the transaction that records the outcome."""

    __tablename__ = "mail_outbox"

    mail_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job_id: Mapped[str]
    attempt_number: Mapped[int]
    outcome: Mapped[str]
    """succeeded, failed, cancelled or corrected."""
    recipient: Mapped[str]
    message_id: Mapped[str] = mapped_column(unique=True)
    """Derived from job, attempt and outcome: a repeat after a crash carries the same one."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    next_try_at: Mapped[datetime] = mapped_column(UtcDateTime)
    tries: Mapped[int] = mapped_column(default=0)
    sent_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    refused_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """When the server said that it will never take it, or the portal gave up."""
    last_error: Mapped[str | None]
    digest_id: Mapped[str | None]
    """The Message-ID of the digest that it goes out in; its members do not change once a try may have succeeded."""

    __table_args__ = (
        UniqueConstraint("job_id", "attempt_number", "outcome"),
        ForeignKeyConstraint(["job_id", "attempt_number"], ["attempts.job_id", "attempts.number"], ondelete="CASCADE"),
        Index("ix_mail_outbox_due", "sent_at", "refused_at", "next_try_at"),
        Index("ix_mail_outbox_digest", "digest_id"),
    )


class DispatcherEpoch(Base):
    """One row: who dispatches, and the number that each take-over raises."""

    __tablename__ = "dispatcher_epoch"

    row_id: Mapped[int] = mapped_column(primary_key=True, default=1)
    epoch: Mapped[int]
    holder: Mapped[str]
    """Host and process id of the dispatcher that took over last."""
    taken_at: Mapped[datetime] = mapped_column(UtcDateTime)


class DispatcherReport(Base):
    """What one dispatcher found when it took over: a row a take-over, of which the newest are kept."""

    __tablename__ = "dispatcher_report"

    row_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    epoch: Mapped[int] = mapped_column(unique=True)
    mended: Mapped[int]
    """Jobs whose files were not as the database says."""
    adopted: Mapped[int]
    """Jobs that go on: seen alive in the scheduler, or taken up from a directory without a row."""
    resubmitted: Mapped[int]
    """Jobs that got a new attempt."""
    lost: Mapped[int]
    unreadable: Mapped[int]
    """Job directories that could not be taken up."""
    detail: Mapped[str]
    """The same and more in one line, as the log has it."""


class SchedulerHealth(Base):
    """One row: what the dispatcher last heard of the scheduler, for pages that never call one themselves."""

    __tablename__ = "scheduler_health"

    row_id: Mapped[int] = mapped_column(primary_key=True, default=1)
    asked_at: Mapped[datetime] = mapped_column(UtcDateTime)
    answered_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    silent_since: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """Since when it has not answered; None while it does."""
    accounting_silent_since: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """Since when its accounting was needed and has not answered; None while it does, or nobody needs it."""
    detail: Mapped[str]
    running: Mapped[int | None]
    waiting: Mapped[int | None]
