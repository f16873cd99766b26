"""Choosing jobs by what is known of them: for the administrator's page and for `portal resubmit`."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.orm import Session

from portal.jobs.models import Attempt, Job
from portal.jobs.states import FINAL_STATES, FailureReason, JobState


@dataclass(frozen=True)
class JobFilter:
    """What a job has to be; None and empty are anything."""

    states: tuple[JobState, ...] = ()
    failure: FailureReason | None = None
    node: str | None = None
    """Of the attempt that counts."""
    application: str | None = None
    owner: str | None = None
    """In the canonical form."""
    since: datetime | None = None
    """It ended since then; one that has not, was sent in since then."""
    until: datetime | None = None
    job_ids: tuple[str, ...] | None = None


UNFINISHED = tuple(state for state in JobState if state not in FINAL_STATES)


@dataclass(frozen=True)
class Cursor:
    """Where the last page ended; the next begins behind it."""

    created_at: datetime
    job_id: str


@dataclass(frozen=True)
class Chosen:
    """A job, and its attempt that counted when it was chosen."""

    job_id: str
    attempt_number: int
    created_at: datetime


def choose_jobs(
    session: Session, wanted: JobFilter, *, limit: int | None = None, after: Cursor | None = None
) -> list[Chosen]:
    """The jobs that are as wanted, newest first."""
    query = (
        select(Job.job_id, Job.attempt_number, Job.created_at)
        .join(Attempt, and_(Attempt.job_id == Job.job_id, Attempt.number == Job.attempt_number))
        .where(*_conditions(wanted))
        .order_by(Job.created_at.desc(), Job.job_id)
        .limit(limit)
    )
    if after is not None:
        is_older = Job.created_at < after.created_at
        query = query.where(or_(is_older, and_(Job.created_at == after.created_at, Job.job_id > after.job_id)))
    return [Chosen(row[0], row[1], row[2]) for row in session.execute(query)]


def count_jobs(session: Session, wanted: JobFilter) -> int:
    """How many there are."""
    query = (
        select(func.count())
        .select_from(Job)
        .join(Attempt, and_(Attempt.job_id == Job.job_id, Attempt.number == Job.attempt_number))
        .where(*_conditions(wanted))
    )
    return session.scalar(query) or 0


def _conditions(wanted: JobFilter) -> list[ColumnElement[bool]]:
    moment = func.coalesce(Job.ended_at, Job.created_at)
    conditions: list[ColumnElement[bool]] = [Job.delete_asked_at.is_(None)]
    if wanted.states:
        conditions.append(Job.state.in_(wanted.states))
    if wanted.failure is not None:
        conditions.append(Job.failure_reason == wanted.failure)
    if wanted.node is not None:
        conditions.append(Attempt.node == wanted.node)
    if wanted.application is not None:
        conditions.append(Job.application == wanted.application)
    if wanted.owner is not None:
        conditions.append(Job.owner == wanted.owner)
    if wanted.since is not None:
        conditions.append(moment >= wanted.since)
    if wanted.until is not None:
        conditions.append(moment < wanted.until)
    if wanted.job_ids is not None:
        conditions.append(Job.job_id.in_(wanted.job_ids))
    return conditions
