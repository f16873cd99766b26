"""The `#SBATCH` lines of a batch script.

The script is the request, whole: whoever submits it by hand from its `work/` folder gets the same job. Only
`--chdir` comes on sbatch's command line, because a path may hold characters that a directive line must not.
"""

import re
from pathlib import Path

from portal.errors import SiteError
from portal.schedulers.base import JobSpec

OUTPUT_FILE = "scheduler.out"
"""In the job's working directory: what the wrapper itself had to say, and what Slurm writes at a time limit."""

_NO_FOLDER = re.compile(r"[\\%\n]")
"""Slurm expands `%` in the path of the output file, and drops backslashes: the job dies before its script begins."""
_VALUE = re.compile(r"[A-Za-z0-9_.:+=,-]+")


def directives(spec: JobSpec) -> list[str]:
    """The lines, in a fixed order.

    Raises SiteError for a value that a directive line cannot hold safely, and for a folder that Slurm cannot work in.
    """
    if not can_work_in(spec.working_dir):
        raise SiteError(f"An administrator has to move the portal's jobs folder: {BAD_FOLDER}")
    options = {
        "job-name": spec.name,
        # Accounting keeps it even where a site's tools rename jobs.
        "comment": spec.name,
        "partition": spec.partition,
        "account": spec.account,
        "qos": spec.qos,
        "nodes": "1",
        "ntasks": "1",
        "cpus-per-task": str(spec.cpus),
        "mem": f"{spec.memory_mib}M",
        "time": str(spec.time_limit_minutes),
        "gres": spec.gres,
        "exclude": ",".join(spec.exclude_nodes),
        "output": OUTPUT_FILE,
        "error": OUTPUT_FILE,
        "open-mode": "append",
        # None of the submitter's variables: the script sets what the program is to have.
        "export": "NONE",
    }
    lines = [f"#SBATCH --{name}={_checked(name, value)}" for name, value in options.items() if value]
    # An attempt starts at most once; a second start is a new attempt of the portal's. This refuses even root's requeue.
    return [*lines, "#SBATCH --no-requeue"]


BAD_FOLDER = "Slurm cannot work in a folder whose path has a backslash, a percent sign or an end of line."


def can_work_in(folder: Path) -> bool:
    """Whether Slurm can write a job's output there. Spaces, quotes and other letters do no harm."""
    return _NO_FOLDER.search(str(folder)) is None


def is_directive_value(text: str) -> bool:
    """Whether a directive line may hold it: no white space, no quotes, nothing that Slurm or a shell expands."""
    return _VALUE.fullmatch(text) is not None


def _checked(name: str, value: str) -> str:
    if not is_directive_value(value):
        raise SiteError(
            "An administrator has to change what the portal asks Slurm for: "
            f"--{name} cannot be {value!r}, which has characters that are not safe."
        )
    return value
