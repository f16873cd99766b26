"""A whole portal on a real scheduler, for one test: acceptance in the test, dispatcher and clients as processes.

With Slurm the dispatcher runs as `portal` and jobs as `portal-jobs`, as at a real site. The program of each job does
what its input `what` says, and writes a line into a witness file when it starts: what ran, and how often, is counted
there and not in the portal's tables.
"""

import json
import os
import pwd
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import func, select

from portal.app import Parts, build_parts, build_scheduler
from portal.jobs.acceptance import Submission
from portal.jobs.access import Viewer
from portal.jobs.directory import JobDirectory, JobsFolder
from portal.jobs.models import Attempt, Job, MailOutbox, SchedulerHealth
from portal.jobs.node_files import submit_archive
from portal.jobs.states import JobState
from portal.jobs.store import JobRecord, read_health
from portal.schedulers.base import Scheduler
from portal.settings import load_settings
from tests.compute_clients import ClientFamily, Witness
from tests.drmaa.cell import ACCOUNT as CELL_ACCOUNT
from tests.drmaa.cell import GridEngineCell, dispatching
from tests.slurm_cluster import JOBS_ACCOUNT, SlurmCluster
from tests.waiting import wait_until

EMAIL = "ann@example.org"
APPLICATION = "contract"
LOCAL_SLOTS = 8
"""How many jobs the compute client of a local site runs at a time."""
AS_PORTAL = Path(__file__).parents[2] / "deploy" / "slurm" / "as_portal.sh"

_DEFINITION = """
title = "Contract"
[[parameters]]
name = "what"
type = "choice"
label = "What"
choices = ["succeed", "exit_3", "exit_7", "exit_99", "exit_100", "die", "wait", "wait_on_first", "fill"]
[resources]
time_limit_minutes = 1
memory_mib = 50
[answer]
file = "output.txt"
pattern = 'The answer is: (\\d+)'
"""
_PROGRAM = """
echo start "$PWD" >> '{witness}'
case "$input_what" in
    exit_*) exit "${{input_what#exit_}}" ;;
    die) kill -SEGV $$ ;;
    wait) until [ -e '{go}' ]; do sleep 0.1; done ;;
    fill)
        head -c 2000000 /dev/zero >too_big
        head -c 1000 /dev/zero >small
        echo secret >closed
        chmod 000 closed
        mkdir -m 000 shut
        ;;
    wait_on_first) case "$PWD" in */attempts/1/*) exec sleep 300 ;; esac ;;
esac
echo 'The answer is: 4'
"""


class Site(ABC):
    """One portal with its data in `folder`. Subclasses say what differs between the kinds."""

    kind: str
    command: tuple[str, ...] = ()
    """Put before the dispatcher, so that it runs as the right account."""

    def __init__(self, folder: Path, jobs_dir: Path) -> None:
        self.folder = folder
        self.jobs_dir = jobs_dir
        witness = folder / "witness"
        witness.mkdir()
        witness.chmod(0o2770)
        self.witness = Witness(witness / "lines")
        self._go = witness / "go"
        self._write_application()
        self._config = folder / "portal.toml"
        self._log_file = folder / "dispatcher.log"
        self._dispatcher: subprocess.Popen[bytes] | None = None
        self._own(folder)
        self.parts: Parts

    def open(self, scheduler: Mapping[str, object], ssh: Mapping[str, object] | None = None) -> None:
        """Write the settings and build the parts."""
        sections: dict[str, Mapping[str, object]] = {
            "portal": {
                "jobs_dir": str(self.jobs_dir),
                "templates_dir": str(self.folder / "templates"),
                "database_url": f"sqlite:///{self.folder}/data/portal.db",
            },
            "scheduler": {"kind": self.kind, "poll_seconds": 0.3, "grace_seconds": 2, **scheduler},
            "mail": {"folder": str(self.folder / "data" / "mail")},
            "limits": {"mails_per_hour_per_person": 10000, "results_mib": 1},
        }
        if ssh is not None:
            sections["scheduler.ssh"] = ssh
        self._config.write_text("".join(_section(name, values) for name, values in sections.items()))
        with self.as_portal():
            (self.folder / "data").mkdir(mode=0o750)
            self.parts = build_parts(load_settings(self._config))

    def _write_application(self) -> None:
        application = self.folder / "templates" / APPLICATION
        application.mkdir(parents=True)
        (application / "application.toml").write_text(_DEFINITION)
        program = _PROGRAM.format(witness=self.witness.path, go=self._go)
        (application / "program.sh.j2").write_text(program)

    def _own(self, folder: Path) -> None:  # noqa: B027  # with one account there is nothing to do
        """Let the accounts of a real site have the folder."""

    @contextmanager
    def as_portal(self) -> Iterator[None]:
        """As the account that the web server runs as."""
        yield

    def submit(self, what: str = "succeed") -> str:
        """A job; its id."""
        with self.as_portal():
            return self.parts.jobs.submit(Submission(APPLICATION, {"what": what}, EMAIL)).job_id

    def cancel(self, job_id: str) -> None:
        """Ask for its end, as the administrator does."""
        with self.as_portal():
            self.parts.jobs.ask_cancel(Viewer(is_administrator=True), job_id)

    def let_go(self) -> None:
        """The programs that wait go on."""
        self._go.touch()

    def record(self, job_id: str) -> JobRecord:
        """All that the database knows of a job."""
        with self.as_portal():
            return self.parts.jobs.record(job_id)

    def directory(self, job_id: str) -> JobDirectory:
        """Its files."""
        return self.parts.folder.job(job_id)

    def wait_for_state(self, job_id: str, state: JobState, seconds: float = 60) -> JobRecord:
        """The job, once it is in this state; AssertionError that says what became of it."""
        try:
            wait_until(lambda: self.record(job_id).job.state is state, seconds, f"job {job_id} to be {state}")
        except AssertionError as error:
            events = "\n".join(event.detail for event in self.record(job_id).events)
            raise AssertionError(f"{error}\n{events}\n{self.log()[-3000:]}") from None
        return self.record(job_id)

    def wait_for_start(self, job_id: str, attempt: int = 1, seconds: float = 60) -> None:
        """Return once the program of that attempt runs."""
        try:
            self.witness.wait_for("start", self.work(job_id, attempt), seconds=seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()[-3000:]}") from None

    def work(self, job_id: str, attempt: int = 1) -> str:
        """Where an attempt's program runs."""
        return str(self.directory(job_id).attempt(attempt).work)

    def states(self) -> Counter[JobState]:
        """How many jobs are in which state."""
        with self.as_portal(), self.parts.database.reading() as session:
            rows = session.execute(select(Job.state, func.count()).group_by(Job.state)).all()
            return Counter({row[0]: row[1] for row in rows})

    def wait_for_successes(self, number: int, seconds: float) -> None:
        """Return once there are so many jobs and all of them have succeeded."""
        wait_until(
            lambda: self.states() == {JobState.SUCCEEDED: number},
            seconds,
            lambda: f"{number} answers, not {dict(self.states())}\n{self.log()[-3000:]}",
        )

    def scheduler_ids(self) -> list[str | None]:
        """Those of all attempts."""
        with self.as_portal(), self.parts.database.reading() as session:
            return list(session.scalars(select(Attempt.scheduler_id)))

    def health(self) -> SchedulerHealth | None:
        """What the pages say of the scheduler."""
        with self.as_portal(), self.parts.database.reading() as session:
            return read_health(session)

    def wait_for_silence(self) -> None:
        """Return once the pages say that the scheduler does not answer; AssertionError with the dispatcher's log."""
        # A dispatcher may have three requests under way before it notices, each of which has 17 seconds here.
        wait_until(self.is_silent, 90, lambda: f"the page to say that it does not answer\n{self.log()[-3000:]}")

    def is_silent(self) -> bool:
        """Whether the pages say that the scheduler does not answer."""
        health = self.health()
        return health is not None and health.silent_since is not None

    def owed_mails(self) -> int:
        """How many messages were ever owed."""
        with self.as_portal(), self.parts.database.reading() as session:
            return session.query(MailOutbox).count()

    def mails(self) -> list[Path]:
        """What has gone out: one file for each Message-ID."""
        return sorted((self.folder / "data" / "mail").glob("*.eml"))

    def wait_for_mails(self, number: int) -> None:
        """So many have gone out, and no more are owed."""
        wait_until(lambda: len(self.mails()) >= number, 30, f"{number} mails")
        assert (len(self.mails()), self.owed_mails()) == (number, number)

    def start_dispatcher(self) -> None:
        """Start the dispatcher, as a process of its own."""
        short_waits = str(Path(__file__).with_name("short_waits.py"))
        command = [*self.command, sys.executable, "-P", short_waits, "--config", str(self._config), "dispatcher"]
        with self._log_file.open("ab") as log:
            self._dispatcher = subprocess.Popen(
                command, cwd="/", env=self._environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def check(self) -> str:
        """What `portal check` prints."""
        return self.portal("check").stdout

    def portal(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of this portal."""
        command = [*self.command, sys.executable, "-P", "-m", "portal", "--config", str(self._config), *arguments]
        return subprocess.run(command, cwd="/", env=self._environment(), capture_output=True, text=True)

    def kill_dispatcher(self) -> None:
        """SIGKILL to it, at whatever instruction it is."""
        if self._dispatcher is not None:
            self._dispatcher.kill()
            self._dispatcher.wait()
            self._dispatcher = None

    @contextmanager
    def dispatching(self) -> Iterator[None]:
        """A dispatcher at work; it is ended by SIGTERM."""
        self.start_dispatcher()
        try:
            yield
        finally:
            if self._dispatcher is not None:
                self._dispatcher.terminate()
                assert self._dispatcher.wait(60) == 0, self.log()
                self._dispatcher = None

    def log(self) -> str:
        """What the dispatcher has logged."""
        return self._log_file.read_text(errors="replace") if self._log_file.exists() else ""

    @contextmanager
    def scheduler(self) -> Iterator[Scheduler]:
        """The scheduler itself, as the dispatcher has it."""
        scheduler = build_scheduler(self.parts)
        try:
            yield scheduler
        finally:
            scheduler.close()

    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}

    @abstractmethod
    def stop_nodes(self) -> None:
        """No job starts from now on; those that run go on."""

    @abstractmethod
    def start_nodes(self) -> None:
        """Jobs start again."""

    @abstractmethod
    def kill_node_of(self, job_id: str) -> None:
        """Kill the machine, or what stands for it, that the job runs on; another one is there."""

    def close(self) -> None:
        """Leave nothing running."""
        self.kill_dispatcher()
        self.parts.database.close()


class LocalSite(Site):
    """The embedded scheduler, with one compute client."""

    kind = "local"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, folder / "jobs")
        self.open({})
        self._clients = ClientFamily(folder)
        self._clients.environment = {"PORTAL_CONFIG": str(self._config)}
        self.start_nodes()

    def stop_nodes(self) -> None:
        for client in self._clients.processes:
            if client.process.poll() is None:
                client.stop()

    def start_nodes(self) -> None:
        self._clients.start(slots=LOCAL_SLOTS)

    def kill_node_of(self, job_id: str) -> None:
        self._clients.processes[-1].kill()
        self.start_nodes()

    def close(self) -> None:
        super().close()
        self._clients.end_all()


class SlurmSite(Site):
    """Slurm's commands on this machine, by sudo."""

    kind = "slurm"
    command: tuple[str, ...] = (str(AS_PORTAL),)
    _nodes_are_stopped = False

    def __init__(self, folder: Path, cluster: SlurmCluster) -> None:
        self.cluster = cluster
        super().__init__(folder, self._place_jobs(folder))
        self._connect()

    def _place_jobs(self, folder: Path) -> Path:
        """The portal's jobs folder."""
        return self.cluster.jobs_dir

    def _connect(self) -> None:
        conf = f"SLURM_CONF={self.cluster.environment['SLURM_CONF']}"
        self.open(
            {"command_prefix": ["sudo", "-n", "-u", JOBS_ACCOUNT, "env", conf], "node_python": "/usr/bin/python3"}
        )

    def _own(self, folder: Path) -> None:
        for path in (folder, self.witness.path.parent):
            shutil.chown(path, "portal", JOBS_ACCOUNT)
        folder.chmod(0o750)
        self.witness.path.parent.chmod(0o2770)

    @contextmanager
    def as_portal(self) -> Iterator[None]:
        with _as_account("portal"):
            yield

    def stop_nodes(self) -> None:
        self._update_nodes("state=drain", "reason=test")
        self._nodes_are_stopped = True

    def start_nodes(self) -> None:
        self._update_nodes("state=resume")
        self._nodes_are_stopped = False

    def close(self) -> None:
        super().close()
        if self._nodes_are_stopped:
            self.start_nodes()

    def _update_nodes(self, *change: str) -> None:
        done = self.cluster.run("scontrol", "update", "nodename=ALL", *change, account="root")
        assert done.returncode == 0, done.stderr

    def kill_node_of(self, job_id: str) -> None:
        node = self.record(job_id).attempt.node
        assert node is not None
        self.cluster.kill_node(node, now=True)


class SshSite(SlurmSite):
    """The same over SSH, with the restricted key."""

    kind = "slurm-ssh"
    command = ("setpriv", "--reuid=portal", "--regid=portal", "--init-groups", "--")

    def __init__(self, folder: Path, cluster: SlurmCluster, port: int | None = None) -> None:
        self._port = port or cluster.ssh_port
        super().__init__(folder, cluster)

    def _connect(self) -> None:
        known_hosts = self.folder / "known_hosts"
        host_key = self.cluster.known_hosts.read_text().split(maxsplit=1)[1]
        known_hosts.write_text(f"[127.0.0.1]:{self._port} {host_key}")
        ssh = {
            "host": "127.0.0.1",
            "port": self._port,
            "user": JOBS_ACCOUNT,
            "key_file": str(self.cluster.helper_key),
            "known_hosts_file": str(known_hosts),
            "connect_timeout_seconds": 5,
            "command_timeout_seconds": 6,
            **self._more_of_ssh(),
        }
        self.open({"node_python": "/usr/bin/python3"}, ssh)

    def _more_of_ssh(self) -> Mapping[str, object]:
        """What else stands in the settings."""
        return {}


class ApartSite(SshSite):
    """A cluster that shares no file system: jobs cannot even enter the portal's jobs folder."""

    def __init__(self, folder: Path, cluster: SlurmCluster, port: int | None = None) -> None:
        self._key = folder / "key"
        self.there = folder / "there" / "jobs"
        """The cluster's jobs folder."""
        self._line = ""
        super().__init__(folder, cluster, port)

    def _place_jobs(self, folder: Path) -> Path:
        return folder / "data" / "jobs"

    def _own(self, folder: Path) -> None:
        super()._own(folder)
        self._install_on_cluster()

    def _install_on_cluster(self) -> None:
        """What the cluster's administrator does: the helper, where jobs cannot write, and a key for it."""
        helper = self.there / ".node" / "current" / "submit.pyz"
        helper.parent.mkdir(parents=True)
        helper.write_bytes(submit_archive())
        helper.chmod(0o644)
        shutil.chown(self.there, "root", JOBS_ACCOUNT)
        self.there.chmod(0o1770)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "apart", "-f", self._key], check=True)
        shutil.chown(self._key, "portal", "portal")
        public = self._key.with_suffix(".pub").read_text()
        self._line = f"restrict,command=\"/usr/bin/python3 -I '{helper}'\" {public}"
        with self._authorized_keys.open("a") as keys:
            keys.write(self._line)

    @property
    def _authorized_keys(self) -> Path:
        return self.cluster.known_hosts.with_name("more_authorized_keys")

    def _more_of_ssh(self) -> Mapping[str, object]:
        return {"key_file": str(self._key), "remote_jobs_dir": str(self.there)}

    def work(self, job_id: str, attempt: int = 1) -> str:
        return str(JobsFolder(self.there).job(job_id).attempt(attempt).work)

    def close(self) -> None:
        super().close()
        self._authorized_keys.write_text(self._authorized_keys.read_text().replace(self._line, ""))


class DrmaaSite(Site):
    """A Grid Engine by its DRMAA library. One account runs the portal and the jobs."""

    kind = "drmaa"
    command = ("setpriv", f"--reuid={CELL_ACCOUNT}", f"--regid={CELL_ACCOUNT}", "--init-groups", "--")

    def __init__(self, folder: Path, cell: GridEngineCell) -> None:
        self.cell = cell
        super().__init__(folder, cell.jobs_dir)
        self.open({"node_python": "/usr/bin/python3"})

    def _own(self, folder: Path) -> None:
        for path in (folder, self.witness.path.parent):
            shutil.chown(path, CELL_ACCOUNT, CELL_ACCOUNT)

    @contextmanager
    def as_portal(self) -> Iterator[None]:
        with _as_account(CELL_ACCOUNT):
            yield

    def _environment(self) -> dict[str, str]:
        return super()._environment() | self.cell.environment

    @contextmanager
    def scheduler(self) -> Iterator[Scheduler]:
        # In a process of its own: the library is loaded once a process, and this one has no room for it.
        with dispatching(self.cell) as process:
            yield process.scheduler

    def stop_nodes(self) -> None:
        self._change_queue("-d")

    def start_nodes(self) -> None:
        self._change_queue("-e")

    def _change_queue(self, option: str) -> None:
        done = self.cell.run("qmod", option, "all.q", account="root")
        assert done.returncode == 0, done.stderr

    def kill_node_of(self, job_id: str) -> None:
        raise AssertionError("this cell has one host")

    def close(self) -> None:
        super().close()
        self.start_nodes()


@contextmanager
def _as_account(name: str) -> Iterator[None]:
    entry = pwd.getpwnam(name)
    groups = os.getgroups()
    os.setgroups(os.getgrouplist(name, entry.pw_gid))
    os.setegid(entry.pw_gid)
    os.seteuid(entry.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def submit_by_hand(cluster: SlurmCluster, script: Path) -> str:
    """`sbatch job.sh`, as somebody at the login node types it; the job's id."""
    done = cluster.run("sbatch", "--parsable", f"--chdir={script.parent}/work", str(script))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def starts(site: Site, job_ids: Sequence[str]) -> dict[str, int]:
    """How often each first attempt is expected to have started."""
    return {site.work(job_id): 1 for job_id in job_ids}


def _section(name: str, values: Mapping[str, object]) -> str:
    # What JSON writes of strings, numbers and lists is TOML as well.
    return f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
