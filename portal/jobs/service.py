"""What people may ask of jobs: submit, look, cancel. Pages, the API and the command all come through here."""

from collections.abc import Sequence

import structlog

from portal.applications.catalog import Catalog
from portal.applications.definition import Application
from portal.clock import Clock
from portal.database import Database
from portal.errors import ConflictError, DefinitionError, ForbiddenError, NotFoundError, StorageError
from portal.jobs import changes
from portal.jobs.acceptance import Acceptance, Accepted, Submission
from portal.jobs.access import Viewer
from portal.jobs.deletion import Expired, expired_jobs, note_delete_wish
from portal.jobs.directory import JobsFolder, storage_error
from portal.jobs.ids import is_job_id
from portal.jobs.job_files import JobFile, open_job_file
from portal.jobs.keys import Keys
from portal.jobs.selection import Chosen, Cursor, JobFilter, choose_jobs, count_jobs
from portal.jobs.states import JobState
from portal.jobs.store import (
    Change,
    JobRecord,
    add_event,
    count_by_state,
    load_record,
    load_records,
    newest_job_ids,
    own_job_ids,
)
from portal.jobs.view import Output, job_outputs

log = structlog.get_logger()


class JobService:
    """The services over one jobs folder, one database and one catalog of applications."""

    def __init__(
        self,
        acceptance: Acceptance,
        database: Database,
        folder: JobsFolder,
        catalog: Catalog,
        keys: Keys,
        clock: Clock,
        base_url: str,
    ) -> None:
        self._acceptance = acceptance
        self.database = database
        self.folder = folder
        self.catalog = catalog
        self.keys = keys
        self._clock = clock
        self.base_url = base_url

    def submit(self, submission: Submission) -> Accepted:
        """Accept a job, or find that it had been accepted before; see `Acceptance.submit` for what it raises."""
        return self._acceptance.submit(submission)

    def record(self, job_id: str) -> JobRecord:
        """The job, for somebody who may see everything. Raises NotFoundError."""
        if is_job_id(job_id):
            with self.database.reading() as session:
                record = load_record(session, job_id)
            if record is not None and record.job.delete_asked_at is None:
                return record
        raise job_not_found()

    def record_for(self, viewer: Viewer, job_id: str) -> JobRecord:
        """The job, if this viewer may see it. Raises the same NotFoundError for an unknown id and a forbidden one."""
        record = self.record(job_id)
        if not viewer.may_view(record.job, self.keys):
            raise job_not_found()
        return record

    def newest(self, limit: int) -> list[JobRecord]:
        """The newest of all jobs, newest first."""
        with self.database.reading() as session:
            return load_records(session, newest_job_ids(session, limit))

    def newest_of(self, viewer: Viewer, limit: int) -> list[JobRecord]:
        """The newest jobs that are this viewer's own: sent in by their browser, or under the address they proved."""
        if not viewer.session_ids and viewer.person is None:
            return []
        with self.database.reading() as session:
            return load_records(session, own_job_ids(session, limit, viewer.session_ids, viewer.person))

    def choose(self, wanted: JobFilter, limit: int | None = None, after: Cursor | None = None) -> list[Chosen]:
        """The jobs that are as an administrator wants them, newest first, from behind the cursor on."""
        with self.database.reading() as session:
            return choose_jobs(session, wanted, limit=limit, after=after)

    def count(self, wanted: JobFilter) -> int:
        """How many jobs are as wanted."""
        with self.database.reading() as session:
            return count_jobs(session, wanted)

    def count_by_state(self) -> dict[JobState, int]:
        """How many jobs are in each state that any is in."""
        with self.database.reading() as session:
            return count_by_state(session)

    def records(self, job_ids: Sequence[str]) -> list[JobRecord]:
        """These jobs, in this order, for somebody who may see everything; those that do not exist are left out."""
        with self.database.reading() as session:
            return load_records(session, job_ids)

    def outputs(self, record: JobRecord) -> list[Output]:
        """The files of the attempt that counts."""
        return job_outputs(record, self.folder.job(record.job.job_id), self.application_of(record))

    def open_file(self, record: JobRecord, path: str, attempt_number: int) -> JobFile:
        """A file of one attempt, open, for whoever closes it. Raises NotFoundError where it may not be read."""
        return open_job_file(self.folder.job(record.job.job_id).attempt(attempt_number).work, path)

    def application_of(self, record: JobRecord) -> Application | None:
        """The application of a job; None where it has been taken away or broken since."""
        return self.application_of_job(record.job.application)

    def application_of_job(self, name: str) -> Application | None:
        """The application of this name; None where there is none that can be used."""
        try:
            return self.catalog.get(name)
        except (NotFoundError, DefinitionError):
            return None

    def ask_cancel(self, viewer: Viewer, job_id: str) -> JobRecord:
        """Record the wish that a job be cancelled; the dispatcher carries it out. Asking twice is asking once.

        Raises NotFoundError, ForbiddenError for somebody who may only look, and ConflictError where it has ended.
        """
        record = self.record_for(viewer, job_id)
        if not viewer.may_change(record.job, self.keys):
            raise ForbiddenError("This link shows the job; only who sent it in may cancel it.")
        if record.job.state.is_final:
            raise ConflictError("This job has already ended, so there is nothing to cancel.")
        if record.job.cancel_asked_at is None:
            self._store_cancel_wish(job_id, viewer.name_for(record.job))
        return self.record(job_id)

    def ask_delete(self, viewer: Viewer, job_id: str) -> None:
        """Let the job be gone: from now on nobody finds it, and the dispatcher removes its rows and files.

        Raises NotFoundError, ForbiddenError for somebody who may only look, ConflictError where it has not ended, and
        StorageError.
        """
        record = self.record_for(viewer, job_id)
        if not viewer.may_change(record.job, self.keys):
            raise ForbiddenError("This link shows the job; only who sent it in may delete it.")
        now = self._clock.now_utc()
        note_delete_wish(self.database, self.folder, job_id, now, viewer.name_for(record.job))

    def expired(self, limit: int | None = None) -> Sequence[Expired]:
        """The jobs that have been kept for as long as their applications say, the oldest first."""
        with self.database.reading() as session:
            return expired_jobs(session, self._clock.now_utc(), limit)

    def delete_expired(self, jobs: Sequence[Expired], by: str) -> int:
        """Ask for the end of these, each if its time is still over; how many it was.

        One whose directory cannot be written does not hold up the others. Raises StorageError where none could be
        asked for; where some could, the rest is left for the next time, and the log says why.
        """
        count = 0
        problem: StorageError | None = None
        for job in jobs:
            try:
                now = self._clock.now_utc()
                count += note_delete_wish(self.database, self.folder, job.job_id, now, by, only_expired=True)
            except ConflictError:
                continue  # it runs again since
            except StorageError as error:
                problem = error
                log.warning("an expired job is not deleted yet", job_id=job.job_id, error=error.log_detail)
        if problem is not None and not count:
            raise problem
        return count

    def _store_cancel_wish(self, job_id: str, by: str) -> None:
        now = self._clock.now_utc()
        try:
            changes.note_cancel_wish(self.folder.job(job_id), now, by)
        except OSError as error:
            raise storage_error(self.folder.root, error) from error
        with self.database.writing() as session:
            record = load_record(session, job_id)
            if record is None or record.job.state.is_final or record.job.cancel_asked_at is not None:
                return
            record.job.cancel_asked_at = now
            record.job.cancel_asked_by = by
            add_event(session, record.job, record.job.state, Change(now, "wish", "Cancellation was asked for.", by))


def job_not_found() -> NotFoundError:
    """What an unknown id and a forbidden one both look like."""
    return NotFoundError(
        "There is no such job here, or this browser may not see it. "
        "If you have a mail about it, its link opens the page."
    )
