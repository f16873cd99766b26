"""A real Grid Engine for tests: `deploy/grid-engine/cell.sh` from Python, and a scheduler in a process of its own.

A test asks for the fixture `cell` (import it into a conftest.py, together with `cell_session`). It gets the cell for
itself, healthy, with no job in it and with an empty jobs folder.
"""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from portal.schedulers.base import Scheduler
from tests.clusters import home_with_ports, name_for, session_folder
from tests.sharing import locked, shared
from tests.waiting import wait_until

REPOSITORY = Path(__file__).parents[2]
CELL_SCRIPT = REPOSITORY / "deploy" / "grid-engine" / "cell.sh"
LIBRARY = Path("/usr/lib/gridengine-drmaa/lib/libdrmaa.so.1.0")
ACCOUNT = "portal-cell"
SLOTS = 6

_SCRIPT_SECONDS = 240  # the first `up` on a machine installs packages
_TEST_SECONDS = 600
_LOG_LINES = 15


class GridEngineCell:
    """One cell, in `home`, with its qmaster on `port`."""

    kind = "Grid Engine"

    def __init__(self, home: Path, port: int) -> None:
        self.home = home
        self.port = port
        self.jobs_dir = home / "jobs"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to find this cell and its library; times in UTC, messages in English."""
        return {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "SGE_ROOT": str(self.home / "root"),
            "SGE_CELL": "default",
            "SGE_QMASTER_PORT": str(self.port),
            "SGE_EXECD_PORT": str(self.port + 1),
            "DRMAA_LIBRARY_PATH": str(LIBRARY),
            "TZ": "UTC",
            "LC_ALL": "C",
        }

    def up(self, *options: str) -> None:
        """Start it, or what is missing of it; returns when its host takes jobs."""
        self._script("up", *options)

    def remove(self) -> None:
        """Stop it and remove every trace of it."""
        self._script("down", "--purge")
        shutil.rmtree(self.home, ignore_errors=True)

    def stop_daemon(self, name: str, with_signal: signal.Signals = signal.SIGTERM) -> None:
        """Stop `qmaster` or `execd`; returns when it is gone. Jobs go on."""
        self._script("stop-daemon", name, with_signal.name.removeprefix("SIG"))

    def start_daemon(self, name: str) -> None:
        """Start it again; returns when it answers."""
        self._script("start-daemon", name)

    def pid_of(self, daemon: str) -> int:
        """The process id of `qmaster` or `execd`."""
        return int((self.home / "run" / daemon).read_text().split()[0])

    def run(self, *command: str, account: str = ACCOUNT, seconds: float = 30) -> subprocess.CompletedProcess[str]:
        """A command with the cell's environment; raises nothing where it fails."""
        return subprocess.run(
            command,
            env=self.environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            user=account,
            group=account,
            extra_groups=[],
        )

    def queue(self) -> dict[str, str]:
        """The letters of each job's state, by id."""
        done = self.run("qstat", "-u", "*")
        assert done.returncode == 0, done.stderr
        return {words[0]: words[4] for line in done.stdout.splitlines()[2:] if (words := line.split())}

    def make_jobs_dir(self) -> None:
        """An empty jobs folder, the jobs' own account's."""
        if self.jobs_dir.exists():
            shutil.rmtree(self.jobs_dir)
        self.jobs_dir.mkdir()
        shutil.chown(self.jobs_dir, ACCOUNT, ACCOUNT)
        self.jobs_dir.chmod(0o2750)

    def end_all(self) -> None:
        """End every job and return when none is left in the queue."""
        # -f: whether or not its host answers.
        self.run("qdel", "-f", "-u", "*", account="root")
        wait_until(lambda: not self.queue(), 30, "an empty queue")

    def kill_jobs(self) -> None:
        """SIGKILL to the processes of all jobs and to their shepherds, as when a host crashes. The execd is dead."""
        mine = f"SGE_ROOT={self.home}/root".encode()
        qmaster = self.pid_of("qmaster")
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                is_mine = mine in (folder / "environ").read_bytes().split(b"\0")
                started_by_test = b"DRMAA_LIBRARY_PATH=" in (folder / "environ").read_bytes()
            except OSError:
                continue
            if is_mine and not started_by_test and int(folder.name) != qmaster:
                os.kill(int(folder.name), signal.SIGKILL)

    def diagnostics(self) -> str:
        """For people, after a failure: hosts, queue, accounting, and the end of each log."""
        if not self.home.exists():
            return "The cell has been taken down already."
        commands = (("qhost",), ("qstat", "-f", "-u", "*"), ("qacct", "-j"))
        parts = [f"$ {' '.join(command)}\n{self._answer(*command)}" for command in commands]
        logs = [*self.home.glob("execd/*/messages"), self.home / "qmaster" / "messages"]
        parts += [f"{log}:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:]) for log in logs]
        return "\n\n".join(parts)

    def _answer(self, *command: str) -> str:
        try:
            done = self.run(*command, seconds=10)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        return (done.stdout + done.stderr)[-6000:]

    def _script(self, *arguments: str) -> None:
        environment = os.environ | {
            "CELL_HOME": str(self.home),
            "CELL_PORT": str(self.port),
            "CELL_JOBS_DIR": str(self.jobs_dir),
            "CELL_SLOTS": str(SLOTS),
        }
        done = subprocess.run(
            [str(CELL_SCRIPT), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SCRIPT_SECONDS,
        )
        assert done.returncode == 0, f"cell.sh {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}"


class Dispatching:
    """A `DrmaaScheduler` in a process that runs as the jobs' account, as a dispatcher does."""

    def __init__(self, cell: GridEngineCell, native_specification: str = "", *options: str) -> None:
        command = [sys.executable, "-P", str(Path(__file__).with_name("worker.py")), native_specification, *options]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed in `close`
        self._process = subprocess.Popen(
            command,
            env={**cell.environment, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"},
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            user=ACCOUNT,
            group=ACCOUNT,
            extra_groups=[],
        )
        self.scheduler: Scheduler = _Remote(self)  # type: ignore[assignment]

    def call(self, verb: str, *arguments: object) -> Any:
        """What the verb answers; what it raises is raised here."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        pickle.dump((verb, arguments), self._process.stdin)
        self._process.stdin.flush()
        try:
            is_good, answer = pickle.load(self._process.stdout)
        except EOFError:
            raise AssertionError(f"the process has ended: {self.log()}") from None
        if not is_good:
            raise answer
        return answer

    def log(self) -> str:
        """What it wrote to standard error."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def kill(self) -> None:
        """SIGKILL, at whatever it is."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            if pipe is not None:
                pipe.close()

    def close(self) -> None:
        """It leaves the session and ends."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(60)
        finally:
            self.kill()


class _Remote:
    """Each verb is a call in that process."""

    def __init__(self, dispatching: Dispatching) -> None:
        self._dispatching = dispatching

    def __getattr__(self, verb: str) -> Any:
        return lambda *arguments: self._dispatching.call(verb, *arguments)


@contextmanager
def dispatching(cell: GridEngineCell, native_specification: str = "", *options: str) -> Iterator[Dispatching]:
    """A process with a scheduler, which ends by itself; for `options` see worker.py."""
    process = Dispatching(cell, native_specification, *options)
    try:
        yield process
    finally:
        process.close()


def new_cell(name: str) -> GridEngineCell:
    """A cell that is not up yet, with a home and two ports of its own; the same name gives the same cell."""
    # Below those that the kernel hands out, and not Slurm's.
    return GridEngineCell(*home_with_ports("portal-grid-engine", name, range(14000, 16000, 10), (0, 1)))


def skip_unless_possible() -> None:
    """Skip the test, with the reason, where no cell can be had."""
    if os.geteuid() != 0:
        pytest.skip("a Grid Engine cell needs root (cell.sh)")
    if not LIBRARY.exists() and shutil.which("apt-get") is None:
        pytest.skip("there is no DRMAA library here (Debian's gridengine-drmaa1.0), and no apt-get to install it")


@contextmanager
def shared_cell(folder: Path) -> Iterator[GridEngineCell]:
    """The one cell of all processes that call this with the same folder; the last one to leave takes it down."""

    def start() -> GridEngineCell:
        cell = new_cell(name_for(folder))
        cell.up()
        return cell

    with shared(folder, "cell", start, GridEngineCell.remove) as cell:
        yield cell


@pytest.fixture(scope="session")
def cell_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GridEngineCell]:
    """The one cell of the session, for all of pytest-xdist's workers. Tests ask for `cell`."""
    skip_unless_possible()
    with shared_cell(session_folder(tmp_path_factory)) as cell:
        yield cell


@pytest.fixture
def cell(cell_session: GridEngineCell) -> Iterator[GridEngineCell]:
    """The cell, whole, without jobs, and with an empty jobs folder; for this test alone."""
    with locked(cell_session.home / "one-test-at-a-time"):
        cell_session.up("--no-install")
        cell_session.make_jobs_dir()
        yield cell_session
        cell_session.up("--no-install")
        cell_session.end_all()


USES_CELL = (pytest.mark.xdist_group("grid-engine"), pytest.mark.timeout(_TEST_SECONDS))
"""Marks of tests that use the session's cell: they wait for each other, so one worker may as well run them all."""
