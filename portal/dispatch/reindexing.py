"""`portal reindex`: the database is brought up to the job directories, which are right where the two disagree.

Directories without a row are taken up at once. While no dispatcher is at work, the jobs that the database knows are
compared with their files as well: a database that was restored from an older copy does not know how they went on.
"""

import math
from collections.abc import Iterator, Sequence
from datetime import datetime

import structlog
from sqlalchemy import delete, select

from portal.database import Database
from portal.dispatch.adoption import Adoption, AdoptionReport
from portal.dispatch.leadership import Leadership
from portal.dispatch.records import moment, read_record
from portal.dispatch.restoration import Portal, bring_up_to_files
from portal.errors import StorageError
from portal.jobs.changes import read_changes, read_resubmit_wish
from portal.jobs.directory import JobDirectory, JobsFolder
from portal.jobs.models import Attempt, Job
from portal.jobs.states import JobState
from portal.jobs.store import Change, JobRecord, add_event, load_records
from portal.schedulers.base import Scheduler

log = structlog.get_logger()

_CHUNK = 200


class Reindexing:
    """One run of it."""

    def __init__(
        self,
        database: Database,
        folder: JobsFolder,
        adoption: Adoption,
        leadership: Leadership,
        scheduler: Scheduler,
        mail_domain: str,
    ) -> None:
        self._database = database
        self._folder = folder
        self._adoption = adoption
        self._leadership = leadership
        self._scheduler = scheduler
        self._mail_domain = mail_domain

    def run(self) -> AdoptionReport:
        """What was found and done. A directory that cannot be read is left alone. Raises StorageError."""
        report = self._adoption.adopt_orphans(older_than_seconds=-math.inf)  # whatever the clocks say
        with self._leadership.keeping_others_out() as is_alone:
            report.compared = is_alone
            if is_alone:
                self._look_up_again(self._scheduler.forget_elsewhere(self._folder.root))
                self._compare(report)
        return report

    def _compare(self, report: AdoptionReport) -> None:
        portal = Portal(self._folder.instance(), self._mail_domain)
        for record in self._records():
            directory = self._folder.job(record.job.job_id)
            try:
                if not directory.path.is_dir():
                    self._forget(record, report)
                elif files_know_more(record, directory):
                    self._renew(record, directory, portal)
                    report.renewed += 1
            except StorageError:
                raise
            except Exception as error:
                # Whatever it is that one directory holds, the others are looked at.
                report.leave_alone(directory, error)

    def _look_up_again(self, names: Sequence[str]) -> None:
        """What waited in a queue of another folder is looked up, and goes in again from here, as the same attempt."""
        for name in names:
            with self._database.writing() as session:
                attempt = session.scalar(select(Attempt).where(Attempt.scheduler_name == name))
                job = session.get(Job, attempt.job_id) if attempt is not None else None
                if attempt is None or job is None or attempt.state is not JobState.QUEUED:
                    continue
                attempt.state, attempt.scheduler_id = JobState.SUBMITTING, None
                if job.attempt_number == attempt.number:
                    before, job.state = job.state, JobState.SUBMITTING
                    detail = "It waited in the queue of another jobs folder, and is looked up in this one."
                    at = attempt.submitted_at or attempt.created_at
                    add_event(session, job, before, Change(at, "directory", detail))

    def _records(self) -> Iterator[JobRecord]:
        with self._database.reading() as session:
            ids = session.scalars(select(Job.job_id).order_by(Job.job_id)).all()
        for start in range(0, len(ids), _CHUNK):
            with self._database.reading() as session:
                records = load_records(session, ids[start : start + _CHUNK])
            yield from records

    def _forget(self, record: JobRecord, report: AdoptionReport) -> None:
        """Its directory was deleted since the copy was made; should it come back, it is taken up again."""
        if not self._folder.is_prepared():
            raise StorageError("The jobs folder is not there.", log_detail=str(self._folder.root))
        with self._database.writing() as session:
            session.execute(delete(Job).where(Job.job_id == record.job.job_id))
        report.forgotten += 1
        log.info("a job without a directory was forgotten", job_id=record.job.job_id)

    def _renew(self, record: JobRecord, directory: JobDirectory, portal: Portal) -> None:
        with self._database.writing() as session:
            bring_up_to_files(session, session.get_one(Job, record.job.job_id), directory, portal)
        log.info("a job was brought up to its files", job_id=record.job.job_id)


def files_know_more(record: JobRecord, directory: JobDirectory) -> bool:
    """Whether the directory tells of something that the rows do not know. Raises OSError."""
    numbers = directory.attempt_numbers()
    if numbers and numbers[-1] > record.attempts[-1].number:
        return True
    changes = read_changes(directory)
    asked = (record.job.cancel_asked_at, record.job.delete_asked_at)
    if any(changes.get(f"{wish}_asked_at") and not at for wish, at in zip(("cancel", "delete"), asked, strict=True)):
        return True
    wish = read_resubmit_wish(directory)
    if wish is not None and wish.after_attempt == record.job.attempt_number and not record.job.resubmit_asked_at:
        return True
    return any(_knows_more(attempt, record, directory) for attempt in record.attempts)


def _knows_more(attempt: Attempt, record: JobRecord, directory: JobDirectory) -> bool:
    files = directory.attempt(attempt.number)
    verdict, submission = read_record(files.verdict), read_record(files.submission)
    if verdict is not None:
        state, reason = attempt.state.value, attempt.failure_reason.value if attempt.failure_reason else None
        if (verdict.get("state"), verdict.get("failure_reason")) != (state, reason):
            return True
        return verdict.get("next_attempt") == record.attempts[-1].number + 1
    if submission is None or attempt.state.is_final:
        return False
    intent_at = moment(submission, "intent_at")
    has_other_id = submission.get("scheduler_id") not in (None, attempt.scheduler_id)
    return has_other_id or (intent_at is not None and _is_before(attempt.intent_at, intent_at))


def _is_before(known: datetime | None, other: datetime) -> bool:
    return known is None or known.replace(microsecond=0) < other
