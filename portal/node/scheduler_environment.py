"""What the scheduler says of the job that the wrapper runs in, by environment variables."""

from typing import Mapping

from .status_file import LONGEST_TEXT
from .strict_json import printable


def scheduler_id(environ: Mapping[str, str], pid: int, host: str) -> str:
    """The job's id as the scheduler's own commands take it; `pid-<pid>@<host>` where no scheduler runs it."""
    own = environ.get("PORTAL_SCHEDULER_ID") or _slurm_id(environ) or environ.get("JOB_ID")
    return printable(own or "pid-{}@{}".format(pid, host), LONGEST_TEXT)


def restart_count(environ: Mapping[str, str]) -> int:
    """How often the scheduler started this job before; 0 where it does not say."""
    text = environ.get("SLURM_RESTART_COUNT") or environ.get("RESTARTED") or "0"
    try:
        return min(max(int(text), 0), 2**31 - 1)
    except ValueError:
        return 0


def _slurm_id(environ: Mapping[str, str]) -> str:
    array, task = environ.get("SLURM_ARRAY_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
    if array and task:
        return "{}_{}".format(array, task)
    return environ.get("SLURM_JOB_ID", "")
