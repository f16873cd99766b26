"""The calls of Grid Engine's commands, as argument lists, and the one place that makes them.

They run as the account that the dispatcher runs as, which is the one that jobs run as.
"""

import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from portal.errors import SchedulerError
from portal.node.capped_process import run_capped
from portal.node.command_environment import environment_of_commands
from portal.schedulers.helper import Result

Call = list[str]

CALL_SECONDS = 30.0
MOST_OUTPUT_BYTES = 64 * 1024 * 1024
"""More than any answer that makes sense: 100,000 jobs in the queue are 50 MiB of qstat's XML."""
AT_ONCE = 4

_CELL_VARIABLES = ("SGE_ROOT", "SGE_CELL", "SGE_CLUSTER_NAME", "SGE_QMASTER_PORT", "SGE_EXECD_PORT", "SGE_ARCH")
"""Which cell is meant (sge_intro(1), ENVIRONMENTAL VARIABLES)."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.+-]{0,199}")
_ID = re.compile(r"[1-9][0-9]{0,9}")


def queue_call(user: str) -> Call:
    """All of the account's jobs that have not ended. What is said here outweighs a site's `sge_qstat`."""
    return ["qstat", "-u", user, "-s", "a", "-xml"]


def accounting_call(scheduler_id: str) -> Call:
    """All that accounting has under this id: each run of its own."""
    if not is_id(scheduler_id):
        raise _not_ours(scheduler_id)
    return ["qacct", "-j", scheduler_id]


def accounting_by_name_call(name: str) -> Call:
    """All that accounting has under this name. It reads all of its file: a fifth of a second for 200,000 jobs."""
    if not _NAME.fullmatch(name):
        # A number would be an id, and `*` every name.
        raise _not_ours(name)
    return ["qacct", "-j", name]


def is_id(text: str) -> bool:
    """Whether Grid Engine could have given this id."""
    return _ID.fullmatch(text) is not None


def environment_of_grid_engine(environ: Mapping[str, str]) -> dict[str, str]:
    """What the commands get where this process has `environ`: as all of them, and which cell is meant."""
    environment = environment_of_commands(environ)
    cell = {name: environ[name] for name in _CELL_VARIABLES if environ.get(name)}
    if "SGE_ROOT" in cell and "SGE_ARCH" in cell:
        environment["PATH"] += f":{cell['SGE_ROOT']}/bin/{cell['SGE_ARCH']}"
    return environment | cell


class GridEngineCommands:
    """Makes the calls: within a time and a size, no shell, no standard input."""

    def __init__(self, call_seconds: float = CALL_SECONDS, most_bytes: int = MOST_OUTPUT_BYTES) -> None:
        self._call_seconds = call_seconds
        self._most_bytes = most_bytes

    def call(self, calls: list[Call]) -> list[Result]:
        """One result a call, in their order, a few of them at once."""
        if len(calls) <= 1:
            return [self._run(call) for call in calls]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(self._run, calls))

    def _run(self, call: Call) -> Result:
        try:
            environment = environment_of_grid_engine(os.environ)
            ended = run_capped(call, b"", environment, "/", self._call_seconds, self._most_bytes)
        except OSError as error:
            return Result(None, "", f"{call[0]}: {error.strerror}", "cannot be started")
        # What is cut is no answer, so none of it is handed on.
        stdout = "" if ended.failure else ended.stdout.decode("utf-8", "replace")
        return Result(ended.exit_code, stdout, ended.stderr.decode("utf-8", "replace"), ended.failure)


def _not_ours(text: str) -> SchedulerError:
    return SchedulerError("The scheduler cannot be asked for this job.", log_detail=f"not a job of ours: {text!r}")
