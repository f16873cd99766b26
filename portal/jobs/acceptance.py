"""Accepting a job: what a form, the API or the command sent in becomes a directory and a row, once.

Accepting is a fixed order of durable steps: `mkdir`, the input files, `config.ini` (the commit point on disk), the
link in the owner's folder, and one database commit. A crash between any two of them loses nothing: without
`config.ini` nobody was told that there is a job, and with it the dispatcher adopts the directory.
"""

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
from portal.errors import ConflictError, InvalidInputError, StorageError
from portal.jobs.address import Address, parse_address
from portal.jobs.contents import contents_of_record, contents_of_values, token_for_contents
from portal.jobs.directory import (
    FILE_MODE,
    PORTAL_FOLDER_MODE,
    JobDirectory,
    JobsFolder,
    make_folder,
    storage_error,
)
from portal.jobs.job_config import JobConfig, write_job_config
from portal.jobs.limits import check_limits
from portal.jobs.rows import insert_job
from portal.jobs.store import find_by_token, load_record
from portal.jobs.view import results_url
from portal.node.durable import write_durably
from portal.people.sessions import keep_session
from portal.settings import LimitsSection

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
    is_limited: bool = True
    """False for the administrator's own command, which no limit holds up."""
    token_is_strict: bool = False
    """The token is an idempotency key: with other contents it is refused, where a form's makes another job."""


@dataclass(frozen=True)
class Accepted:
    """A job that cannot be lost any more."""

    job_id: str
    repeated: bool
    """True where this submission had been accepted before: nothing new was made."""


class Acceptance:
    """Takes submissions in."""

    def __init__(
        self,
        database: Database,
        folder: JobsFolder,
        catalog: Catalog,
        clock: Clock,
        limits: LimitsSection,
        base_url: str,
    ) -> None:
        self._database = database
        self._folder = folder
        self._catalog = catalog
        self._clock = clock
        self._limits = limits
        self._base_url = base_url

    def submit(self, submission: Submission) -> Accepted:
        """Accept a job, or find that it had been accepted before.

        Raises NotFoundError for an unknown application, InvalidInputError where a field is wrong, ConflictError
        where an idempotency key was used for something else, TooManyRequestsError where a limit is reached, and
        StorageError where disk or database refuse. After an error nothing half-made is left, except where it is
        unknown whether the database has the job: then the directory stays, and the same form sent again leads to
        one job.
        """
        application = self._catalog.get(submission.application)
        values, address = _check(application, submission)
        if submission.session_id is not None:
            # Before the job: whatever crashes from here on, who sent it in can see it.
            keep_session(self._database, submission.session_id, self._clock.now_utc())
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
                token = token_for_contents(submission.token, application.name, values, address)
                continue
            if submission.is_limited:
                self._check_limits(address)
            try:
                return Accepted(self._accept(application, submission, values, address, token), repeated=False)
            except IntegrityError:
                continue  # a twin of this submission was faster: look at its job
        raise StorageError("Your job could not be taken in just now. Please try again.", log_detail="token race")

    def _check_limits(self, address: Address) -> None:
        with self._database.reading() as session:
            check_limits(session, address.owner, self._limits, self._clock.now_utc())

    def _accepted_before(
        self, token: str, application: str, values: Mapping[str, Value], address: Address
    ) -> Accepted | None:
        """None where the token is new; else its job, `repeated` where the contents are the same as well."""
        with self._database.reading() as session:
            job = find_by_token(session, token)
            record = load_record(session, job.job_id) if job else None
        if record is None:
            return None
        same = (
            record.job.application == application
            and record.job.owner == address.owner
            and contents_of_record(record, self._folder) == contents_of_values(values)
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
        directory = self._folder.claim_new_job()
        config = JobConfig(
            job_id=directory.job_id,
            email=address.email,
            owner=address.owner,
            results_url=results_url(self._base_url, directory.job_id),
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
            self._folder.link_for_owner(config.owner, config.job_id)
        except OSError as error:
            raise storage_error(directory.path, error) from error

    def _commit(self, directory: JobDirectory, config: JobConfig, application: Application) -> None:
        """The row. Raises IntegrityError where a twin has the token, StorageError where the database fails."""
        is_committing = False
        try:
            instance = self._folder.instance()
            with self._database.writing() as session:
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
        with self._database.reading() as session:
            return load_record(session, job_id) is not None

    def _certainly_has_no_row(self, job_id: str) -> bool:
        """After a commit that failed: False where it may have gone through, or may still."""
        if not self._database.is_sqlite:
            return False
        try:
            # SQLite lets one writer in at a time, so that no commit of ours can still be under way in here.
            with self._database.writing() as session:
                return load_record(session, job_id) is None
        except StorageError:
            return False

    def _discard(self, directory: JobDirectory, owner: str) -> None:
        try:
            self._folder.discard(directory, owner)
        except OSError as error:
            # Without config.ini it is swept after a day; with it, its token decides.
            log.warning("a refused submission could not be removed", path=str(directory.path), error=str(error))


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
