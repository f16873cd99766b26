"""A real Slurm for tests: `deploy/slurm/cluster.sh` from Python, and fixtures that share one cluster.

A test asks for the fixture `slurm` (import it into a conftest.py, together with `slurm_session`). It gets the cluster
for itself, healthy, with no job in it and with an empty jobs folder; what it breaks is mended before the next.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.clusters import home_with_ports, name_for, session_folder
from tests.sharing import locked, shared
from tests.waiting import wait_until

CLUSTER_SCRIPT = Path(__file__).parents[1] / "deploy" / "slurm" / "cluster.sh"
JOBS_ACCOUNT = "portal-jobs"

_SCRIPT_SECONDS = 240  # the first `up` on a machine installs packages
_LOG_LINES = 15

# cluster.sh is quick to call a node dead, for people who watch. On a machine that runs other tests as well, or with
# munge stopped for a while, nodes that are well are silent for longer than that.
_PATIENT_SECONDS = 30
_MESSAGE_SECONDS = 3
# A test may have to wait for another worker's, and for the cluster to come up.
_TEST_SECONDS = 600


class SlurmCluster:
    """One cluster, in `home` and from `port` on (cluster.sh says which ports these are)."""

    kind = "Slurm"

    def __init__(self, home: Path, port: int) -> None:
        self.home = home
        self.port = port
        self.jobs_dir = home / "jobs"
        """The portal's jobs folder, which the restricted SSH key is for. Set before `up`, it may be another."""
        self.extra_conf = ""
        """Lines for the end of slurm.conf, from the next `up` on."""
        self.slurmd_timeout_seconds = _PATIENT_SECONDS
        """After how much silence a node counts as dead. Set before the first `up`."""

    @property
    def ssh_port(self) -> int:
        """Where its sshd listens, on 127.0.0.1."""
        return self.port + 22

    @property
    def ssh_config(self) -> Path:
        """For `ssh -F`: the hosts `people` (any command) and `helper` (the portal's helper, whatever is asked for)."""
        return self.home / "ssh" / "config"

    @property
    def helper_key(self) -> Path:
        """The private key of `helper`."""
        return self.home / "ssh" / "helper_key"

    @property
    def known_hosts(self) -> Path:
        """The host key of its sshd."""
        return self.home / "ssh" / "known_hosts"

    @property
    def environment(self) -> dict[str, str]:
        """What Slurm's commands need to find this cluster; times in UTC, messages in English."""
        return {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "SLURM_CONF": str(self.home / "etc" / "slurm.conf"),
            "TZ": "UTC",
            "LC_ALL": "C",
        }

    def up(self, *options: str) -> None:
        """Start it, or what is missing of it; returns when all nodes are ready for jobs."""
        self._script("up", *options)

    def down(self, *, purge: bool = False) -> None:
        """Stop all of it, jobs too; with `purge` nothing is left of it."""
        self._script("down", *(["--purge"] if purge else []))

    def remove(self) -> None:
        """Stop it and remove every trace of it."""
        self.down(purge=True)
        shutil.rmtree(self.home, ignore_errors=True)

    def kill_node(self, name: str, *, now: bool = False) -> None:
        """Kill it and its jobs. slurmctld finds out after some seconds, or with `now` is told."""
        self._script("kill-node", name, *(["--now"] if now else []))

    def revive_node(self, name: str) -> None:
        """Boot it again. It takes some seconds until it is ready: see `wait_for_node`."""
        self._script("revive-node", name)

    def stop_daemon(self, name: str, with_signal: signal.Signals = signal.SIGTERM) -> None:
        """Stop `ctld`, `dbd`, `db`, `munge`, `sshd`, or a node's slurmd; returns when it is gone."""
        self._script("stop-daemon", name, with_signal.name.removeprefix("SIG"))

    def start_daemon(self, name: str) -> None:
        """Start it again; returns when it answers."""
        self._script("start-daemon", name)

    def run(self, *command: str, account: str = JOBS_ACCOUNT, seconds: float = 30) -> subprocess.CompletedProcess[str]:
        """A command with the cluster's environment; raises nothing where it fails. In the jobs folder."""
        return subprocess.run(
            command,
            env=self.environment,
            cwd=self.jobs_dir if self.jobs_dir.exists() else "/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            user=account,
            group=JOBS_ACCOUNT,
            extra_groups=[],
        )

    def submit(self, script: str, *options: str) -> str:
        """The id of a new job of portal-jobs that runs `script` with /bin/sh; its output is not kept."""
        done = self.run("sbatch", "--parsable", "--chdir=/", "--output=/dev/null", *options, "--wrap", script)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """What squeue calls its state; empty where it knows no such job or does not answer."""
        return self.run("squeue", "-h", "-t", "all", "-j", job, "-o", "%T").stdout.strip()

    def wait_for_state(self, job: str, state: str, seconds: float = 30) -> None:
        """Return when the job is in that state; AssertionError, which says what it is in, after `seconds`."""
        seen = [""]

        def is_there() -> bool:
            seen[0] = self.state(job)
            return seen[0] == state

        try:
            wait_until(is_there, seconds, f"job {job} {state}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {seen[0]!r}") from None

    def wait_for_node(self, name: str, state: str = "idle", seconds: float = 30) -> None:
        """Return when sinfo says so of the node; a `*` behind the state, for "does not answer", is part of it."""

        def is_there() -> bool:
            return self.run("sinfo", "-h", "-p", "main", "-n", name, "-o", "%T").stdout.strip() == state

        wait_until(is_there, seconds, f"{name} {state}")

    def make_jobs_dir(self) -> None:
        """An empty jobs folder, as a real site has it: the portal's, mode 2750, its group the jobs'."""
        if self.jobs_dir.exists():
            shutil.rmtree(self.jobs_dir)
        self.jobs_dir.mkdir()
        shutil.chown(self.jobs_dir, "portal", JOBS_ACCOUNT)
        self.jobs_dir.chmod(0o2750)

    def cancel_all(self) -> None:
        """Cancel every job and return when none is left in the queue."""
        for account in (JOBS_ACCOUNT, "portal", "root"):
            self.run("scancel", "--user", account, account="root")
        # Not `-t all`, which would list the finished ones too. A job whose launch or end was lost with munge stays
        # until slurmctld (60 s) or its slurmstepd (17 s) asks again.
        wait_until(self._is_empty, 120, "an empty queue")

    def _is_empty(self) -> bool:
        queue = self.run("squeue", "-h", "-o", "%i")
        return queue.returncode == 0 and not queue.stdout

    def diagnostics(self) -> str:
        """For people, after a failure: nodes, queue, accounting, and the end of each log."""
        if not self.home.exists():
            return "The cluster has been taken down already."
        commands = (
            ("sinfo", "-N", "-o", "%N %T %E"),
            ("squeue", "-a", "-t", "all", "-o", "%i %j %u %T %r %N"),
            ("sacct", "-X", "-D", "-a", "-S", "now-1hours", "--format=JobID%15,JobName%40,State%20,ExitCode,NodeList"),
        )
        parts = [f"$ {' '.join(command)}\n{self._answer(*command)}" for command in commands]
        parts += [
            f"{log}:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
            for log in sorted((self.home / "log").glob("*.log"))
            if log.stat().st_size
        ]
        return "\n\n".join(parts)

    def _answer(self, *command: str) -> str:
        try:
            done = self.run(*command, seconds=10)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        return done.stdout + done.stderr

    def _script(self, *arguments: str) -> None:
        environment = os.environ | {
            "CLUSTER_HOME": str(self.home),
            "CLUSTER_PORT": str(self.port),
            "CLUSTER_JOBS_DIR": str(self.jobs_dir),
            "CLUSTER_EXTRA_CONF": self.extra_conf,
            "SLURMD_TIMEOUT": str(self.slurmd_timeout_seconds),
            "MESSAGE_TIMEOUT": str(_MESSAGE_SECONDS),
        }
        done = subprocess.run(
            [str(CLUSTER_SCRIPT), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SCRIPT_SECONDS,
        )
        assert done.returncode == 0, f"cluster.sh {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}"


def skip_unless_possible() -> None:
    """Skip the test, with the reason, where no cluster can be had."""
    if os.geteuid() != 0:
        pytest.skip("a Slurm cluster needs root (cluster.sh)")
    if subprocess.run(["unshare", "--mount", "--uts", "--pid", "--fork", "true"], capture_output=True).returncode:
        pytest.skip("a Slurm cluster needs namespaces, and this machine does not let root make them")


def can_limit_memory() -> bool:
    """Whether this machine has what `--cgroup` needs: the memory controller of cgroup v1."""
    return Path("/sys/fs/cgroup/memory/cgroup.procs").exists()


def new_cluster(name: str) -> SlurmCluster:
    """A cluster that is not up yet, with a home and 200 ports of its own; the same name gives the same cluster."""
    # Below those that the kernel hands out.
    ports = (6, 17, 19, 22, *range(101, 110))
    return SlurmCluster(*home_with_ports("portal-slurm", name, range(20000, 32000, 200), ports))


@contextmanager
def own_cluster(
    name: str, *options: str, slurmd_timeout_seconds: int = _PATIENT_SECONDS, extra_conf: str = ""
) -> Iterator[SlurmCluster]:
    """A cluster for one test, beside the session's; `options` are those of `cluster.sh up`."""
    skip_unless_possible()
    with ExitStack() as stack:
        if "--cgroup" in options:
            # The groups are named after the nodes, which every cluster calls alike.
            stack.enter_context(locked(Path(tempfile.gettempdir()) / "portal-slurm-cgroup.lock"))
        cluster = new_cluster(f"{name}-{os.getpid()}")
        cluster.slurmd_timeout_seconds = slurmd_timeout_seconds
        cluster.extra_conf = extra_conf
        stack.callback(cluster.remove)
        cluster.up(*options)
        cluster.make_jobs_dir()
        yield cluster


@contextmanager
def shared_cluster(folder: Path) -> Iterator[SlurmCluster]:
    """The one cluster of all processes that call this with the same folder; the last one to leave takes it down."""

    def start() -> SlurmCluster:
        cluster = new_cluster(name_for(folder))
        cluster.up()
        return cluster

    with shared(folder, "slurm", start, SlurmCluster.remove) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def slurm_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """The one cluster of the session, for all of pytest-xdist's workers. Tests ask for `slurm`."""
    skip_unless_possible()
    with shared_cluster(session_folder(tmp_path_factory)) as cluster:
        yield cluster


@pytest.fixture
def slurm(slurm_session: SlurmCluster) -> Iterator[SlurmCluster]:
    """The cluster, whole, without jobs, and with an empty jobs folder; for this test alone.

    Alone, since a test may kill a node or stop slurmctld; workers wait for each other here.
    """
    with locked(slurm_session.home / "one-test-at-a-time"):
        slurm_session.up("--no-install")
        slurm_session.make_jobs_dir()
        yield slurm_session
        slurm_session.up("--no-install")
        slurm_session.cancel_all()


USES_SLURM = (pytest.mark.xdist_group("slurm"), pytest.mark.timeout(_TEST_SECONDS))
"""Marks of tests that use the session's cluster: they wait for each other, so one worker may as well run them all."""
