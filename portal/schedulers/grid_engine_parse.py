"""What Grid Engine's commands print, read: pure functions over text.

Whatever is not exactly what was asked for is `SchedulerError`: half an answer would make the other half "absent".
Sources: sge_status(5) for the letters of states and the numbers of failures, accounting(5) for qacct's fields; with
8.1.9, the recordings in tests/data/grid-engine/.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import structlog

from portal.errors import SchedulerError
from portal.schedulers.base import Handle, Observation, SchedulerState

log = structlog.get_logger()

_LETTERS = frozenset("dEhqrRsSTtwP")

_BY_SIGNAL = 100
"""`assumedly after job`: the script died of a signal. accounting has the number + 128 for its exit code."""
_LIMIT_ENFORCED = 37
"""`qmaster enforced h_rt, h_cpu, or h_vmem limit`."""
_RUNS_AGAIN = frozenset({24, 25})
"""`migrating`, `rescheduling`: one run of several. The job goes back into the queue; it has not ended."""
_NODE_CRASHED = frozenset({19, 21})
"""`before writing exit_status` (the shepherd and all its files are gone: a crash, says sge_status(5)) and `in
recognizing job` (the execd does not know what it was given)."""

_SEPARATOR = "=" * 62
_RECORD_END = "category"
_FAILED = re.compile(r"([0-9]{1,3})(?:\s*:\s*(.*))?")
_NUMBER = re.compile(r"-?[0-9]{1,9}")
_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,6})?)([KMGT]?)B?")
_TIME_LIMIT = re.compile(r"(?:^|[ ,])h_rt=([0-9]{1,9})(?=,|\s|$)")
_MEMORY_LIMIT = re.compile(r"(?:^|[ ,])h_vmem=([0-9.]{1,18}[KMGTkmgt]?)(?=,|\s|$)")
_NOT_FOUND = re.compile(r"^error: job (id|name) .* not found$", re.MULTILINE)


@dataclass(frozen=True)
class Row:
    """One job in the queue, or one run of a job in accounting."""

    scheduler_id: str
    name: str
    owner: str
    observation: Observation
    has_ended: bool = False
    """Accounting only: false for a run after which the job went back into the queue."""

    def is_of(self, handle: Handle) -> bool:
        """Ids begin again when a cell is set up anew, so id and name must agree."""
        return self.scheduler_id == handle.scheduler_id and self.name == handle.name


def latest(rows: Iterable[Row], handle: Handle) -> Row | None:
    """The last of the rows that are this job's."""
    found = None
    for row in rows:
        if row.is_of(handle):
            found = row
    return found


def queue_rows(stdout: str) -> list[Row]:
    """The answer to `queue_call`. Raises SchedulerError where it is not whole."""
    if "<!" in stdout:
        # qstat writes no document type: with one, small texts can be made to expand without end.
        raise _not_an_answer("qstat", stdout)
    try:
        root = ET.fromstring(stdout)  # noqa: S314  # no document type, see above
    except (ET.ParseError, ValueError) as error:
        raise _not_an_answer("qstat", stdout) from error
    lists = [root.find("queue_info"), root.find("job_info")]
    if root.tag != "job_info" or any(part is None for part in lists):
        raise _not_an_answer("qstat", stdout)
    return [_queue_row(job) for part in lists if part is not None for job in part.iter("job_list")]


def _queue_row(job: ET.Element) -> Row:
    scheduler_id, name, letters = (job.findtext(tag) for tag in ("JB_job_number", "JB_name", "state"))
    if not scheduler_id or name is None or not letters:
        raise _not_an_answer("qstat", ET.tostring(job, "unicode"))
    _, _, node = (job.findtext("queue_name") or "").partition("@")
    observation = replace(
        queue_observation(letters), node=node or None, started_at=_iso_time(job.findtext("JAT_start_time"))
    )
    return Row(scheduler_id, name, job.findtext("JB_owner") or "", observation)


def queue_observation(letters: str) -> Observation:
    """What the letters of a state say: `qw`, `hqw`, `Eqw`, `t`, `r`, `Rr`, `s`, `dr` and so on."""
    if not set(letters) <= _LETTERS:
        log.warning("Grid Engine has a state that the portal does not know", letters=letters[:20])
        return Observation(SchedulerState.UNKNOWN, letters[:20])
    if "E" in letters:
        # It was tried and failed, and stays so until somebody calls `qmod -cj`. Only what was submitted by qsub, by
        # hand: a job that came by DRMAA ends instead.
        reason = "it could not be started, and is not tried again (error state)"
        return Observation(SchedulerState.HELD, letters, reason=reason, never_runs=True)
    if "d" in letters:
        # As long as its host does not answer, that can take for ever.
        state = SchedulerState.RUNNING if set(letters) & set("rtsST") else SchedulerState.PENDING
        return Observation(state, letters, reason="its deletion is under way")
    if set(letters) & set("sST"):
        return Observation(SchedulerState.SUSPENDED, letters)
    if "h" in letters and "r" not in letters:
        return Observation(SchedulerState.HELD, letters, reason="it is held")
    if "r" in letters:
        return Observation(SchedulerState.RUNNING, letters)
    # `t`: on its way to a node, where its script has not begun.
    return Observation(SchedulerState.PENDING, letters)


def accounting_rows(stdout: str) -> list[Row]:
    """The answer to `accounting_call`, in the order in which the runs ended. Raises SchedulerError."""
    records = stdout.split(f"{_SEPARATOR}\n")
    if records[0].strip():
        raise _not_an_answer("qacct", stdout)
    return [_accounting_row(record) for record in records[1:]]


def knows_no_such_job(stderr: str) -> bool:
    """Whether qacct says that its file, which it has read, has nothing of this id or name."""
    return _NOT_FOUND.search(stderr) is not None


def _accounting_row(record: str) -> Row:
    fields = _fields(record)
    wanted = ("jobnumber", "jobname", "failed", "exit_status", _RECORD_END)
    if not record.endswith("\n") or any(name not in fields for name in wanted):
        raise _not_an_answer("qacct", record)
    failed = _FAILED.fullmatch(fields["failed"])
    exit_status = _NUMBER.match(fields["exit_status"])
    if failed is None or exit_status is None:
        raise _not_an_answer("qacct", record)
    code = int(failed[1])
    observation = replace(
        _ending(code, (failed[2] or "").strip(), int(exit_status[0]), fields),
        node=fields.get("hostname") or None,
        started_at=_local_time(fields.get("start_time", "")),
        ended_at=_local_time(fields.get("end_time", "")),
    )
    has_ended = code not in _RUNS_AGAIN
    return Row(fields["jobnumber"], fields["jobname"], fields.get("owner", ""), observation, has_ended)


def _fields(record: str) -> dict[str, str]:
    """`name      value`; qacct puts blanks behind."""
    fields = {}
    for line in record.splitlines():
        name, _, value = line.partition(" ")
        fields[name] = value.strip()
    return fields


def _ending(failed: int, words: str, exit_status: int, fields: dict[str, str]) -> Observation:
    raw_state = f"failed {failed} ({words})" if failed else f"exit_status {exit_status}"
    if failed == 0 and exit_status == 0:
        return Observation(SchedulerState.COMPLETED, raw_state, exit_code=0)
    if failed == 0:
        return Observation(SchedulerState.FAILED, raw_state, exit_code=exit_status)
    if failed == _LIMIT_ENFORCED:
        return Observation(_limit_reached(fields), raw_state)
    if failed in _NODE_CRASHED:
        return Observation(SchedulerState.NODE_FAILURE, raw_state)
    if failed in _RUNS_AGAIN:
        return Observation(SchedulerState.UNKNOWN, raw_state, reason="it was to run again")
    if failed == _BY_SIGNAL:
        # Grid Engine does not say who sent it: qdel's SIGKILL looks like every other.
        signal = exit_status - 128
        return Observation(SchedulerState.FAILED, raw_state, signal=signal if 0 < signal < 65 else None)
    return Observation(SchedulerState.FAILED, raw_state)


def _limit_reached(fields: dict[str, str]) -> SchedulerState:
    """Which of the limits it was: Grid Engine does not say, so what was used is compared with what was asked for."""
    category = fields[_RECORD_END]
    seconds, used_seconds = _TIME_LIMIT.search(category), _seconds(fields.get("ru_wallclock", ""))
    if seconds and used_seconds is not None and used_seconds >= int(seconds[1]):
        return SchedulerState.TIME_LIMIT
    limit = _MEMORY_LIMIT.search(category)
    limit_bytes, used_bytes = _bytes(limit[1]) if limit else None, _bytes(fields.get("maxvmem", ""))
    slots = int(fields["slots"]) if _NUMBER.fullmatch(fields.get("slots", "")) else 1
    if limit_bytes is not None and used_bytes is not None and used_bytes >= limit_bytes * slots:
        return SchedulerState.OUT_OF_MEMORY
    return SchedulerState.FAILED


def _seconds(text: str) -> float | None:
    try:
        return float(text.removesuffix("s"))
    except ValueError:
        return None


def _bytes(text: str) -> float | None:
    match = _SIZE.fullmatch(text.upper())
    if match is None:
        return None
    return float(match[1]) * float(1024 ** (" KMGT".index(match[2] or " ")))


def _iso_time(text: str | None) -> datetime | None:
    """A time of qstat's XML, printed with TZ=UTC."""
    try:
        return datetime.strptime(text or "", "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        return None


def _local_time(text: str) -> datetime | None:
    """A time of qacct's, printed with TZ=UTC LC_ALL=C; None for `-/-`, which it says of what never was."""
    try:
        return datetime.strptime(text, "%a %b %d %H:%M:%S %Y").replace(tzinfo=UTC)
    except ValueError:
        return None


def _not_an_answer(command: str, text: str) -> SchedulerError:
    detail = f"{command} printed something else than what it was asked for, or a part of it: …{text[-200:]!r}"
    return SchedulerError("The scheduler's answer makes no sense.", log_detail=detail)
