"""A queue of the embedded scheduler, real compute clients on it, and a witness that the scripts themselves write."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select, text

from portal.clock import SystemClock
from portal.database import Database
from portal.node.descendants import descendants
from portal.schedulers.base import Handle, JobSpec, Observation, SchedulerState, Submitted
from portal.schedulers.local import LEASE_SECONDS, LocalScheduler
from portal.schedulers.local_tables import ClientLease
from tests.waiting import wait_until
from tests.wrapper_attempts import REPOSITORY, Attempt

READY_SECONDS = 30
"""What the start of some processes may take on a busy machine."""


class Witness:
    """A file to which each script appends a line when it starts, and others as it likes (O_APPEND: none is lost)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[list[str]]:
        """All lines, in their order, as words."""
        return [line.split() for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def starts(self) -> Counter[str]:
        """How often each name started."""
        return Counter(line[1] for line in self.lines() if line[0] == "start")

    def pids(self, word: str) -> list[int]:
        """The process ids in the lines that begin with `word`."""
        return [int(pid) for line in self.lines() if line[0] == word for pid in line[1:]]

    def says(self, *words: str) -> bool:
        """Whether there is such a line."""
        return list(words) in self.lines()

    def wait_for(self, *words: str, seconds: float = READY_SECONDS) -> None:
        """Return once there is a line that begins like this."""
        wait_until(
            lambda: any(line[: len(words)] == list(words) for line in self.lines()), seconds, f"the line {words}"
        )


class ClientProcess:
    """One `portal client`."""

    def __init__(self, folder: Path, environment: Mapping[str, str], slots: int, stop_seconds: float) -> None:
        self._log_file = folder / "client.log"
        with self._log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "portal", "client", f"--slots={slots}"],
                cwd=folder,
                env={**os.environ, **environment, "PORTAL_PORTAL__STOP_SECONDS": str(stop_seconds)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        """What all clients of this folder have logged."""
        return self._log_file.read_text()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal; its programs get none."""
        self.process.send_signal(number)

    def stop(self, seconds: float = READY_SECONDS) -> int:
        """SIGTERM, and wait; its exit code."""
        self.send(signal.SIGTERM)
        return self.process.wait(seconds)

    def kill(self) -> None:
        """SIGKILL to the client alone."""
        self.process.kill()
        self.process.wait()

    def kill_with_descendants(self) -> None:
        """Leave nothing behind, whatever state it is in."""
        if self.process.poll() is None:
            for pid in [self.pid, *descendants(self.pid)]:
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def open_files(self) -> list[str]:
        """What its file descriptors lead to."""
        return open_files(self.pid)


class ClientFamily:
    """The clients of one test, with the same settings. Made by a fixture, which ends them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            "PORTAL_PORTAL__DATABASE_URL": f"sqlite:///{folder / 'portal.db'}",
            "PORTAL_PORTAL__JOBS_DIR": str(folder / "jobs"),
        }
        self.processes: list[ClientProcess] = []

    def start(self, slots: int = 1, stop_seconds: float = 0) -> ClientProcess:
        """Start one more."""
        client = ClientProcess(self.folder, self.environment, slots, stop_seconds)
        self.processes.append(client)
        return client

    def end_all(self) -> None:
        """Kill whatever is left."""
        for client in self.processes:
            client.kill_with_descendants()


@dataclass
class Queue:
    """The queue, seen as the dispatcher sees it, in `folder`."""

    folder: Path
    clients: ClientFamily
    lease_seconds: float = LEASE_SECONDS

    def __post_init__(self) -> None:
        self.database = Database(f"sqlite:///{self.folder / 'portal.db'}")
        self.database.upgrade()
        self.scheduler = LocalScheduler(self.database, SystemClock(), self.lease_seconds)
        self.witness = Witness(self.folder / "witness")

    def script(self, name: str, commands: str, minutes: int = 5) -> JobSpec:
        """A bare script in a folder of its own. Its first line in the witness is `start NAME PID CLIENT-PID`."""
        work = self.folder / name
        work.mkdir()
        script = work / "job.sh"
        head = f"witness={self.witness.path}\necho start {name} $$ $PPID >> $witness\n"
        script.write_text(f"{head}{commands}\n")
        return JobSpec(name, script, work, minutes, memory_mib=64, cpus=1)

    def wrapped(self, name: str, commands: str, minutes: int = 5) -> tuple[JobSpec, Attempt]:
        """A program under the real wrapper. Its first line in the witness is `start NAME PID WRAPPER-PID`."""
        head = f"witness={self.witness.path}\necho start {name} $$ $PPID >> $witness\n"
        attempt = Attempt(self.folder / name, f"{head}{commands}\n", settings={"scheduler_name": name})
        script = attempt.folder / "job.sh"
        command = " ".join(f"'{word}'" for word in attempt.command())
        script.write_text(f"export PYTHONPATH='{REPOSITORY}'\nexec {command}\n")
        return JobSpec(name, script, attempt.work, minutes, memory_mib=64, cpus=1), attempt

    def submit(self, *specs: JobSpec) -> list[Handle]:
        """Hand them in; their handles."""
        answers = self.scheduler.submit(specs)
        return [answer.handle for answer in answers if isinstance(answer, Submitted)]

    def observe(self, handle: Handle) -> Observation:
        """What the scheduler says of one."""
        return self.scheduler.observe([handle])[handle]

    def wait_for(self, handle: Handle, state: SchedulerState, seconds: float = READY_SECONDS) -> Observation:
        """The observation, once it says this."""
        wait_until(lambda: self.observe(handle).state is state, seconds, f"{handle.name} to be {state}")
        return self.observe(handle)

    def wait_for_clients(self, number: int) -> None:
        """Return once so many clients are on the list."""
        wait_until(lambda: len(self.client_ids()) == number, READY_SECONDS, f"{number} clients")

    def client_ids(self) -> set[str]:
        """The clients that are on the list."""
        with self.database.reading() as session:
            return set(session.scalars(select(ClientLease.client_id)))

    def execute(self, statement: str, **values: object) -> None:
        """Change the tables behind everybody's back."""
        with self.database.writing() as session:
            session.execute(text(statement), values)

    def stop_between_transactions(self, client: ClientProcess) -> None:
        """SIGSTOP, at a moment when the client does not hold the lock that everybody needs."""
        for _ in range(50):
            client.send(signal.SIGSTOP)
            wait_until(lambda: _is_stopped(client.pid), READY_SECONDS, "the client to stand still")
            if self._can_be_written():
                return
            client.send(signal.SIGCONT)
        raise AssertionError("the client always holds the lock")

    def _can_be_written(self) -> bool:
        with closing(self.connect(seconds=0.1)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            connection.rollback()
            return True

    def connect(self, seconds: float) -> sqlite3.Connection:
        """Another connection, which waits so long for a lock."""
        return sqlite3.connect(self.folder / "portal.db", timeout=seconds, isolation_level=None)


MakeQueue = Callable[..., Queue]


def open_files(pid: int) -> list[str]:
    """What the file descriptors of a process lead to."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(str(link.readlink()))
        except FileNotFoundError:  # closed in the meantime
            continue
    return found


def pipes(pid: int) -> set[str]:
    """The pipes that a process holds an end of."""
    return {target for target in open_files(pid) if target.startswith("pipe:")}


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
