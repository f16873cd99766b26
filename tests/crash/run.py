"""One run of one job through a whole portal of real processes, from the form to the mail, with one of them killed.

The processes are the web server, the dispatcher, a compute client and the wrapper that it starts; whatever dies is
started again, as `portal serve` does it. The program appends a line to a witness file when it starts: what ran, and how
often, is counted there and not in the portal's tables.
"""

import json
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from portal.jobs.directory import JobsFolder
from portal.jobs.job_config import read_job_config
from tests.compute_clients import Witness
from tests.crash.browser import Browser, NoAnswerError
from tests.crash.files import APPLICATION, EMAIL, SEQUENCE, SETTINGS
from tests.crash.hooks import KILLED, STEPS_FOLDER, Order, Step, write_order
from tests.crash.nursery import LOG, Nursery
from tests.crash.roles import MAILS, PORT
from tests.waiting import wait_until

ROLES = ("web", "dispatcher", "client", "wrapper")
LIMIT_SECONDS = 60.0
"""What a run may take; it takes a few seconds."""
_LOOK_SECONDS = 0.05
_QUIET_SECONDS = 3.0
"""How long everything must have been over before a point that was not reached counts as not reached."""


@dataclass
class Process:
    """One process of a run."""

    role: str
    pid: int
    started_utc: float


@dataclass(frozen=True)
class Accepted:
    """What the web server leaves behind when it has answered: all that the other processes begin with."""

    folder: Path
    job_id: str


@dataclass
class CrashRun:
    """A run in a fresh `folder`. `repeats_at_once` says when a visitor without an answer sends the form again."""

    folder: Path
    shared: Path
    nursery: Nursery
    order: Order | None = None
    repeats_at_once: bool = True
    accepted: "Accepted | None" = None
    """Where it begins; None for an empty folder."""
    told: list[str] = field(default_factory=list)
    """The job ids that the visitor was told, in order."""
    was_reached: bool = False
    _processes: dict[str, Process] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.witness = Witness(self.folder / "witness")
        self.jobs_folder = JobsFolder(self.folder / "jobs")
        self.database_file = self.folder / "portal.db"
        self._browser = Browser(APPLICATION)

    def go(self) -> None:
        """From an empty folder to the end of everything. AssertionError, with the log, where that does not come."""
        self.prepare()
        try:
            with self.killing_what_is_left():
                self._run_until_over()
        except AssertionError as error:
            raise AssertionError(f"{self.order}: {error}\n{self.facts()}\n{self.log()[-4000:]}") from None

    def accept_only(self) -> "Accepted":
        """From an empty folder to the visitor's answer; what there is then, for other runs to begin with."""
        self.prepare()
        with self.killing_what_is_left():
            self._accept(time.monotonic() + LIMIT_SECONDS)
        shutil.rmtree(self.folder / STEPS_FOLDER)
        return Accepted(self.folder, self.told[0])

    def prepare(self) -> None:
        """The folder, with its order."""
        if self.accepted is None:
            self.folder.mkdir()
        else:
            shutil.copytree(self.accepted.folder, self.folder, symlinks=True)
            self.told.append(self.accepted.job_id)
        (self.folder / "portal.toml").write_text(SETTINGS.format(folder=self.folder, shared=self.shared))
        self._write_order()

    def _write_order(self) -> None:
        if self.order is not None:
            write_order(self.folder, self.order)

    def _accept(self, deadline: float) -> None:
        self.start("web")
        self._visit(self._wait_for_port(deadline), deadline)

    def _run_until_over(self) -> None:
        if self.accepted is None:
            self._accept(time.monotonic() + LIMIT_SECONDS)
        self.start("dispatcher")
        self.wait_for_the_end()

    def wait_for_the_end(self) -> None:
        """Return when all is over; meanwhile what was killed is started again."""
        deadline = time.monotonic() + LIMIT_SECONDS
        over_since: float | None = None
        while True:
            self._mend()
            self._go_on()
            if not self._is_over():
                over_since = None
            elif self._is_whole():
                return
            elif over_since is None:
                over_since = time.monotonic()
            elif time.monotonic() - over_since > _QUIET_SECONDS and not self._was_killed():
                return
            assert time.monotonic() < deadline, f"waited {LIMIT_SECONDS} s in vain for the end"
            time.sleep(_LOOK_SECONDS)

    # The visitor

    def _visit(self, port: int, deadline: float) -> None:
        while not self._try_form(port):
            port = self._wait_for_port(deadline)
            if self._sent and not self.repeats_at_once:
                return

    _sent = False

    def _try_form(self, port: int) -> bool:
        try:
            self._browser.open_form(port)
            self._sent = True
            self.told.append(self._browser.send_form(port, x="4", sequence=SEQUENCE, email=EMAIL))
        except NoAnswerError:
            return False
        return True

    def _wait_for_port(self, deadline: float) -> int:
        """The port of the web server, which is started again where it has died."""
        while True:
            self._mend()
            file = self.folder / PORT
            if file.exists():
                return int(file.read_text())
            assert time.monotonic() < deadline, "the web server does not start"
            time.sleep(_LOOK_SECONDS)

    # Processes

    def start(self, role: str) -> int:
        """Start it; its process id. From now on it takes the place of the one before, if there was one."""
        if role == "web":
            (self.folder / PORT).unlink(missing_ok=True)
        now_utc = time.time()
        self._processes[role] = Process(role, self.nursery.start(role, self.folder), now_utc)
        return self._processes[role].pid

    def _mend(self) -> None:
        """Start again what was killed. Nothing else may have ended."""
        for role, process in list(self._processes.items()):
            code = self.nursery.ended(process.pid)
            if code is None:
                continue
            assert code == -signal.SIGKILL, f"{role} ended by itself: {code}"
            assert self._killed_pid() == process.pid, f"{role} was killed and should not have been"
            self.start(role)

    def wait_until_stopped(self) -> int:
        """Wait for the process that stands still, as it was told to; its id."""
        wait_until(self._killed_pid, LIMIT_SECONDS, f"a process to come to {self.order}")
        pid = self._killed_pid()
        assert pid is not None
        wait_until(lambda: _is_stopped(pid), LIMIT_SECONDS, "it to stand still")
        return pid

    def _killed_pid(self) -> int | None:
        file = self.folder / KILLED
        text = file.read_text() if file.exists() else ""
        return int(text) if text.endswith("\n") else None

    def _was_killed(self) -> bool:
        self.was_reached = self._killed_pid() is not None
        return self.was_reached

    @contextmanager
    def killing_what_is_left(self) -> Iterator[None]:
        """Leave nothing running."""
        try:
            yield
        finally:
            for process in self._processes.values():
                if self.nursery.ended(process.pid) is None:
                    os.kill(process.pid, signal.SIGKILL)
                    while self.nursery.ended(process.pid) is None:
                        time.sleep(0.002)

    # What has come of it

    def _go_on(self) -> None:
        """Node and program wait until the portal has seen the state before, so that each run takes the same steps."""
        if "client" not in self._processes and self._ask("SELECT 1 FROM attempts WHERE raw_state IS NOT NULL"):
            self.start("client")
        if not (self.folder / "go").exists() and self._ask("SELECT 1 FROM jobs WHERE state = 'running'"):
            (self.folder / "go").touch()

    def _is_over(self) -> bool:
        """Every job is final, and no mail is owed."""
        if not self._ask("SELECT 1 FROM jobs"):
            self._send_again_where_nothing_is_left()
            return False
        open_jobs = self._ask("SELECT 1 FROM jobs WHERE state NOT IN ('succeeded', 'failed', 'cancelled')")
        owed = self._ask("SELECT 1 FROM mail_outbox WHERE sent_at IS NULL")
        if open_jobs or owed or self._orphans():
            return False
        if not self.told:
            # What was adopted is this visitor's job: the form that is sent again leads there.
            self._try_form(self._wait_for_port(time.monotonic() + LIMIT_SECONDS))
            return False
        return True

    def is_handed_in(self) -> bool:
        """Whether the database has the scheduler's id."""
        return bool(self._ask("SELECT 1 FROM attempts WHERE scheduler_id IS NOT NULL"))

    def _send_again_where_nothing_is_left(self) -> None:
        if not self.told and not self._orphans():
            self._try_form(self._wait_for_port(time.monotonic() + LIMIT_SECONDS))

    def _orphans(self) -> list[str]:
        """Whole directories without a row, which are to be adopted or swept."""
        found = [one for one in self.jobs_folder.job_ids() if self.jobs_folder.job(one).config.exists()]
        return [one for one in found if not self._ask("SELECT 1 FROM jobs WHERE job_id = ?", one)]

    def _is_whole(self) -> bool:
        """It was killed where it was to be, and what was started again has been at work since."""
        if self.order is None:
            return True
        if not self._was_killed():
            return False
        started = self._processes.get(self.order.step.role)
        if self.order.signal_number != signal.SIGKILL:
            return True
        if started is None or self._killed_pid() == started.pid:
            return self.order.step.role == "wrapper"
        if started.role == "dispatcher":
            asked = self._ask("SELECT strftime('%s', asked_at) + 0 FROM scheduler_health")
            return bool(asked) and float(str(asked[0][0])) > started.started_utc
        if started.role == "client":
            return bool(
                self._ask(
                    "SELECT 1 FROM compute_clients WHERE started_at >= datetime(?, 'unixepoch')",
                    started.started_utc - 1,
                )
            )
        return (self.folder / PORT).exists()

    def _ask(self, query: str, *values: object) -> list[tuple[object, ...]]:
        file = self.database_file
        if not file.exists():
            return []
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10)) as connection:
            return list(connection.execute(query, values))

    def steps(self) -> dict[str, list[Step]]:
        """What was recorded, by role."""
        found = {}
        for role in ROLES:
            file = self.folder / STEPS_FOLDER / f"{role}.jsonl"
            lines = file.read_text().splitlines() if file.exists() else []
            found[role] = [Step(*json.loads(line)) for line in lines]
        return found

    def handed_over(self) -> list[str]:
        """The Message-IDs that the transport took, each as often as it took it."""
        file = self.folder / MAILS
        return file.read_text().split() if file.exists() else []

    def tokens(self) -> dict[str, str]:
        """The form's token in each whole directory."""
        return {
            one: read_job_config(self.jobs_folder.job(one).config).token
            for one in self.jobs_folder.job_ids()
            if self.jobs_folder.job(one).config.exists()
        }

    def facts(self) -> str:
        """For people, after a failure."""
        return (
            "\n".join(
                f"{query}: {self._ask(query)}"
                for query in (
                    "SELECT job_id, state, failure_reason, attempt_number FROM jobs",
                    "SELECT number, state, failure_reason, scheduler_id, reason FROM attempts",
                    "SELECT outcome, message_id, sent_at, last_error FROM mail_outbox",
                )
            )
            + f"\nwitness: {self.witness.lines()}"
        )

    def log(self) -> str:
        """What all its processes have logged."""
        file = self.folder / LOG
        return file.read_text(errors="replace") if file.exists() else ""


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
