"""The test cluster itself, so that a failure of the portal's tests on it is the portal's."""

import json
import os
import pwd
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm_cluster import JOBS_ACCOUNT, SlurmCluster, new_cluster, own_cluster, skip_unless_possible
from tests.waiting import wait_until

pytestmark = pytest.mark.daemon

_HELPER = """\
import json, os
asked = os.environ.get("SSH_ORIGINAL_COMMAND")
print(json.dumps({"asked": asked, "conf": os.environ["SLURM_CONF"], "uid": os.getuid()}))
"""


def _accounting(cluster: SlurmCluster, job: str) -> list[str]:
    done = cluster.run(
        "sacct", "-X", "-P", "-n", "-S", "now-1hours", "-j", job, "--format=State,ExitCode,NodeList,User"
    )
    return done.stdout.strip().split("|")


def test_a_job_runs_on_the_node_it_asks_for_as_the_jobs_account(slurm: SlurmCluster) -> None:
    work = slurm.jobs_dir / "work"
    work.mkdir()
    shutil.chown(work, "portal", JOBS_ACCOUNT)
    work.chmod(0o2770)
    job = slurm.submit(f"hostname >{work}/output.txt; id -un >>{work}/output.txt; exit 7", "--nodelist=node2")
    slurm.wait_for_state(job, "FAILED")
    assert (work / "output.txt").read_text() == "node2\nportal-jobs\n"
    wait_until(
        lambda: _accounting(slurm, job) == ["FAILED", "7:0", "node2", "portal-jobs"], 20, "the job in accounting"
    )


def test_the_jobs_folder_is_as_at_a_real_site(slurm: SlurmCluster) -> None:
    about = slurm.jobs_dir.stat()
    assert (slurm.jobs_dir.owner(), slurm.jobs_dir.group()) == ("portal", JOBS_ACCOUNT)
    assert stat.S_IMODE(about.st_mode) == 0o2750
    assert not list(slurm.jobs_dir.iterdir())
    groups = subprocess.run(["id", "-nG", "portal"], capture_output=True, text=True, check=True).stdout.split()
    assert JOBS_ACCOUNT in groups
    # The jobs' account reads what the portal wrote, and writes only where it may.
    assert slurm.run("touch", str(slurm.jobs_dir / "new")).returncode != 0
    assert slurm.run("ls", str(slurm.jobs_dir)).returncode == 0


@pytest.fixture
def impatient() -> Iterator[SlurmCluster]:
    """A cluster of its own that soon calls a silent node dead, where the shared one is patient."""
    with own_cluster("impatient", "--nodes", "2", "--no-ssh", slurmd_timeout_seconds=5) as cluster:
        yield cluster


def test_a_dead_node_fails_its_job_and_works_again_once_revived(impatient: SlurmCluster) -> None:
    job = impatient.submit("sleep 300", "--no-requeue", "--nodelist=node2")
    impatient.wait_for_state(job, "RUNNING")
    impatient.kill_node("node2")
    assert not _processes_of(impatient, job)
    impatient.wait_for_state(job, "NODE_FAIL", seconds=60)
    impatient.revive_node("node2")
    impatient.wait_for_node("node2", "idle", seconds=60)
    after = impatient.submit("true", "--nodelist=node2")
    impatient.wait_for_state(after, "COMPLETED")


def test_killing_a_node_with_now_fails_its_job_at_once(slurm: SlurmCluster) -> None:
    job = slurm.submit("sleep 300", "--no-requeue", "--nodelist=node1")
    slurm.wait_for_state(job, "RUNNING")
    slurm.kill_node("node1", now=True)
    slurm.wait_for_state(job, "NODE_FAIL", seconds=2)
    assert slurm.run("sinfo", "-h", "-n", "node1", "-p", "main", "-o", "%E").stdout.strip() == "node crashed"


def test_a_node_that_boots_before_it_was_missed_fails_its_job_too(impatient: SlurmCluster) -> None:
    job = impatient.submit("sleep 300", "--no-requeue", "--nodelist=node1")
    impatient.wait_for_state(job, "RUNNING")
    impatient.kill_node("node1")
    impatient.revive_node("node1")
    impatient.wait_for_state(job, "NODE_FAIL", seconds=30)


def test_a_job_outlives_slurmctld(slurm: SlurmCluster) -> None:
    job = _job_until_told(slurm)
    slurm.stop_daemon("ctld")
    assert slurm.run("squeue").returncode == 1
    assert _processes_of(slurm, job)
    slurm.start_daemon("ctld")
    assert slurm.state(job) == "RUNNING"
    _tell(slurm)
    slurm.wait_for_state(job, "COMPLETED")


def test_a_job_outlives_its_nodes_slurmd(slurm: SlurmCluster) -> None:
    job = _job_until_told(slurm)
    slurm.stop_daemon("node1")
    assert _processes_of(slurm, job)
    slurm.start_daemon("node1")
    _tell(slurm)
    slurm.wait_for_state(job, "COMPLETED")


def _job_until_told(cluster: SlurmCluster) -> str:
    job = cluster.submit(f"until [ -e {cluster.jobs_dir}/go ]; do sleep 0.1; done", "--nodelist=node1")
    cluster.wait_for_state(job, "RUNNING")
    return job


def _tell(cluster: SlurmCluster) -> None:
    (cluster.jobs_dir / "go").touch()


def test_the_restricted_key_runs_the_helper_and_nothing_else(slurm: SlurmCluster) -> None:
    helper = slurm.jobs_dir / ".node" / "current" / "submit.pyz"
    helper.parent.mkdir(parents=True)
    helper.write_text(_HELPER)
    done = _ssh(slurm, "helper", "rm -rf /tmp/nothing; id")
    assert json.loads(done.stdout) == {
        "asked": "rm -rf /tmp/nothing; id",
        "conf": slurm.environment["SLURM_CONF"],
        "uid": pwd.getpwnam(JOBS_ACCOUNT).pw_uid,
    }
    terminal = _ssh(slurm, "helper", "", "-tt")
    assert "PTY allocation request failed" in terminal.stderr
    forwarded = _ssh(slurm, "helper", "", "-o", "ExitOnForwardFailure=yes", "-W", f"127.0.0.1:{slurm.ssh_port}")
    assert forwarded.returncode != 0
    assert "administratively prohibited" in forwarded.stderr


def test_the_restricted_key_and_a_jobs_folder_with_an_awkward_name(second_cluster: SlurmCluster) -> None:
    second_cluster.jobs_dir = second_cluster.home / 'it\'s "mine" \\" $HOME'
    second_cluster.up("--nodes", "1", "--no-accounting")
    helper = second_cluster.jobs_dir / ".node" / "current" / "submit.pyz"
    helper.parent.mkdir(parents=True)
    helper.write_text("print(8 / 2)")
    assert _ssh(second_cluster, "helper", "").stdout == "4.0\n"


def test_the_other_key_is_for_people(slurm: SlurmCluster) -> None:
    done = _ssh(slurm, "people", "id -un; sinfo -h -N -o %N | sort -u")
    assert done.stdout == "portal-jobs\nnode1\nnode2\nnode3\n"


def _ssh(cluster: SlurmCluster, host: str, command: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ssh", "-F", str(cluster.ssh_config), *options, host, *([command] if command else [])],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )


def _processes_of(cluster: SlurmCluster, job: str) -> list[int]:
    # Other clusters of this machine have jobs with the same id.
    wanted = [f"\0SLURM_JOB_ID={job}\0".encode(), f"\0SLURM_CONF={cluster.environment['SLURM_CONF']}\0".encode()]
    return [pid for pid, environment in _environments() if all(variable in environment for variable in wanted)]


def _environments() -> Iterator[tuple[int, bytes]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                yield int(folder.name), b"\0" + (folder / "environ").read_bytes()
            except OSError:
                continue  # it has ended


def _processes_that_name(text: Path) -> set[int]:
    """All processes with this on their command line or in their environment, but this one and its parents."""
    found = set()
    for pid, environment in _environments():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if bytes(text) in environment + command:
            found.add(pid)
    return found - {os.getpid(), os.getppid()}


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def second_cluster() -> Iterator[SlurmCluster]:
    skip_unless_possible()
    cluster = new_cluster(f"second-{os.getpid()}")
    try:
        yield cluster
    finally:
        cluster.remove()


def test_a_second_cluster_beside_the_first_and_nothing_left_of_it(
    slurm: SlurmCluster, second_cluster: SlurmCluster
) -> None:
    before = _processes_that_name(slurm.home)
    second_cluster.up("--nodes", "1")
    second_cluster.up("--nodes", "1")  # changes nothing
    job = second_cluster.submit("sleep 300")
    second_cluster.wait_for_state(job, "RUNNING")
    ports = [second_cluster.port + offset for offset in (6, 17, 19, 22, 101)]
    assert all(_listens(port) for port in ports)
    assert _processes_that_name(second_cluster.home)

    second_cluster.down()
    assert not _processes_that_name(second_cluster.home)
    assert not [port for port in ports if _listens(port)]

    second_cluster.up()  # with its history
    assert _accounting(second_cluster, job)[3:] == [JOBS_ACCOUNT]
    second_cluster.remove()
    assert not second_cluster.home.exists()
    assert not _processes_that_name(second_cluster.home)
    # The first has noticed nothing, and its accounts are still there.
    assert _processes_that_name(slurm.home) >= before
    slurm.wait_for_state(slurm.submit("true"), "COMPLETED")
