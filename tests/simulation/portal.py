"""The portal in this world: its web process, its dispatchers and its senders of mail, wired as `portal.app` wires them.

The database is a real SQLite file in memory; every commit is a step at which a process can die, or lose the answer.
"""

import errno
import functools
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from sqlalchemy import event

from portal import app
from portal.app import Cluster as Wiring
from portal.app import Parts, site_facts
from portal.applications.catalog import Catalog
from portal.database import Database
from portal.dispatch.dispatcher import Dispatcher
from portal.errors import PortalError, StaleEpochError
from portal.jobs.acceptance import Submission
from portal.jobs.directory import JobsFolder
from portal.jobs.keys import Keys
from portal.jobs.node_files import NodeFiles
from portal.jobs.resubmission import Resubmission
from portal.people.sign_in import People
from portal.settings import LimitsSection, MailSection, PortalSection, SchedulerSection, Settings
from portal.transfer.folders import NodeFolders, SharedFolders
from tests.empty_database import put_empty_database
from tests.portal_parts import make_service
from tests.simulation.cluster import Cluster
from tests.simulation.disk import Disk, LaggingFolders
from tests.simulation.mail import MailServer
from tests.simulation.scheduler import SimulatedScheduler
from tests.simulation.world import Killed, Process, World

GRACE_SECONDS = 30.0
TURN_SECONDS = 5.0
MAIL_SECONDS = 3.0
RESTART_SECONDS = (1.0, 15.0)
MAX_ATTEMPTS = 3

APPLICATIONS = {
    "resubmits": f'on_node_failure = "resubmit"\nmax_attempts = {MAX_ATTEMPTS}',
    "holds": f'on_node_failure = "hold"\nmax_attempts = {MAX_ATTEMPTS}',
    "strict": f'on_node_failure = "resubmit"\nmax_attempts = {MAX_ATTEMPTS}\nout_of_memory = "fail"',
}
_DEFINITION = """
title = "{name}"
[[parameters]]
name = "x"
type = "text"
label = "X"
[answer]
file = "output.txt"
pattern = 'The answer is: (\\d+)'
[policy]
{policy}
"""


class Machine:
    """What one process of this simulation keeps from history to history: a folder in memory, settings, a catalog."""

    def __init__(self) -> None:
        memory = Path("/dev/shm")
        self._scratch = tempfile.TemporaryDirectory(
            prefix="portal-simulation-", dir=memory if memory.is_dir() else None
        )
        self.root = Path(self._scratch.name)
        templates = self.root / "templates"
        for name, policy in APPLICATIONS.items():
            (templates / name).mkdir(parents=True)
            (templates / name / "application.toml").write_text(_DEFINITION.format(name=name, policy=policy))
            (templates / name / "program.sh.j2").write_text('printf "%s\\n" "$input_x"\n')
        self.settings = {sent_by: self._settings(sent_by) for sent_by in ("portal", "node")}
        with mock.patch("portal.applications.lint.shellcheck", return_value=[]):
            self.catalog = Catalog.load(templates, site_facts(self.settings["portal"]))
        assert not self.catalog.broken, self.catalog.broken
        self.database = Database(self.settings["portal"].portal.database_url)
        self._hook: CommitHook | None = None
        self._watch_commits()

    def _settings(self, sent_by: Any) -> Settings:
        return Settings(
            portal=PortalSection(
                base_url="https://portal.example.org",
                jobs_dir=self.root / "jobs",
                database_url=f"sqlite:///{self.root}/portal.db",
                templates_dir=self.root / "templates",
            ),
            scheduler=SchedulerSection(grace_seconds=GRACE_SECONDS, poll_seconds=TURN_SECONDS),
            mail=MailSection(folder=self.root / "mail", sent_by=sent_by),
            limits=LimitsSection(mails_per_hour_per_person=1000),
        )

    def new_database(self) -> Database:
        """The database with nothing in it; what an earlier history left is gone."""
        self.database.close()
        for suffix in ("-wal", "-shm"):
            (self.root / f"portal.db{suffix}").unlink(missing_ok=True)
        put_empty_database(self.root / "portal.db")
        return self.database

    @contextmanager
    def committing(self, hook: "CommitHook") -> Iterator[None]:
        """As long as this lasts, `hook` is asked about each commit."""
        self._hook = hook
        try:
            yield
        finally:
            self._hook = None
            self.database.close()

    def _watch_commits(self) -> None:
        engine = self.database.engine
        really_commit = engine.dialect.do_commit

        def commit(connection: Any) -> None:
            if self._hook is None:
                really_commit(connection)
            else:
                self._hook(lambda: really_commit(connection))

        setattr(engine.dialect, "do_commit", commit)  # noqa: B010  # a method, which mypy keeps
        event.listen(
            engine,
            "connect",
            # Nothing here cuts the power.
            lambda connection, _entry: connection.execute("PRAGMA synchronous = OFF") and None,
        )


CommitHook = Callable[[Callable[[], None]], None]


@functools.cache
def machine() -> Machine:
    """This process's own."""
    return Machine()


class SimulatedPortal:
    """All processes of the portal, whichever of them are alive."""

    def __init__(self, world: World, cluster: Cluster, disk: Disk, mail: MailServer, sent_by: str) -> None:
        self._world = world
        self._cluster = cluster
        self._disk = disk
        self._mail = mail
        here = machine()
        self.settings = here.settings[sent_by]
        self.database = here.new_database()
        self.folder = JobsFolder(disk.portal_root)
        keys = Keys(b"s" * 32)
        base_url = self.settings.portal.base_url
        service = make_service(self.database, self.folder, here.catalog, keys, world, base_url, self.settings.limits)
        resubmission = Resubmission(service, world, self.settings)
        people = People(self.database, world)
        self.parts = Parts(
            self.settings, world, self.database, self.folder, here.catalog, keys, service, resubmission, people
        )
        self.accepted: set[str] = set()
        """Jobs of which a visitor has seen the id."""
        self._numbers = 0
        self.turn_seconds = TURN_SECONDS
        self.looks_again = False
        """Turns are taken although there seems to be nothing to do."""
        self.dispatchers: list[tuple[Process, Dispatcher]] = []
        world.when_paused = self._stand_still
        self._asking = sqlite3.connect(here.root / "portal.db", isolation_level=None)

    def close(self) -> None:
        """Let go of all that is open."""
        for _, dispatcher in self.dispatchers:
            dispatcher._dispatch.leadership.release()
        self._asking.close()

    # Commits

    def commit(self, really: Callable[[], None]) -> None:
        """A commit, as the machine does it; see `Machine.committing`."""
        world = self._world
        if world.process is None:
            really()
            return
        world.before_step("commit", may_pause=False)
        if self._disk.refusal is not None and self._disk.database_refuses_too:
            raise sqlite3.OperationalError("database or disk is full")
        if world.faults.strikes("commit failed"):
            world.say(f"a commit of {world.process.name} fails")
            raise sqlite3.OperationalError("disk I/O error")
        really()
        world.after_step("commit")
        if world.faults.strikes("commit done, reply lost"):
            world.say(f"a commit of {world.process.name} is done, and it does not know")
            raise sqlite3.OperationalError("disk I/O error")

    # What is to be done

    def _any(self, query: str) -> bool:
        """Whether the database has such a row, asked past the portal, which is slower."""
        return self._asking.execute(f"SELECT 1 {query} LIMIT 1").fetchone() is not None

    def is_at_rest(self) -> bool:
        """No job is to be brought forward, corrected or taken up."""
        return not self._any(f"FROM jobs WHERE {_OPEN} OR {_CORRECTABLE}") and not self.has_orphans(with_config=False)

    def has_open_jobs(self) -> bool:
        return self._any(f"FROM jobs WHERE {_OPEN}")

    def has_orphans(self, *, with_config: bool = True) -> bool:
        """Whether there is a directory without a row; one that is no job yet only counts if asked for."""
        known = {row[0] for row in self._asking.execute("SELECT job_id FROM jobs")}
        orphans = set(self.folder.job_ids()) - known
        return any(self.folder.job(job_id).config.exists() or not with_config for job_id in orphans)

    def owes_mail(self) -> bool:
        return self._any("FROM mail_outbox WHERE sent_at IS NULL AND refused_at IS NULL")

    # Dispatchers

    def start_dispatcher(self) -> None:
        """One more dispatcher process; it waits while another has the lock."""
        world = self._world
        self._numbers += 1
        process = Process(f"dispatcher {self._numbers}")
        if world.faults.strikes("dispatcher killed"):
            process.dies_at = world.luck("dispatcher killed").randint(1, 150)
            process.dies_after_step = world.luck("dispatcher killed").random() < 0.5
        if world.faults.strikes("dispatcher stands still"):
            process.pauses_at = world.luck("dispatcher stands still").randint(1, 120)
        self._wait_for_lock(process)

    def _wait_for_lock(self, process: Process) -> None:
        dispatcher = self._build()
        try:
            with self._world.acting(process):
                is_leading = dispatcher._dispatch.leadership.take(_Impatient())
        except Killed:
            self._bury(process, dispatcher)
            return
        except PortalError:
            self._world.after(2.0, "dispatcher", lambda: self._wait_for_lock(process))
            return
        if not is_leading:
            self._world.after(5.0, "dispatcher", lambda: self._wait_for_lock(process))
            return
        self._world.say(f"{process.name} leads")
        self.dispatchers.append((process, dispatcher))
        self._turn(process, dispatcher)
        self._world.after(0.5, "mail", lambda: self._send_mail(process, dispatcher))

    def _build(self) -> Dispatcher:
        node_files = NodeFiles("1", Path("/opt/portal/wrapper.pyz"), Path("/opt/portal/bin"), Path("/opt/submit.pyz"))
        nodes: NodeFolders = SharedFolders(self.folder, node_files)
        if self._disk.lags:
            nodes = LaggingFolders(self._world, self._disk, node_files)
        wiring = Wiring(SimulatedScheduler(self._world, self._cluster), nodes)
        with (
            mock.patch.object(app, "build_cluster", return_value=wiring),
            mock.patch.object(app, "transport_from_settings", return_value=self._mail),
        ):
            return app.build_dispatcher(self.parts)

    def _turn(self, process: Process, dispatcher: Dispatcher) -> None:
        if process.is_dead:
            return
        if not self.looks_again and self.is_at_rest():
            # There is nothing that a turn could do: it is left out, which saves most of a history's time.
            self._world.after(self.turn_seconds, "turn", lambda: self._turn(process, dispatcher))
            return
        process.in_turn, process.stood_still = True, False
        try:
            with self._world.acting(process):
                dispatcher.turn()
        except Killed:
            self._bury(process, dispatcher)
            return
        except StaleEpochError:
            self._world.say(f"{process.name} finds that another has taken over")
            process.is_dead = True
            self._bury(process, dispatcher)
            return
        finally:
            process.in_turn = False
        self._go_on(process, dispatcher)

    def _go_on(self, process: Process, dispatcher: Dispatcher) -> None:
        """After a turn; it may have been killed or stopped meanwhile, in another of its threads."""
        if process.is_dead:
            self._bury(process, dispatcher)
            return
        self._world.after(self.turn_seconds, "turn", lambda: self._turn(process, dispatcher))

    def _send_mail(self, process: Process, dispatcher: Dispatcher) -> None:
        """A round of the sender, which is a thread of the same process."""
        if process.is_dead:
            return
        if not self.owes_mail():
            self._world.after(MAIL_SECONDS, "mail", lambda: self._send_mail(process, dispatcher))
            return
        try:
            with self._world.acting(process):
                dispatcher._sender.send_due()
        except Killed:
            if not process.in_turn:
                self._bury(process, dispatcher)
            return
        except StaleEpochError:
            return
        except PortalError as error:
            self._world.say(f"{process.name}: the outbox: {error.visitor_message}")
        self._world.after(MAIL_SECONDS, "mail", lambda: self._send_mail(process, dispatcher))

    def _bury(self, process: Process, dispatcher: Dispatcher) -> None:
        """The system lets go of what the process held, and the supervisor starts another."""
        if (process, dispatcher) in self.dispatchers:
            self.dispatchers.remove((process, dispatcher))
        dispatcher._dispatch.leadership.release()
        self._world.after(self._world.between("restart", *RESTART_SECONDS), "dispatcher", self.start_dispatcher)

    def _stand_still(self, process: Process) -> None:
        """The machine of this process stands still, at whatever step; somebody else may take over meanwhile."""
        world = self._world
        world.faults.note("process stood still")
        process.stood_still = True
        if world.faults.strikes("dispatcher stands still"):
            process.pauses_at = process.steps + world.luck("dispatcher stands still").randint(1, 60)
        if world.faults.strikes("lock lost"):
            for other, dispatcher in list(self.dispatchers):
                if other is process:
                    dispatcher._dispatch.leadership.release()
            world.after(world.between("take-over", 0.1, 3), "dispatcher", self.start_dispatcher)
        world.advance(world.between("pause", 0.5, 60))

    def stop_in_order(self) -> None:
        """SIGTERM to all dispatchers: each ends after its turn, and is started again."""
        for process, dispatcher in list(self.dispatchers):
            if not process.is_dead:
                self._world.say(f"{process.name} is stopped in order")
                process.is_dead = True
                if not process.in_turn:
                    self._bury(process, dispatcher)

    # Visitors

    def submit(self, submission: Submission) -> str | None:
        """A form arrives; the id that the visitor sees, None where they see an error, or nothing."""
        process = Process("web")
        if self._world.faults.strikes("web process killed"):
            process.dies_at = self._world.luck("web process killed").randint(1, 40)
            process.dies_after_step = self._world.luck("web process killed").random() < 0.5
        try:
            with self._world.acting(process):
                accepted = self.parts.jobs.submit(submission)
        except Killed:
            return None
        except PortalError as error:
            self._world.say(f"web: {submission.token} refused: {error.visitor_message}")
            return None
        self._world.say(f"web: {submission.token} accepted as {accepted.job_id}, repeated {accepted.repeated}")
        self.accepted.add(accepted.job_id)
        return accepted.job_id

    def cancel(self, job_id: str, by: str) -> bool:
        """A visitor presses Cancel; whether the wish was recorded."""
        process = Process("web")
        if self._world.faults.strikes("web process killed"):
            process.dies_at = self._world.luck("web process killed").randint(1, 8)
        try:
            with self._world.acting(process):
                self.parts.jobs._store_cancel_wish(job_id, by)
        except (Killed, PortalError):
            return False
        self._world.say(f"web: cancellation of {job_id} is wished")
        return True


_OPEN = "state NOT IN ('succeeded', 'failed', 'cancelled')"
_CORRECTABLE = "failure_reason IN ('lost', 'node_failure')"


class _Impatient(threading.Event):
    """Whoever waits with it is told to stop."""

    def wait(self, timeout: float | None = None) -> bool:
        return True


REFUSALS = (errno.ENOSPC, errno.EROFS)
