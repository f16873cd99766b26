"""What holds after every run, whoever was killed and where: the promises, checked from outside.

How often the program started is the witness file's word, what was mailed is the transport's, and what the database
knows is compared with what can be told from the job directories alone.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from sqlalchemy import select

from portal.app import site_facts
from portal.applications.catalog import Catalog
from portal.clock import SystemClock
from portal.database import Database
from portal.dispatch import adoption
from portal.dispatch.adoption import Adoption
from portal.dispatch.publication import markers_are_right
from portal.dispatch.records import read_record
from portal.jobs.keys import Keys
from portal.jobs.models import Attempt, Job, JobInput, JobResult, MailOutbox
from portal.jobs.service import JobService
from portal.jobs.states import JobState
from portal.node import status_file
from portal.schedulers.local_tables import EndedJob, QueuedJob, RunningJob
from portal.settings import Settings
from tests.crash.files import APPLICATION, EMPTY_DATABASE, SEQUENCE
from tests.crash.run import CrashRun
from tests.portal_parts import make_service

_DOMAIN = "127.0.0.1"
NODE_SIDE = ("client", "wrapper")
"""Whose death ends the program: then, and only then, the application's policy opens a second attempt."""


_ONE_AT_A_TIME = Lock()


def check(run: CrashRun) -> None:
    """AssertionError that says which promise was broken."""
    with _ONE_AT_A_TIME, _database(run.folder / "portal.db") as database:
        with database.reading() as session:
            jobs = list(session.scalars(select(Job)))
            attempts = list(session.scalars(select(Attempt).order_by(Attempt.number)))
            mails = list(session.scalars(select(MailOutbox)))
        assert [job.state for job in jobs] == [JobState.SUCCEEDED], "one job, and it succeeded"
        _check_visitor(run, jobs[0])
        _check_starts(run, jobs[0], attempts)
        _check_mail(run, jobs[0], mails)
        _check_directory(run, jobs[0], attempts)
        _check_queue(database, attempts)
        _check_sweeping(run, database, jobs[0])
        assert _knowledge(database) == _told_by_directories(run), "the directory says what the database says"


def _was_killed(run: CrashRun, *roles: str) -> bool:
    return run.order is not None and run.order.step.role in roles


def _check_visitor(run: CrashRun, job: Job) -> None:
    """Whatever the visitor was told, and however often the form was sent, it was this one job."""
    assert set(run.told) == {job.job_id}, f"the visitor was told {run.told}"


def _check_starts(run: CrashRun, job: Job, attempts: list[Attempt]) -> None:
    """No attempt starts its program twice. A second attempt is for those alone whose program was taken away."""
    folder = run.jobs_folder.job(job.job_id)
    starts = run.witness.starts()
    names = {str(folder.attempt(attempt.number).work): attempt for attempt in attempts}
    assert set(starts) <= set(names), f"started elsewhere: {starts}"
    assert all(count == 1 for count in starts.values()), f"an attempt started its program twice: {starts}"
    assert starts[str(folder.attempt(job.attempt_number).work)] == 1, "the attempt that counts has started"
    most = 2 if _was_killed(run, *NODE_SIDE) else 1
    assert len(attempts) <= most, f"{len(attempts)} attempts"
    for attempt in attempts[:-1]:
        assert attempt.state is JobState.FAILED
        status = _status(folder.attempt(attempt.number).work)
        assert status is None or not status.succeeded, "what had succeeded was run again"


def _check_mail(run: CrashRun, job: Job, mails: list[MailOutbox]) -> None:
    """One outcome, one mail; a repeat, which SMTP cannot exclude, has the same Message-ID."""
    assert [(mail.outcome, mail.attempt_number) for mail in mails] == [("succeeded", job.attempt_number)]
    assert mails[0].sent_at is not None
    handed_over = run.handed_over()
    assert set(handed_over) == {mails[0].message_id}, f"handed over: {handed_over}"
    assert len(handed_over) <= (2 if _was_killed(run, "dispatcher") else 1)
    assert len([file for file in (run.folder / "mail").iterdir() if file.suffix == ".eml"]) == 1
    noted = run.jobs_folder.job(job.job_id).attempt(job.attempt_number).mail_sent.read_text().splitlines()
    assert [line.split()[1] for line in noted] == [mails[0].message_id]


def _check_directory(run: CrashRun, job: Job, attempts: list[Attempt]) -> None:
    """Everything that section 4 of the design lists, right and in its place."""
    folder = run.jobs_folder.job(job.job_id)
    assert markers_are_right(folder, job.attempt_number, succeeded=True)
    assert (folder.path / "output.txt").read_text() == "The answer is: 4\n"
    assert (folder.inputs / "sequence").read_bytes().splitlines() == SEQUENCE.encode().splitlines()
    link = run.jobs_folder.root / f"user-{job.owner}" / f"job-{job.job_id}"
    assert str(link.readlink()) == f"../job-{job.job_id}"
    last = folder.attempt(job.attempt_number)
    markers = [name for name in ("SUCCESS", "ERROR") if (last.work / name).exists()]
    # The status file decides: a wrapper that was killed behind it wrote no marker, which is not needed.
    assert markers == ["SUCCESS"] or (not markers and _was_killed(run, "wrapper", "client"))
    status = _status(last.work)
    assert status is not None
    assert (status.phase, status.succeeded, status.attempt) == ("ended", True, job.attempt_number)
    for attempt in attempts:
        files = folder.attempt(attempt.number)
        for record in (files.submission, files.verdict):
            assert read_record(record) is not None, f"{record} cannot be read"
        for file in (files.config, files.job_script, files.program_script):
            assert file.stat().st_size > 0


def _check_queue(database: Database, attempts: list[Attempt]) -> None:
    """Nothing waits or runs any more, and each attempt was in the queue once."""
    with database.reading() as session:
        assert not list(session.scalars(select(QueuedJob)))
        assert not list(session.scalars(select(RunningJob)))
        names = sorted(session.scalars(select(EndedJob.name)))
    assert names == sorted(attempt.scheduler_name for attempt in attempts), "each attempt was in the queue once"


def _check_sweeping(run: CrashRun, database: Database, job: Job) -> None:
    """What is not a job is removed when its time has come, and nothing else is."""
    before = adoption.SWEEP_SECONDS
    adopts = _adoption(run, database)
    adoption.SWEEP_SECONDS = 0.0
    try:
        report = adopts.adopt_orphans(0)
    finally:
        adoption.SWEEP_SECONDS = before
    assert report.adopted == 0
    assert report.unreadable == 0
    assert list(run.jobs_folder.job_ids()) == [job.job_id]
    links = [link.name for link in (run.jobs_folder.root / f"user-{job.owner}").iterdir()]
    assert f"job-{job.job_id}" in links


def _told_by_directories(run: CrashRun) -> dict[str, Any]:
    """What `portal reindex` makes of an empty database."""
    file = run.folder / "reindexed.db"
    shutil.copyfile(run.shared / EMPTY_DATABASE, file)
    with _database(file) as database:
        report = _adoption(run, database).adopt_orphans(0)
        assert report.adopted == 1
        return _knowledge(database)


def _knowledge(database: Database) -> dict[str, Any]:
    """All that must not be lost with the database."""
    with database.reading() as session:
        return {
            "jobs": [
                (row.job_id, row.owner, row.email, row.token, row.session_id, row.state, row.attempt_number)
                for row in session.scalars(select(Job))
            ],
            "attempts": [
                (row.number, row.state, row.failure_reason, row.scheduler_name, row.scheduler_id, row.exit_code)
                for row in session.scalars(select(Attempt).order_by(Attempt.number))
            ],
            "inputs": [(row.name, row.text) for row in session.scalars(select(JobInput).order_by(JobInput.position))],
            "results": [(row.attempt_number, row.answer) for row in session.scalars(select(JobResult))],
            "mails": [(row.outcome, row.message_id, row.recipient) for row in session.scalars(select(MailOutbox))],
        }


def _adoption(run: CrashRun, database: Database) -> Adoption:
    return Adoption(database, run.jobs_folder, _service(run, database), SystemClock(), _DOMAIN)


def _service(run: CrashRun, database: Database) -> JobService:
    catalog = _catalog(run.shared)
    return make_service(database, run.jobs_folder, catalog, Keys(b"s" * 32), SystemClock(), "http://127.0.0.1:8080")


@cache
def _catalog(shared: Path) -> Catalog:
    catalog = Catalog.load(shared / "templates", site_facts(Settings()))
    assert catalog.get(APPLICATION)
    return catalog


@contextmanager
def _database(file: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{file}")
    try:
        yield database
    finally:
        database.close()


def _status(work: Path) -> status_file.StatusFile | None:
    file = work / status_file.FILE_NAME
    return status_file.parse(file.read_bytes()) if file.exists() else None
