"""`squeue --json` and `sacct --json`, read into the same rows as their text: pure functions.

They are asked where the text was not understood. The forms, of which tests/data/slurm has recordings:

- 22.05: a state is one word, a number is a number or null, an exit code in the queue a raw wait status. One in
  accounting is not believed: it is 0 of a job that exited with 7.
- 23.11 (`data_parser/v0.0.40`) and later: a state is a list of a word and flags, a number `{"set", "infinite",
  "number"}`.

23.02 is between the two, and was not recorded: what it has of either form is read.

What is missing, or is not what it should be, is NotUnderstoodError for the whole answer. Its `log_detail` names the
field and not the value, which may be a stranger's.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from portal.errors import SchedulerError
from portal.schedulers.base import SchedulerState
from portal.schedulers.commands import NO_ANSWER
from portal.schedulers.slurm_parse import (
    NO_ENDING,
    Ending,
    NotUnderstoodError,
    Row,
    by_submission,
    ending_of,
    observation_of,
)
from portal.schedulers.slurm_words import word_of

Json = dict[str, Any]

_LAST_SECOND = 253402300799
"""Of the year 9999: `datetime` knows no later one."""


def queue_rows(stdout: str) -> list[Row]:
    """The answer to `as_json(queue_call())`, of the account that asked.

    A pending array is one row, whose id is the array's. Raises NotUnderstoodError; and SchedulerError where squeue
    says that it could not ask, with which 22.05 exits with 0.
    """
    return _rows("squeue", stdout, "user_name", _queue_row)


def accounting_rows(stdout: str) -> list[Row]:
    """The answer to `as_json` of an accounting call, the latest submission last. Raises as `queue_rows` does."""
    return by_submission(_rows("sacct", stdout, "user", _accounting_row))


def _rows(command: str, stdout: str, user_field: str, read: Callable[[Json], Row]) -> list[Row]:
    try:
        answer = json.loads(stdout)
        errors, jobs = _taken(answer, list, "errors"), _taken(answer, list, "jobs")
        if not errors:
            return [read(job) for job in _own(answer, jobs, user_field)]
    except (ValueError, RecursionError) as error:
        raise NotUnderstoodError(f"{command} --json printed something else than it should: {error}") from error
    detail = f"{command} --json could not ask: {errors!r}"
    raise SchedulerError(NO_ANSWER, log_detail=detail[:500])


def _own(answer: Json, jobs: list[Json], user_field: str) -> list[Json]:
    """The jobs of the account that asked: 22.05 ignores `--me`.

    It does not say who asked, either; then all that is listed must be one account's. ValueError where it is not.
    """
    owners = [_taken(job, str, user_field) for job in jobs]
    if "" in owners:
        raise ValueError(f"{user_field} is empty")
    if "client" in _taken(answer, dict, "meta"):
        asked_by = _taken(answer, str, "meta", "client", "user")
    elif len(set(owners)) > 1:
        raise ValueError("it has jobs of several accounts and does not say which of them asked")
    else:
        return jobs
    return [job for job, owner in zip(jobs, owners, strict=True) if owner == asked_by]


def _queue_row(job: Json) -> Row:
    ending = _queue_ending(job)
    observation = observation_of(
        _word(job, "job_state"),
        _reason(_taken(job, str, "state_reason"), ending),
        ending,
        _taken(job, str, "nodes"),
        _time(job, "start_time"),
        _time(job, "end_time"),
    )
    return Row(_id(job, "job_id"), _taken(job, str, "name"), observation)


def _accounting_row(job: Json) -> Row:
    started_at, ending = _time(job, "time", "start"), _ending(job)
    # As in the text, the reason is why it last waited.
    reason = _taken(job, str, "state", "reason") if started_at is None else ""
    observation = observation_of(
        _word(job, "state", "current"),
        _reason(reason, ending),
        ending,
        _taken(job, str, "nodes"),
        started_at,
        _time(job, "time", "end"),
    )
    if observation.state is SchedulerState.CANCELLED:
        observation = replace(observation, cancelled_by=_cancelled_by(job))
    return Row(_accounting_id(job), _taken(job, str, "name"), observation, _time(job, "time", "submission"))


def _queue_ending(job: Json) -> Ending:
    wait_status = job.get("exit_code")
    return ending_of(wait_status) if type(wait_status) is int else _ending(job)


def _ending(job: Json) -> Ending:
    code = _taken(job, dict, "exit_code")
    if type(code.get("return_code")) is not dict:
        return NO_ENDING
    return _number(job, "exit_code", "return_code") or 0, _number(job, "exit_code", "signal", "id") or 0


def _reason(reason: str, ending: Ending) -> str:
    """As the text has it, which says which signal."""
    return f"{reason}:{ending[1]}" if reason == "RaisedSignal" else reason


def _cancelled_by(job: Json) -> str | None:
    """A name, where the text has a number; never without a word before it: a visitor may have the same name."""
    by = job.get("kill_request_user")
    if by is not None and not isinstance(by, str):
        raise ValueError("kill_request_user is no text")
    return f"user {by}" if by else None


def _accounting_id(job: Json) -> str:
    """As the text has it: `10_3` for an array's element."""
    array, element = _number(job, "array", "job_id"), _number(job, "array", "task_id")
    return f"{array}_{element}" if array and element is not None else _id(job, "job_id")


def _id(job: Json, *path: str) -> str:
    number = _number(job, *path)
    if not number:
        raise ValueError(f"{'.'.join(path)} is no id")
    return str(number)


def _word(job: Json, *path: str) -> str:
    """The one word for a state and its flags."""
    words = _taken(job, object, *path)
    if isinstance(words, str):
        return words
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"{'.'.join(path)} is no state")
    return word_of(words)


def _time(job: Json, *path: str) -> datetime | None:
    """0 is none."""
    seconds = _number(job, *path)
    if seconds is not None and seconds > _LAST_SECOND:
        raise ValueError(f"{'.'.join(path)} is no time")
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


def _number(job: Json, *path: str) -> int | None:
    """A whole number from 0 on; None where it is null, not set or infinite."""
    value = _taken(job, object, *path)
    if isinstance(value, dict):
        is_there = _taken(value, bool, "set") and not _taken(value, bool, "infinite")
        value = value.get("number") if is_there else None
    if value is not None and (type(value) is not int or value < 0):
        raise ValueError(f"{'.'.join(path)} is no number")
    return value


def _taken(value: Any, kind: type, *path: str) -> Any:
    """What stands there, which must be of that kind. ValueError."""
    for name in path:
        if not isinstance(value, dict) or name not in value:
            raise ValueError(f"{'.'.join(path)} is missing")
        value = value[name]
    if not isinstance(value, kind):
        raise ValueError(f"{'.'.join(path)} is no {kind.__name__}")
    return value
