"""The wish that a job be deleted. The dispatcher carries it out: files may need the account that jobs run as."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from portal.database import Database
from portal.errors import ConflictError, StorageError
from portal.jobs import changes
from portal.jobs.directory import JobsFolder, storage_error
from portal.jobs.models import Job
from portal.jobs.states import FINAL_STATES

STILL_GOES_ON = "This job has not ended yet. Please cancel it first; it can be deleted as soon as it has ended."


@dataclass(frozen=True)
class Expired:
    """A job that has been kept for as long as its application says."""

    job_id: str
    application: str
    owner: str
    kept_until: datetime


def note_delete_wish(
    database: Database, folder: JobsFolder, job_id: str, now: datetime, by: str, *, only_expired: bool = False
) -> bool:
    """Let the job look to everybody as if it had gone, and the dispatcher remove it. Asking twice is asking once.

    With `only_expired` nothing is done where it is to be kept for longer than `now`. Whether it was asked for by this
    call. Raises ConflictError where it has not ended, and StorageError.
    """
    with database.reading() as session:
        job = session.get(Job, job_id)
        _require_final(job)
        if only_expired and not _is_expired(job, now):
            return False
    try:
        if folder.job(job_id).path.is_dir():
            changes.note_delete_wish(folder.job(job_id), now, by)
    except OSError as error:
        raise _not_written_down(folder, error) from error
    is_refused = True
    try:
        with database.writing() as session:
            job = session.get(Job, job_id, with_for_update=True)
            _require_final(job)
            is_refused = only_expired and not _is_expired(job, now)
            if job is None or job.delete_asked_at is not None or is_refused:
                return False
            job.delete_asked_at, job.delete_asked_by = now, by
            job.version += 1
        return True
    except StorageError:
        is_refused = True
        raise
    finally:
        # A job that runs again meanwhile must not be deleted by a database that is built from its files one day.
        if is_refused:
            with suppress(OSError):
                changes.forget_delete_wish(folder.job(job_id))


def expired_jobs(session: Session, now: datetime, limit: int | None = None) -> Sequence[Expired]:
    """The jobs whose time is over and that nobody has deleted yet, the oldest first."""
    jobs = session.scalars(
        select(Job)
        .where(
            Job.state.in_(FINAL_STATES),
            Job.kept_until <= now,
            Job.delete_asked_at.is_(None),
            Job.resubmit_asked_at.is_(None),
        )
        .order_by(Job.kept_until, Job.job_id)
        .limit(limit)
    )
    return [Expired(job.job_id, job.application, job.owner, job.kept_until) for job in jobs if job.kept_until]


def _is_expired(job: Job | None, now: datetime) -> bool:
    """Whether its time is over, and nobody has asked that it run again."""
    if job is None or job.kept_until is None or job.resubmit_asked_at is not None:
        return False
    return job.kept_until <= now


def _require_final(job: Job | None) -> None:
    if job is not None and not job.state.is_final:
        raise ConflictError(STILL_GOES_ON)


def _not_written_down(folder: JobsFolder, error: OSError) -> StorageError:
    return StorageError(
        "The portal cannot write to its disk at the moment, so the job was not deleted. Please try again later.",
        log_detail=storage_error(folder.root, error).log_detail,
    )
