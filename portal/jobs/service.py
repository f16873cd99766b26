"""What people may ask of jobs: submit, look, cancel. Pages, the API and the command all come through here.

Accepting is a fixed order of durable steps: `mkdir`, the input files, `config.ini` (the commit point on disk), the
link in the owner's folder, and one database commit. A crash between any two of them loses nothing: without
`config.ini` nobody was told that there is a job, and with it the dispatcher adopts the directory.
"""

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog
from sqlalchemy.exc import IntegrityError

from portal.applications.catalog import Catalog
from portal.applications.definition import Application
from portal.applications.parameters import Value, validate_inputs
from portal.clock import Clock
from portal.database import Database
from portal.errors import (
    ConflictError,
    DefinitionError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    StorageError,
)
from portal.jobs import changes
from portal.jobs.access import Viewer
from portal.jobs.address import Address, parse_address
from portal.jobs.directory import (
    FILE_MODE,
    PORTAL_FOLDER_MODE,
    JobDirectory,
    JobsFolder,
    make_folder,
    storage_error,
)
from portal.jobs.ids import is_job_id
from portal.jobs.job_config import JobConfig, write_job_config
from portal.jobs.keys import Keys
from portal.jobs.rows import insert_job
from portal.jobs.store import (
    Change,
    JobRecord,
    add_event,
    find_by_token,
    load_record,
    load_records,
    newest_job_ids,
)
from portal.jobs.view import Output, job_outputs, results_url
from portal.node.durable import write_durably
from portal.people.sessions import keep_session

log = structlog.get_logger()

_REPEAT_TRIES = 3


@dataclass(frozen=True)
class Submission:
    """What came out of a form, an API call or the command, unchecked."""

    application: str
    inputs: Mapping[str, object]
    email: str
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    """The same token with the same contents is the same job."""
    session_id: str | None = None
    """The browser session that sends it in; it gets a row, so that it can see the job from then on."""
    token_is_strict: bool = False
    """The token is an idempotency key: with other contents it is refused, where a form's makes another job."""


@dataclass(frozen=True)
class Accepted:
    """A job that cannot be lost any more."""

    job_id: str
    repeated: bool
    """True where this submission had been accepted before: nothing new was made."""


class JobService:
    """The services over one jobs folder, one database and one catalog of applications."""

    def __init__(
        self,
        database: Database,
        folder: JobsFolder,
        catalog: Catalog,
        keys: Keys,
        clock: Clock,
        base_url: str,
    ) -> None:
        self.database = database
        self.folder = folder
        self.catalog = catalog
        self.keys = keys
        self._clock = clock
        self.base_url = base_url

    def submit(self, submission: Submission) -> Accepted:
        """Accept a job, or find that it had been accepted before.

        Raises NotFoundError for an unknown application, InvalidInputError where a field is wrong, ConflictError
        where an idempotency key was used for something else, and StorageError where disk or database refuse. After
        an error nothing half-made is left, except where it is unknown whether the database has the job: then the
        directory stays, and the same form sent again leads to one job.
        """
        application = self.catalog.get(submission.application)
        values, address = _check(application, submission)
        if submission.session_id is not None:
            # Before the job: whatever crashes from here on, who sent it in can see it.
            keep_session(self.database, submission.session_id, self._clock.now_utc())
        token = submission.token
        for _ in range(_REPEAT_TRIES):
            earlier = self._accepted_before(token, application.name, values, address)
            if earlier is not None:
                if earlier.repeated:
                    return earlier
                if submission.token_is_strict:
                    raise ConflictError(
                        "This Idempotency-Key was used for another submission. Please use a new one for a new job."
                    )
                # The same form with other contents (somebody went back and changed a number) is another job.
                token = _token_for_contents(submission.token, application.name, values, address)
                continue
            try:
                return Accepted(self._accept(application, submission, values, address, token), repeated=False)
            except IntegrityError:
                continue  # a twin of this submission was faster: look at its job
        raise StorageError("Your job could not be taken in just now. Please try again.", log_detail="token race")

    def record(self, job_id: str) -> JobRecord:
        """The job, for somebody who may see everything. Raises NotFoundError."""
        if is_job_id(job_id):
            with self.database.reading() as session:
                record = load_record(session, job_id)
            if record is not None:
                return record
        raise job_not_found()

    def record_for(self, viewer: Viewer, job_id: str) -> JobRecord:
        """The job, if this viewer may see it. Raises the same NotFoundError for an unknown id and a forbidden one."""
        record = self.record(job_id)
        if not viewer.may_view(record.job, self.keys):
            raise job_not_found()
        return record

    def newest(self, limit: int, session_id: str | None = None) -> list[JobRecord]:
        """The newest jobs, newest first: all of them, or those of one browser session."""
        with self.database.reading() as session:
            return load_records(session, newest_job_ids(session, limit, browser_session_id=session_id))

    def outputs(self, record: JobRecord) -> list[Output]:
        """The files of the attempt that counts."""
        return job_outputs(record, self.folder.job(record.job.job_id), self.application_of(record))

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

    def _accepted_before(
        self, token: str, application: str, values: Mapping[str, Value], address: Address
    ) -> Accepted | None:
        """None where the token is new; else its job, `repeated` where the contents are the same as well."""
        with self.database.reading() as session:
            job = find_by_token(session, token)
            record = load_record(session, job.job_id) if job else None
        if record is None:
            return None
        same = (
            record.job.application == application
            and record.job.owner == address.owner
            and _contents_of_record(record, self.folder) == _contents(values)
        )
        return Accepted(record.job.job_id, repeated=same)

    def _accept(
        self,
        application: Application,
        submission: Submission,
        values: Mapping[str, Value],
        address: Address,
        token: str,
    ) -> str:
        directory = self.folder.claim_new_job()
        config = JobConfig(
            job_id=directory.job_id,
            email=address.email,
            owner=address.owner,
            results_url=results_url(self.base_url, directory.job_id),
            application=application.name,
            token=token,
            created_at=self._clock.now_utc(),
            session_id=submission.session_id,
            inputs={name: _text_in_config(name, value) for name, value in values.items()},
            filenames={name: value.filename for name, value in values.items() if value.filename},
            resources=application.resources.as_texts(),
        )
        try:
            self._write(directory, config, values)
        except BaseException:
            self._discard(directory, address.owner)
            raise
        self._commit(directory, config, application)
        log.info("job accepted", job_id=config.job_id, application=application.name)
        return config.job_id

    def _write(self, directory: JobDirectory, config: JobConfig, values: Mapping[str, Value]) -> None:
        try:
            write_input_files(directory, values)
            write_job_config(directory.config, config)
            self.folder.link_for_owner(config.owner, config.job_id)
        except OSError as error:
            raise storage_error(directory.path, error) from error

    def _commit(self, directory: JobDirectory, config: JobConfig, application: Application) -> None:
        """The row. Raises IntegrityError where a twin has the token, StorageError where the database fails."""
        is_committing = False
        try:
            instance = self.folder.instance()
            with self.database.writing() as session:
                insert_job(session, config, application, instance, source="form")
                session.flush()
                is_committing = True
        except IntegrityError:
            # A conflict on the id: the dispatcher took this very directory for an orphan and adopted it.
            if self._has_row(config.job_id):
                return
            self._discard(directory, config.owner)
            raise
        except StorageError:
            if not is_committing or self._certainly_has_no_row(config.job_id):
                self._discard(directory, config.owner)
            raise

    def _has_row(self, job_id: str) -> bool:
        with self.database.reading() as session:
            return load_record(session, job_id) is not None

    def _certainly_has_no_row(self, job_id: str) -> bool:
        """After a commit that failed: False where it may have gone through, or may still."""
        if not self.database.is_sqlite:
            return False
        try:
            # SQLite lets one writer in at a time, so that no commit of ours can still be under way in here.
            with self.database.writing() as session:
                return load_record(session, job_id) is None
        except StorageError:
            return False

    def _discard(self, directory: JobDirectory, owner: str) -> None:
        try:
            self.folder.discard(directory, owner)
        except OSError as error:
            # Without config.ini it is swept after a day; with it, its token decides.
            log.warning("a refused submission could not be removed", path=str(directory.path), error=str(error))


def job_not_found() -> NotFoundError:
    """What an unknown id and a forbidden one both look like."""
    return NotFoundError(
        "There is no such job here, or this browser may not see it. "
        "If you have a mail about it, its link opens the page."
    )


def write_input_files(directory: JobDirectory, values: Mapping[str, Value]) -> None:
    """Put uploads and long texts into `inputs/`, one durable file per parameter. Raises OSError."""
    contents = {name: value.content for name, value in values.items() if value.content is not None}
    if contents:
        make_folder(directory.inputs, PORTAL_FOLDER_MODE)
    for name, content in contents.items():
        write_durably(str(directory.inputs / name), content, FILE_MODE)


def _check(application: Application, submission: Submission) -> tuple[dict[str, Value], Address]:
    """All fields at once, so that the visitor sees every mistake together. Raises InvalidInputError."""
    mistakes: dict[str, str] = {}
    values: dict[str, Value] = {}
    address: Address | None = None
    try:
        values = validate_inputs(application.parameters, submission.inputs)
    except InvalidInputError as error:
        mistakes.update(error.field_errors)
    try:
        address = parse_address(submission.email)
    except ValueError as error:
        mistakes["email"] = str(error)
    if address is None or mistakes:
        raise InvalidInputError(mistakes)
    return values, address


def _text_in_config(name: str, value: Value) -> str:
    return value.text if value.content is None else f"inputs/{name}"


def _contents(values: Mapping[str, Value]) -> dict[str, str]:
    """What makes two submissions the same: canonical texts, and digests of files."""
    return {
        name: value.text if value.content is None else hashlib.sha256(value.content).hexdigest()
        for name, value in values.items()
    }


def _contents_of_record(record: JobRecord, folder: JobsFolder) -> dict[str, str]:
    directory = folder.job(record.job.job_id)
    contents = {}
    for row in record.inputs:
        is_file = row.kind in ("file", "longtext")
        try:
            contents[row.name] = _digest_of_input(directory, row.name) if is_file else row.text
        except OSError:
            contents[row.name] = ""
    return contents


def _digest_of_input(directory: JobDirectory, name: str) -> str:
    return hashlib.sha256((directory.inputs / name).read_bytes()).hexdigest()


def _token_for_contents(token: str, application: str, values: Mapping[str, Value], address: Address) -> str:
    text = json.dumps([token, application, _contents(values), address.owner], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
