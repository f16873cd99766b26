"""Rows of jobs, read and written. Sessions come from the caller, who decides what belongs into one transaction."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import Session

from portal.jobs.models import (
    Attempt,
    DispatcherReport,
    Job,
    JobEvent,
    JobInput,
    JobResult,
    MailOutbox,
    SchedulerHealth,
)
from portal.jobs.states import FailureReason, JobState, may_follow


@dataclass(frozen=True)
class JobRecord:
    """A job with all that belongs to it, as one page or one REST object shows it. Rows are detached: do not change."""

    job: Job
    inputs: tuple[JobInput, ...]
    attempts: tuple[Attempt, ...]
    events: tuple[JobEvent, ...]
    result: JobResult | None
    mails: tuple[MailOutbox, ...] = ()
    """What was owed to its owner, oldest first."""

    @property
    def attempt(self) -> Attempt:
        """The attempt that counts."""
        return next(attempt for attempt in self.attempts if attempt.number == self.job.attempt_number)


@dataclass(frozen=True)
class Change:
    """Why a job changes its state: the evidence, and who."""

    at: datetime
    source: str
    detail: str
    by: str = "portal"


def load_record(session: Session, job_id: str) -> JobRecord | None:
    """The job with its inputs, attempts, events, result and mail, or None."""
    records = load_records(session, [job_id])
    return records[0] if records else None


def load_records(session: Session, job_ids: Sequence[str]) -> list[JobRecord]:
    """The jobs that exist, in the order asked for. Six queries, however many jobs."""
    jobs = {job.job_id: job for job in session.scalars(select(Job).where(Job.job_id.in_(job_ids)))}
    inputs = _by_job(session.scalars(select(JobInput).where(JobInput.job_id.in_(job_ids)).order_by(JobInput.position)))
    attempts = _by_job(session.scalars(select(Attempt).where(Attempt.job_id.in_(job_ids)).order_by(Attempt.number)))
    events = _by_job(session.scalars(select(JobEvent).where(JobEvent.job_id.in_(job_ids)).order_by(JobEvent.event_id)))
    results = _by_job(session.scalars(select(JobResult).where(JobResult.job_id.in_(job_ids))))
    mails = _by_job(
        session.scalars(select(MailOutbox).where(MailOutbox.job_id.in_(job_ids)).order_by(MailOutbox.mail_id))
    )
    return [
        JobRecord(
            job=jobs[job_id],
            inputs=tuple(inputs[job_id]),
            attempts=tuple(attempts[job_id]),
            events=tuple(events[job_id]),
            result=next(iter(results[job_id]), None),
            mails=tuple(mails[job_id]),
        )
        for job_id in job_ids
        if job_id in jobs
    ]


RowT = TypeVar("RowT", JobInput, Attempt, JobEvent, JobResult, MailOutbox)


def _by_job(rows: Iterable[RowT]) -> defaultdict[str, list[RowT]]:
    grouped: defaultdict[str, list[RowT]] = defaultdict(list)
    for row in rows:
        grouped[row.job_id].append(row)
    return grouped


def newest_job_ids(session: Session, limit: int) -> list[str]:
    """The newest jobs first."""
    query = select(Job.job_id).where(Job.delete_asked_at.is_(None))
    return list(session.scalars(query.order_by(Job.created_at.desc(), Job.job_id).limit(limit)))


def own_job_ids(session: Session, limit: int, browser_session_ids: Sequence[str], owner: str | None) -> list[str]:
    """The newest first of those that these browser sessions sent in, and of those of this owner."""
    is_own: ColumnElement[bool] = Job.session_id.in_(browser_session_ids)
    if owner is not None:
        is_own = or_(is_own, Job.owner == owner)
    query = select(Job.job_id).where(is_own, Job.delete_asked_at.is_(None))
    query = query.order_by(Job.created_at.desc(), Job.job_id).limit(limit)
    return list(session.scalars(query))


def count_by_state(session: Session) -> dict[JobState, int]:
    """How many jobs are in each state that any is in."""
    rows = session.execute(select(Job.state, func.count()).group_by(Job.state)).all()
    return {row[0]: row[1] for row in rows}


def has_jobs(session: Session) -> bool:
    """Whether there is any job at all."""
    return session.scalar(select(Job.job_id).limit(1)) is not None


def find_by_token(session: Session, token: str) -> Job | None:
    """The job that bears a form's token, or None."""
    return session.scalar(select(Job).where(Job.token == token))


def read_start_reports(session: Session, count: int) -> list[DispatcherReport]:
    """What the last dispatchers found when they took over, newest first."""
    return list(session.scalars(select(DispatcherReport).order_by(DispatcherReport.row_id.desc()).limit(count)))


def read_health(session: Session) -> SchedulerHealth | None:
    """What the dispatcher last heard of the scheduler; None where none has ever run."""
    return session.get(SchedulerHealth, 1)


def change_state(
    session: Session,
    job: Job,
    attempt: Attempt,
    state: JobState,
    change: Change,
    reason: FailureReason | None = None,
) -> None:
    """Move the attempt, and the job with it, to `state`, and add the event.

    Raises ValueError for a change that the table of transitions does not know: a mistake in the portal, which must
    not reach the database.
    """
    if not may_follow(attempt.state, state):
        raise ValueError(f"job {job.job_id} attempt {attempt.number}: {attempt.state} cannot become {state}")
    before = job.state
    attempt.state = job.state = state
    attempt.failure_reason = job.failure_reason = reason
    if state is JobState.RUNNING:
        attempt.started_at = attempt.started_at or change.at
        job.started_at = attempt.started_at
    if state.is_final:
        attempt.ended_at = attempt.ended_at or change.at
        job.ended_at = attempt.ended_at
    add_event(session, job, before, change)


def add_event(session: Session, job: Job, before: JobState | None, change: Change) -> None:
    """Add one row of a job's history and raise its version, so that pages notice."""
    job.version += 1
    session.add(
        JobEvent(
            job_id=job.job_id,
            attempt_number=job.attempt_number,
            at=change.at,
            from_state=before,
            to_state=job.state,
            source=change.source,
            detail=change.detail,
            by=change.by,
        )
    )
