"""A portal without processes: real files, a real SQLite database, a scripted scheduler, and time by hand.

`Portal.turn()` is one turn of the dispatcher; `Portal.crash()` puts another dispatcher in its place, as after a
`kill -9`. The node is played by `start_program` and `end_program`, which write what the wrapper writes.
"""

import functools
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

from sqlalchemy import event, select

from portal.app import site_facts
from portal.applications.catalog import Catalog
from portal.applications.definition import Application
from portal.clock import Clock, utc_text
from portal.database import Database
from portal.dispatch.adoption import Adoption
from portal.dispatch.context import Dispatch
from portal.dispatch.dispatcher import Dispatcher
from portal.dispatch.leadership import Leadership
from portal.errors import NotFoundError
from portal.jobs.acceptance import Acceptance, Submission
from portal.jobs.access import Viewer
from portal.jobs.directory import AttemptDirectory, JobDirectory, JobsFolder
from portal.jobs.keys import Keys
from portal.jobs.models import Attempt, Job, JobEvent, MailOutbox
from portal.jobs.node_files import NodeFiles, install_node_files
from portal.jobs.resubmission import Changes, Resubmission
from portal.jobs.service import JobService
from portal.jobs.states import JobState
from portal.jobs.store import JobRecord, read_health
from portal.mail.outbox import OutboxSender, mail_domain
from portal.node import claim as claims
from portal.node import heartbeat, status_file
from portal.node.claim import Claim
from portal.node.status_file import StatusFile
from portal.schedulers.base import SchedulerState
from portal.settings import LimitsSection, MailSection, PortalSection, SchedulerSection, Settings
from portal.shipped import shipped_dir
from portal.transfer.folders import SharedFolders
from tests.empty_database import put_empty_database
from tests.fake_clock import FakeClock
from tests.mail_bench import KeptMail
from tests.scripted_scheduler import ScriptedScheduler
from tests.status_files import STARTED

GRACE_SECONDS = 60.0
ANN = "ann@example.org"
ADMINISTRATOR = Viewer(is_administrator=True)

_DEFINITION = """
title = "{name}"
[[parameters]]
name = "x"
type = "text"
label = "X"
required = false
allow_leading_dash = true
[[parameters]]
name = "sequence"
type = "longtext"
label = "Sequence"
required = false
[[parameters]]
name = "query"
type = "file"
label = "Query"
required = false
[[outputs]]
path = "hits.tsv"
title = "Hits"
[policy]
{policy}
"""


@functools.cache
def templates_dir() -> Path:
    """`slow_div` as it comes with the portal, and tiny applications whose policies differ; made once."""
    folder = Path(_scratch().name) / "templates"
    folder.mkdir()
    (folder / "slow_div").symlink_to(shipped_dir("job_templates") / "slow_div")
    policies = {"held": 'on_node_failure = "hold"', "strict": 'out_of_memory = "fail"', "any_inputs": ""}
    for name, policy in policies.items():
        (folder / name).mkdir()
        (folder / name / "application.toml").write_text(_DEFINITION.format(name=name, policy=policy))
        (folder / name / "program.sh.j2").write_text('printf "%s\\n" "$input_x"\n')
    return folder


@functools.cache
def _scratch() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="portal-parts-")


class Shelf:
    """A catalog from which applications can be taken away for a while."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self.missing: set[str] = set()

    def get(self, name: str) -> Application:
        if name in self.missing:
            raise NotFoundError(f"There is no application called “{name}”.")
        return self._catalog.get(name)


@functools.cache
def _catalog() -> Catalog:
    catalog = Catalog.load(templates_dir(), site_facts(Settings()))
    assert not catalog.broken, catalog.broken
    return catalog


@dataclass
class Portal:
    """The parts of one portal whose data lie in `folder`."""

    folder_path: Path
    settings: Settings
    clock: FakeClock = field(default_factory=FakeClock)
    scheduler: ScriptedScheduler = field(default_factory=ScriptedScheduler)
    mail: KeptMail = field(default_factory=KeptMail)
    shelf: Shelf = field(default_factory=lambda: Shelf(_catalog()))

    def __post_init__(self) -> None:
        self.keys = Keys(b"s" * 32)
        self.folder = JobsFolder(self.settings.portal.jobs_dir)
        self.folder.prepare()
        self.node_files: NodeFiles = install_node_files(self.folder.root, [shipped_dir("bin")])
        self.open_database()
        self.take_over()

    # Processes

    def open_database(self) -> None:
        """The database in its file; an empty one where there is none."""
        self.database_file = self.folder_path / "portal.db"
        if not self.database_file.exists():
            put_empty_database(self.database_file)
        self.database = _database(self.settings.portal.database_url)
        catalog: Any = self.shelf
        base_url = self.settings.portal.base_url
        self.jobs = make_service(self.database, self.folder, catalog, self.keys, self.clock, base_url)
        self.resubmission = Resubmission(self.jobs, self.clock, self.settings)
        self.resubmission.can_exclude_nodes = self.scheduler.capabilities.can_exclude_nodes

    def take_over(self) -> None:
        """A dispatcher begins."""
        self.dispatch = self.new_dispatch()
        assert self.dispatch.leadership.take(threading.Event())
        self.sender = OutboxSender(
            self.settings,
            self.database,
            self.folder,
            self.keys,
            self.clock,
            self.mail,
            lambda name: self.shelf.get(name).title,
            guard=self.dispatch.leadership.check,
        )
        self.adoption = Adoption(self.database, self.folder, self.jobs, self.clock, mail_domain(self.settings))
        self.dispatcher = Dispatcher(self.dispatch, self.adoption, self.sender)

    def new_dispatch(self) -> Dispatch:
        """The parts of another dispatcher over the same data, which has not taken over."""
        catalog: Any = self.shelf
        return Dispatch(
            settings=self.settings,
            clock=self.clock,
            database=self.database,
            folder=self.folder,
            catalog=catalog,
            keys=self.keys,
            jobs=self.jobs,
            leadership=Leadership(self.database, self.clock),
            scheduler=self.scheduler,
            nodes=SharedFolders(self.folder, self.node_files),
            site=site_facts(self.settings),
        )

    def crash(self) -> None:
        """The dispatcher is gone with all that it remembered, and another one begins."""
        self.dispatch.leadership.release()
        self.take_over()

    def lose_database(self) -> None:
        """The database is gone; an empty one is in its place, and another dispatcher begins."""
        self.close()
        for file in self.folder_path.glob("portal.db*"):
            file.unlink()
        self.open_database()
        self.take_over()

    def close(self) -> None:
        """Let go of files; harmless when called twice."""
        self.dispatch.leadership.release()
        self.database.close()

    def turn(self, seconds: float = 2.0, times: int = 1) -> None:
        """Let `seconds` go by and the dispatcher take a turn, as often as asked for."""
        for _ in range(times):
            self.clock.advance(seconds)
            self.dispatcher.turn()

    def turn_past_grace(self) -> None:
        """Two turns: in the first the grace period begins, in the second it is over."""
        self.turn()
        self.turn(GRACE_SECONDS + 1)

    # Jobs

    def submit(self, owner: str = ANN, application: str = "slow_div", **inputs: object) -> str:
        """A job that has been accepted; its id."""
        if application == "slow_div":
            inputs = {"x": "8", "y": "2", **inputs}
        return self.jobs.submit(Submission(application, inputs, owner)).job_id

    def queued(self, **more: Any) -> str:
        """A job that is in the scheduler; its id."""
        job_id = self.submit(**more)
        self.turn()
        assert self.state(job_id) is JobState.QUEUED
        return job_id

    def running(self, **more: Any) -> str:
        """A job whose program has started on node1; its id."""
        job_id = self.queued(**more)
        self.start_program(job_id)
        self.see(job_id, SchedulerState.RUNNING, node="node1")
        self.turn()
        assert self.state(job_id) is JobState.RUNNING
        return job_id

    def record(self, job_id: str) -> JobRecord:
        return self.jobs.record(job_id)

    def job(self, job_id: str) -> Job:
        return self.record(job_id).job

    def state(self, job_id: str) -> JobState:
        return self.job(job_id).state

    def attempt(self, job_id: str) -> Attempt:
        """The attempt that counts."""
        return self.record(job_id).attempt

    def name(self, job_id: str) -> str:
        """The scheduler's name for the attempt that counts."""
        return self.attempt(job_id).scheduler_name

    def changes(self, job_id: str) -> list[tuple[str | None, str, str, str]]:
        """The history: from, to, source, by."""
        return [_change(event) for event in self.record(job_id).events]

    def mails(self, job_id: str) -> list[str]:
        """The outcomes that are or were owed, in order."""
        with self.database.reading() as session:
            query = select(MailOutbox.outcome).where(MailOutbox.job_id == job_id).order_by(MailOutbox.mail_id)
            return list(session.scalars(query))

    def job_count(self) -> int:
        with self.database.reading() as session:
            return len(session.scalars(select(Job.job_id)).all())

    def health(self) -> Any:
        with self.database.reading() as session:
            return read_health(session)

    def ask_cancel(self, job_id: str, by: str = ANN) -> None:
        """Somebody who may do so wishes the job cancelled."""
        self.jobs._store_cancel_wish(job_id, by)

    def resubmit(self, job_id: str, *, unfinished: bool = False, **changed: Any) -> bool:
        """An administrator asks that the job run again; False where it had been asked for."""
        return self.resubmission.ask(ADMINISTRATOR, job_id, Changes(**changed), unfinished=unfinished)

    # Files

    def directory(self, job_id: str) -> JobDirectory:
        return self.folder.job(job_id)

    def files(self, job_id: str, number: int | None = None) -> AttemptDirectory:
        """An attempt's files; of the one that counts, unless another is named."""
        return self.directory(job_id).attempt(number or self.job(job_id).attempt_number)

    def make_old(self, job_id: str, seconds: float) -> None:
        """Let the job's folder and its `config.ini` be of so long ago, by the portal's clock."""
        moment = self.clock.now_utc().timestamp() - seconds
        directory = self.directory(job_id)
        for path in (directory.config, directory.path):
            if path.exists():
                os.utime(path, (moment, moment))

    def markers(self, job_id: str) -> list[str]:
        return [name for name in ("SUCCESS", "ERROR") if os.path.lexists(self.directory(job_id).path / name)]

    def job_folders(self) -> list[str]:
        """Everything in the jobs folder that is not the portal's own."""
        return sorted(path.name for path in self.folder.root.iterdir() if path.name not in (".instance", ".node"))

    # The node and the scheduler

    def see(self, job_id: str, state: SchedulerState, raw_state: str = "", **facts: object) -> None:
        """What the scheduler says of the attempt that counts, from now on."""
        self.scheduler.see(self.name(job_id), state, raw_state, **facts)

    def start_program(self, job_id: str, number: int | None = None, scheduler_id: str | None = None) -> bool:
        """The wrapper takes the claim and says that the program starts; False where the claim was taken."""
        attempt = self._attempt(job_id, number)
        claim = Claim(
            "wrapper",
            scheduler_id or attempt.scheduler_id or "17",
            attempt.scheduler_name,
            "host1",
            4711,
            utc_text(self.clock.now_utc()),
        )
        if not claims.take(str(self.files(job_id, attempt.number).work), claim):
            return False
        self.write_status(job_id, self.status(job_id, number))
        return True

    def end_program(
        self, job_id: str, exit_code: int = 0, *, number: int | None = None, output: str = "", sigterm: bool = False
    ) -> None:
        """The program has ended, and the wrapper says how."""
        work = self.files(job_id, number).work
        (work / "output.txt").write_text(output)
        (work / "err_output.txt").write_text("")
        self.write_status(job_id, self.ended_status(job_id, exit_code, number=number, sigterm=sigterm))

    def beat(self, job_id: str, number: int | None = None) -> None:
        """The wrapper's heart beats once more."""
        file = self.files(job_id, number).work / heartbeat.FILE_NAME
        file.write_text(f"{int(file.read_text()) + 1 if file.exists() else 1}\n")

    def status(self, job_id: str, number: int | None = None) -> StatusFile:
        """A status file of a start."""
        attempt = self._attempt(job_id, number)
        return STARTED._replace(
            job_id=job_id,
            attempt=attempt.number,
            scheduler_id=attempt.scheduler_id or "17",
            host="host1",
            started_at=utc_text(self.clock.now_utc()),
        )

    def ended_status(
        self, job_id: str, exit_code: int = 0, *, number: int | None = None, sigterm: bool = False
    ) -> StatusFile:
        """A status file of an end."""
        return self.status(job_id, number)._replace(
            phase="ended",
            ended_at=utc_text(self.clock.now_utc()),
            exit_code=exit_code,
            wall_seconds=3.0,
            peak_memory_mib=12.5,
            got_sigterm=sigterm,
            succeeded=exit_code == 0,
            failure=f"the program ended with exit code {exit_code}" if exit_code else None,
        )

    def write_status(self, job_id: str, status: StatusFile) -> None:
        """Put a status file where the wrapper of its attempt puts it."""
        (self.files(job_id, status.attempt).work / status_file.FILE_NAME).write_bytes(status_file.encode(status))

    def _attempt(self, job_id: str, number: int | None) -> Attempt:
        record = self.record(job_id)
        return next(one for one in record.attempts if one.number == (number or record.job.attempt_number))


@functools.cache
def _database(url: str) -> Database:
    """One object for all portals that lie at the same place, one after the other: it knows its statements then."""
    database = Database(url)
    event.listen(database.engine, "connect", _leave_out_syncing)
    return database


def _leave_out_syncing(connection: Any, _entry: object) -> None:
    connection.execute("PRAGMA synchronous = OFF")


@contextmanager
def opened_portal(**options: Any) -> Iterator[Portal]:
    """A portal as `make_portal` makes it, in an empty folder, closed at the end.

    Nothing here cuts the power, so that fsync is left out.
    """
    folder = Path(_scratch().name) / "portal"
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    with mock.patch("os.fsync", return_value=None):
        portal = make_portal(folder, **options)
        try:
            yield portal
        finally:
            portal.close()


def make_portal(
    folder: Path,
    *,
    limits: Mapping[str, Any] | None = None,
    mail: Mapping[str, Any] | None = None,
    lost_call_seconds: float = 30,
    has_accounting: bool = True,
) -> Portal:
    """A portal with a dispatcher that has taken over, and nothing in it."""
    settings = Settings(
        portal=PortalSection(
            base_url="https://portal.example.org",
            jobs_dir=folder / "jobs",
            database_url=f"sqlite:///{folder}/portal.db",
            templates_dir=templates_dir(),
        ),
        scheduler=SchedulerSection(grace_seconds=GRACE_SECONDS, poll_seconds=1),
        mail=MailSection(folder=folder / "mail", **(mail or {})),
        limits=LimitsSection(**(limits or {})),
    )
    portal = Portal(folder, settings)
    portal.scheduler.capabilities = replace(
        portal.scheduler.capabilities, lost_call_seconds=lost_call_seconds, has_accounting=has_accounting
    )
    return portal


def _change(event: JobEvent) -> tuple[str | None, str, str, str]:
    return (event.from_state.value if event.from_state else None, event.to_state.value, event.source, event.by)


def make_service(
    database: Database,
    folder: JobsFolder,
    catalog: Any,
    keys: Keys,
    clock: Clock,
    base_url: str,
    limits: LimitsSection | None = None,
) -> JobService:
    """The services, with the limits of the settings' defaults unless others are given."""
    acceptance = Acceptance(database, folder, catalog, clock, limits or LimitsSection(), base_url)
    return JobService(acceptance, database, folder, catalog, keys, clock, base_url)
