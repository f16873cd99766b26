"""The calls of Slurm's commands, as argument lists. `portal.node.allowed_calls` lets these through and no others."""

import re
import secrets
import string
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import TypeVar

from portal.errors import SchedulerError
from portal.schedulers.base import Handle, JobSpec

Call = list[str]

QUEUE_FIELDS = ("JobID", "Name", "State", "Reason", "exit_code", "NodeList", "StartTime", "EndTime")
ACCOUNTING_FIELDS = ("JobID", "JobName", "State", "ExitCode", "Reason", "NodeList", "Start", "End", "Submit")

EVER = "1970-01-01T00:00:00"
"""Without a start, sacct looks back to midnight only."""
_CHUNK = 500
"""Ids or names of one call: far below the longest argument that Linux takes."""

_NAME = re.compile(r"[A-Za-z0-9_.+-]{1,200}")
_ID = re.compile(r"[0-9]{1,10}(_[0-9]{1,10})?")
_SHAPES_TEXT = re.compile(r"--(noheader|parsable|(delimiter|format|Format)=.*)")

T = TypeVar("T")


def new_separator() -> str:
    """What stands between two fields of one query's answer, and nobody can know before.

    Jobs name themselves and each other: a name such as `x|COMPLETED` must not pass for two fields, nor one with an end
    of line in it for two jobs.
    """
    return f"|{''.join(secrets.choice(string.ascii_letters) for _ in range(8))}|"


def submit_call(spec: JobSpec) -> Call:
    """All that the job asks for stands in its script."""
    return ["sbatch", "--parsable", f"--chdir={spec.working_dir}", str(spec.script)]


def trial_call(spec: JobSpec) -> Call:
    """What would become of a job that asks for this much; nothing is handed in."""
    asked = {
        "partition": spec.partition,
        "account": spec.account,
        "qos": spec.qos,
        "cpus-per-task": str(spec.cpus),
        "mem": f"{spec.memory_mib}M",
        "time": str(spec.time_limit_minutes),
        "gres": spec.gres,
    }
    options = [f"--{name}={value}" for name, value in asked.items() if value]
    return ["sbatch", "--test-only", "--nodes=1", "--ntasks=1", *options, "--wrap=:"]


def queue_call(separator: str) -> Call:
    """All jobs of this account, those that ended within MinJobAge and those of hidden partitions (`--all`) too.

    Without `-j`: one unknown id alone makes it fail, and with 5,000 ids it takes five times as long.
    """
    return [*_queue(separator), "--me"]


def queue_by_name_calls(names: Collection[str], separator: str) -> list[Call]:
    """As `queue_call`, for these names only."""
    return [[*_queue(separator), "--me", f"--name={','.join(chunk)}"] for chunk in _chunks(_names(names))]


def accounting_calls(handles: Collection[Handle], separator: str) -> list[Call]:
    """All that accounting has under these ids, also of other jobs that had them before (`-D`).

    Ids that Slurm never gives (another scheduler's, of before a change of settings) are left out: it has none of them.
    """
    ids = sorted({handle.scheduler_id for handle in handles if is_id(handle.scheduler_id)})
    return [[*_accounting(separator, EVER), f"--jobs={','.join(chunk)}"] for chunk in _chunks(ids)]


def accounting_by_name_calls(names: Collection[str], since: datetime, separator: str) -> list[Call]:
    """All that accounting has under these names of jobs that were there after `since` (UTC)."""
    start = since.strftime("%Y-%m-%dT%H:%M:%S")
    return [[*_accounting(separator, start), f"--name={','.join(chunk)}"] for chunk in _chunks(_names(names))]


def as_json(call: Call) -> Call:
    """The same question to squeue or sacct, answered in JSON: for `slurm_json`, and without what shapes text."""
    return [*(word for word in call if not _SHAPES_TEXT.fullmatch(word)), "--json"]


def cancel_call(handle: Handle) -> Call:
    """End it, if it still has this name: slurmctld gives ids anew when it loses its state."""
    return ["scancel", f"--name={_name(handle.name)}", _id(handle.scheduler_id)]


def ping_call() -> Call:
    return ["scontrol", "ping"]


def version_call() -> Call:
    return ["scontrol", "--version"]


def _queue(separator: str) -> Call:
    fields = ",".join(f"{field}:{separator}" for field in QUEUE_FIELDS)
    return ["squeue", "--all", "--noheader", "--array", "--states=all", f"--Format={fields}"]


def _accounting(separator: str, start: str) -> Call:
    options = ["--noheader", "--allocations", "--duplicates", "--parsable", f"--delimiter={separator}"]
    return ["sacct", *options, f"--starttime={start}", f"--format={','.join(ACCOUNTING_FIELDS)}"]


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), _CHUNK):
        yield items[start : start + _CHUNK]


def is_id(text: str) -> bool:
    """Whether sbatch could have given this id."""
    return _ID.fullmatch(text) is not None


def _names(names: Collection[str]) -> list[str]:
    return sorted({_name(name) for name in names})


def _name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise SchedulerError("The scheduler cannot be asked for this job.", log_detail=f"not a name of ours: {name!r}")
    return name


def _id(text: str) -> str:
    if not is_id(text):
        raise SchedulerError(
            "The scheduler cannot be asked for this job.", log_detail=f"not an id of Slurm's: {text!r}"
        )
    return text
