"""`make demo-drmaa`: the story of `make demo` on a real Grid Engine, by DRMAA. For root, on Debian 12.

`cell.sh` brings a cell up. The portal and its jobs run as one account, `portal-cell`: a DRMAA library submits as
whoever calls it. At the end the cell, its data and the account are gone.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from deploy.demo import DemoError, Portal, demonstrate, free_base, run_demonstration, wait_for

HERE = Path(__file__).resolve().parent
ACCOUNT = "portal-cell"
LIBRARY = "/usr/lib/gridengine-drmaa/lib/libdrmaa.so.1.0"
ACCOUNTING_SECONDS = 30
_FIELDS = ("qname", "hostname", "owner", "jobname", "jobnumber", "failed", "exit_status", "ru_wallclock")


def main() -> int:
    """The exit code."""
    if os.geteuid() != 0:
        print("make demo-drmaa needs root: it starts a Grid Engine", file=sys.stderr)
        return 2
    home = Path(tempfile.mkdtemp(prefix="portal-grid-engine-demo-"))
    home.chmod(0o755)  # every account reads the cell's settings
    os.environ |= {
        "CELL_HOME": str(home),
        "CELL_PORT": str(free_base(range(16900, 20000, 100), (0, 1))),
        "CELL_JOBS_DIR": str(home / "jobs"),
    }
    try:
        if _cell("up"):
            print("The demonstration failed: the cell did not come up", file=sys.stderr)
            return 1
        return _run(home)
    finally:
        _cell("down", "--purge")
        shutil.rmtree(home, ignore_errors=True)


def _run(home: Path) -> int:
    as_account = ["setpriv", f"--reuid={ACCOUNT}", f"--regid={ACCOUNT}", "--init-groups", "--"]
    if subprocess.run([*as_account, "test", "-x", sys.executable]).returncode:
        print(f"The account {ACCOUNT} cannot reach {sys.executable}: put the portal where others can", file=sys.stderr)
        return 1
    folder = home / "portal"
    folder.mkdir()
    shutil.chown(folder, ACCOUNT, ACCOUNT)
    cell = {
        "SGE_ROOT": str(home / "root"),
        "SGE_CELL": "default",
        "SGE_QMASTER_PORT": os.environ["CELL_PORT"],
        "SGE_EXECD_PORT": str(int(os.environ["CELL_PORT"]) + 1),
    }
    os.environ |= cell
    settings = {
        "PORTAL_PORTAL__JOBS_DIR": str(home / "jobs"),
        "PORTAL_SCHEDULER__KIND": "drmaa",
        "PORTAL_SCHEDULER__DRMAA__LIBRARY": LIBRARY,
        "PORTAL_SCHEDULER__NODE_PYTHON": "/usr/bin/python3",
        "PORTAL_SCHEDULER__POLL_SECONDS": "1",
    }
    return run_demonstration(Portal(folder, settings, as_account), _tell)


def _tell(portal: Portal) -> None:
    job_id = demonstrate(portal)
    facts = wait_for("the job in accounting", ACCOUNTING_SECONDS, lambda: _accounting(job_id))
    print(f"It ran on {facts['hostname']}, as {facts['owner']}. qacct says of job {facts['jobnumber']}:")
    for name in _FIELDS:
        print(f"  | {name:<14}{facts[name]}", flush=True)
    if facts["failed"].split()[0] != "0" or facts["exit_status"].split()[0] != "0":
        raise DemoError("accounting says that it failed")


def _accounting(job_id: str) -> dict[str, str]:
    """What qacct has of the job's last attempt; empty before it has it."""
    command = ["qacct", "-o", ACCOUNT, "-j", f"portal-*-{job_id}-*"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"TZ": "UTC"})
    words = (line.split(maxsplit=1) for line in done.stdout.splitlines())
    facts = {parts[0]: parts[1].strip() for parts in words if len(parts) == 2}
    return facts if all(name in facts for name in _FIELDS) else {}


def _cell(*arguments: str) -> int:
    return subprocess.run([str(HERE / "cell.sh"), *arguments], stdin=subprocess.DEVNULL).returncode


if __name__ == "__main__":
    sys.exit(main())
