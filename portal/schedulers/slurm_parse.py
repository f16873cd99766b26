"""What Slurm's commands print, read: pure functions over text.

Whatever is not exactly what was asked for is `SchedulerError`: half an answer would make the other half "absent".
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from portal.errors import SchedulerError
from portal.schedulers.base import Handle, Observation, SchedulerState
from portal.schedulers.slurm_calls import ACCOUNTING_FIELDS, QUEUE_FIELDS
from portal.schedulers.slurm_words import is_held, never_runs, state_of, why_it_ended, why_it_waits

_LAST_REAL_SIGNAL = 31
"""Slurm uses numbers above for errors of its own: 53 could not open a file, 125 out of memory."""
_SUBMITTED = re.compile(r"([0-9]{1,10})(?:;([A-Za-z0-9_.-]+))?\n?")
_EXIT_CODE = re.compile(r"([0-9]{1,5}):([0-9]{1,5})")
_CANCELLED_BY = re.compile(r"CANCELLED by ([0-9]{1,10})")
_VERSION = re.compile(r"(?:slurm(?:-wlm)?) ([0-9][0-9A-Za-z.~-]*)")


class NotUnderstoodError(SchedulerError):
    """The command answered, and not what it was asked for: another version's form, or no answer of its own at all."""

    def __init__(self, log_detail: str) -> None:
        super().__init__("The scheduler's answer makes no sense.", log_detail=log_detail)


@dataclass(frozen=True)
class Row:
    """One job, as the queue or accounting has it."""

    scheduler_id: str
    name: str
    observation: Observation
    submitted_at: datetime | None = None
    """Accounting only."""

    def is_of(self, handle: Handle) -> bool:
        """Ids are used again when slurmctld loses its state, so id and name must agree."""
        return self.scheduler_id == handle.scheduler_id and self.name == handle.name


def submitted_id(stdout: str) -> tuple[str, str] | None:
    """Id and cluster (empty for the own one) of `sbatch --parsable`; None where it printed something else."""
    match = _SUBMITTED.fullmatch(stdout)
    return (match[1], match[2] or "") if match else None


def queue_rows(stdout: str, separator: str) -> list[Row]:
    """The answer to `queue_call`. Raises NotUnderstoodError where it is not whole."""
    return [_queue_row(record) for record in _records(stdout, separator, len(QUEUE_FIELDS), "squeue")]


def accounting_rows(stdout: str, separator: str) -> list[Row]:
    """The answer to `accounting_calls`, the latest submission last. Raises NotUnderstoodError where it is not whole."""
    records = _records(stdout, separator, len(ACCOUNTING_FIELDS), "sacct")
    return by_submission([_accounting_row(record) for record in records])


def by_submission(rows: Iterable[Row]) -> list[Row]:
    """The latest submission last; accounting's own order is another."""
    long_ago = datetime.min.replace(tzinfo=UTC)
    return sorted(rows, key=lambda row: row.submitted_at or long_ago)


def latest(rows: Iterable[Row], handle: Handle) -> Row | None:
    """The last of the rows that are this job's: of a job that was requeued, its last run."""
    found = None
    for row in rows:
        if row.is_of(handle):
            found = row
    return found


def is_up(stdout: str) -> bool:
    """Whether `scontrol ping` found a controller."""
    return re.search(r"^Slurmctld\([^)]*\) at .* is UP$", stdout, re.MULTILINE) is not None


def version_of(stdout: str) -> str | None:
    """The version in `scontrol --version`, such as `22.05.8`."""
    match = _VERSION.match(stdout)
    return match[1] if match else None


def has_no_accounting(stderr: str) -> bool:
    """Whether sacct says that this cluster keeps no accounting at all."""
    return "accounting storage is disabled" in stderr


def is_gone(stderr: str) -> bool:
    """Whether scancel failed only because there is nothing left to cancel."""
    gone = ("Invalid job id specified", "Job/step already completing or completed")
    lines = [line for line in stderr.splitlines() if line.strip()]
    return bool(lines) and all(any(words in line for words in gone) for line in lines)


def _records(stdout: str, separator: str, fields: int, command: str) -> list[Sequence[str]]:
    """Each record ends with a separator and an end of line; a field may hold anything but the separator."""
    if not stdout:
        return []
    end = f"{separator}\n"
    if not stdout.endswith(end):
        raise _not_an_answer(command, stdout)
    records = [record.split(separator) for record in stdout.removesuffix(end).split(end)]
    for record in records:
        if len(record) != fields:
            raise _not_an_answer(command, separator.join(record))
    return [[field.strip() for field in record] for record in records]


def _not_an_answer(command: str, text: str) -> NotUnderstoodError:
    return NotUnderstoodError(
        f"{command} printed something else than what it was asked for, or a part of it: …{text[-200:]!r}"
    )


def _queue_row(record: Sequence[str]) -> Row:
    scheduler_id, name, word, reason, exit_code, nodes, start, end = record
    observation = observation_of(word, reason, _ending(exit_code), nodes, _time(start), _time(end))
    return Row(scheduler_id, name, observation)


def _accounting_row(record: Sequence[str]) -> Row:
    scheduler_id, name, word, exit_code, reason, nodes, start, end, submit = record
    started_at = _time(start)
    # sacct's reason is why it last waited: it explains the end of those only that never started.
    why = reason if started_at is None else ""
    observation = observation_of(word, why, _ending(exit_code), nodes, started_at, _time(end))
    return Row(scheduler_id, name, observation, _time(submit))


Ending = tuple[int, int]
"""Exit code and signal, as Slurm has them: one of them is 0."""
NO_ENDING: Ending = (0, 0)
"""Of one that has not ended, or whose end is not told."""


def observation_of(
    word: str, reason: str, ending: Ending, nodes: str, start: datetime | None, end: datetime | None
) -> Observation:
    """What one job's fields say together."""
    cancelled = _CANCELLED_BY.fullmatch(word)
    raw_state = "CANCELLED" if cancelled else word
    state = state_of(raw_state)
    if state is SchedulerState.PENDING and is_held(reason):
        state = SchedulerState.HELD
    observation = Observation(state, raw_state, node=None if nodes in ("", "None assigned", "(null)") else nodes)
    if state in (SchedulerState.PENDING, SchedulerState.HELD):
        why = why_it_waits(reason)
        return replace(observation, reason=why, expected_start_at=start, never_runs=never_runs(reason))
    if not state.is_final:
        # The end that squeue shows of a running job is its time limit.
        return replace(observation, started_at=start)
    # One that could never run has an error number for its exit code.
    could_never_run = never_runs(reason)
    exit_code, signal = (None, None) if could_never_run else _spelled_out(state, ending)
    return replace(
        observation,
        exit_code=exit_code,
        signal=signal,
        # Slurm calls every death by a signal a launch failure, too.
        reason=None if signal else why_it_ended(reason),
        cancelled_by=f"uid {cancelled[1]}" if cancelled else None,
        started_at=start,
        ended_at=end,
        never_runs=could_never_run,
    )


def _spelled_out(state: SchedulerState, ending: Ending) -> tuple[int | None, int | None]:
    """Exit code and signal of a script that ended by itself; what Slurm ended has neither that means anything.

    `0:9`: it died of SIGKILL. `0:53` and `0:125` are no signals. A time limit and a dead node show `0:0`, which is no
    exit code; a deadline `1:0`.
    """
    exit_code, signal = ending
    if state is SchedulerState.COMPLETED:
        return exit_code, None
    if state is not SchedulerState.FAILED:
        return None, None
    if signal:
        return None, signal if signal <= _LAST_REAL_SIGNAL else None
    return exit_code or None, None


def _ending(text: str) -> Ending:
    """`7:0`, or the raw wait status that squeue of 22.05 shows instead."""
    if match := _EXIT_CODE.fullmatch(text):
        return int(match[1]), int(match[2])
    return ending_of(int(text)) if text.isascii() and text.isdecimal() and len(text) < 10 else NO_ENDING


def ending_of(wait_status: int) -> Ending:
    """What a raw wait status says."""
    return (wait_status >> 8) & 0xFF, wait_status & 0x7F


def _time(text: str) -> datetime | None:
    """A time of Slurm's, printed with TZ=UTC; None for `N/A`, `Unknown`, `None` and the like."""
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        return None
