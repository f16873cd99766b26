"""`make demo-slurm`: the story of `make demo` on a real Slurm with three nodes. For root, on Debian 12.

`cluster.sh` brings the cluster up. The portal runs as `portal` and jobs as `portal-jobs`, by sudo. At the end the
cluster, its data and the accounts that it made are gone.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from deploy.demo import DemoError, Portal, demonstrate, free_base, run_demonstration, wait_for

HERE = Path(__file__).resolve().parent

ACCOUNTING_SECONDS = 30
_PORT_OFFSETS = (6, 17, 19, 22, 101, 102, 103)
"""Those that cluster.sh says it uses with three nodes."""


def main() -> int:
    """The exit code."""
    if os.geteuid() != 0:
        print("make demo-slurm needs root: it starts a Slurm whose jobs run as another account", file=sys.stderr)
        return 2
    home = Path(tempfile.mkdtemp(prefix="portal-slurm-demo-"))
    home.chmod(0o755)  # every account reads the cluster's settings
    os.environ |= {
        "CLUSTER_HOME": str(home),
        "CLUSTER_PORT": str(free_base(range(16800, 20000, 200), _PORT_OFFSETS)),
        "CLUSTER_JOBS_DIR": str(home / "jobs"),
    }
    try:
        if _cluster("up", "--nodes", "3", "--no-ssh"):
            print("The demonstration failed: the cluster did not come up", file=sys.stderr)
            return 1
        return _run(home)
    finally:
        _cluster("down", "--purge")
        shutil.rmtree(home, ignore_errors=True)


def _run(home: Path) -> int:
    if not _portal_can_read(Path(sys.executable)):
        print(f"The account portal cannot reach {sys.executable}: put the portal where others can", file=sys.stderr)
        return 1
    folder = home / "portal"
    folder.mkdir()
    shutil.chown(folder, "portal", "portal-jobs")
    conf = f"SLURM_CONF={home}/etc/slurm.conf"
    settings = {
        "PORTAL_PORTAL__JOBS_DIR": str(home / "jobs"),
        "PORTAL_SCHEDULER__KIND": "slurm",
        "PORTAL_SCHEDULER__COMMAND_PREFIX": json.dumps(["sudo", "-n", "-u", "portal-jobs", "env", conf]),
        "PORTAL_SCHEDULER__NODE_PYTHON": "/usr/bin/python3",
        "PORTAL_SCHEDULER__POLL_SECONDS": "1",
    }
    portal = Portal(folder, settings, [str(HERE / "as_portal.sh")])
    return run_demonstration(portal, lambda portal: _tell(portal, home))


def _tell(portal: Portal, home: Path) -> None:
    job_id = demonstrate(portal)
    line = wait_for("the job in accounting", ACCOUNTING_SECONDS, lambda: _accounting_line(home, job_id))
    scheduler_id, state, exit_code, node, account = line.split("|")[:5]
    if state != "COMPLETED":
        raise DemoError(f"accounting says {line!r}")
    print(f"It ran on {node}, as {account}. sacct says of job {scheduler_id}: {state}, exit code {exit_code}")
    print(f"  | {line}", flush=True)


def _accounting_line(home: Path, job_id: str) -> str:
    """What sacct has of the job, once it has its end; empty before."""
    done = subprocess.run(
        [
            "sacct",
            "-X",
            "-P",
            "-n",
            "-a",
            "-S",
            "now-1hours",
            "--format=JobID,State,ExitCode,NodeList,User,Elapsed,JobName",
        ],
        env={"PATH": os.environ["PATH"], "SLURM_CONF": f"{home}/etc/slurm.conf", "TZ": "UTC"},
        capture_output=True,
        text=True,
    )
    lines = [line for line in done.stdout.splitlines() if f"-{job_id}-" in line]
    return lines[0] if lines and "|RUNNING|" not in lines[0] else ""


def _cluster(*arguments: str) -> int:
    return subprocess.run([str(HERE / "cluster.sh"), *arguments], stdin=subprocess.DEVNULL).returncode


def _portal_can_read(file: Path) -> bool:
    command = ["setpriv", "--reuid=portal", "--regid=portal", "--init-groups", "--", "test", "-x", str(file)]
    return subprocess.run(command).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
