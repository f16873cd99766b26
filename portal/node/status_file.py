"""The format of `status.json`, in which a wrapper says how its program began and ended.

A job can write to the folder that it lies in, so `parse` accepts exactly what `encode` can have written.
"""

from typing import NamedTuple, Optional

from .strict_json import Fields, encode_object

FILE_NAME = "status.json"
SCHEMA = 1
MAX_BYTES = 65536
LONGEST_TEXT = 255
LONGEST_FAILURE = 1000

_PHASES = ("started", "ended")
_MOST_ATTEMPTS = 1000000
_HIGHEST_PID = 2**31 - 1
_MOST_RESTARTS = 2**31 - 1
_LONGEST_SECONDS = 1e10
_MOST_MEMORY_MIB = 1e10


class StatusFile(NamedTuple):
    """What `status.json` says. Times are UTC texts; what only an end has is None in phase `started`."""

    schema: int
    job_id: str
    attempt: int
    phase: str
    """`started` (the claim is taken, the program is about to start) or `ended`."""
    scheduler_id: str
    restart_count: int
    host: str
    pid: int
    """The wrapper's own."""
    started_at: str
    ended_at: Optional[str]
    exit_code: Optional[int]
    """Of the program; None where a signal ended it."""
    signal: Optional[int]
    """The signal that ended the program; None where it exited."""
    wall_seconds: Optional[float]
    peak_memory_mib: Optional[float]
    """Of the largest single process."""
    got_sigterm: bool
    """The wrapper was told to stop: a time limit, a cancellation or a preemption."""
    succeeded: Optional[bool]
    """By the application's rule."""
    failure: Optional[str]
    """One short sentence: why the rule was not met. None where it was."""


def encode(status: StatusFile) -> bytes:
    """The bytes of the file, which `parse` turns back; ValueError for what `parse` would refuse."""
    data = encode_object(dict(status._asdict()))
    parse(data)
    return data


def parse(data: bytes) -> StatusFile:
    """What the file says; ValueError, whose message may be shown, for anything not exactly right."""
    fields = Fields(data, FILE_NAME, MAX_BYTES)
    status = StatusFile(
        schema=fields.integer("schema", SCHEMA, SCHEMA),
        job_id=fields.text("job_id", LONGEST_TEXT),
        attempt=fields.integer("attempt", 1, _MOST_ATTEMPTS),
        phase=fields.choice("phase", _PHASES),
        scheduler_id=fields.text("scheduler_id", LONGEST_TEXT),
        restart_count=fields.integer("restart_count", 0, _MOST_RESTARTS),
        host=fields.text("host", LONGEST_TEXT),
        pid=fields.integer("pid", 1, _HIGHEST_PID),
        started_at=fields.utc_time("started_at"),
        ended_at=fields.optional_utc_time("ended_at"),
        exit_code=fields.optional_integer("exit_code", 0, 255),
        signal=fields.optional_integer("signal", 1, 64),
        wall_seconds=fields.optional_number("wall_seconds", _LONGEST_SECONDS),
        peak_memory_mib=fields.optional_number("peak_memory_mib", _MOST_MEMORY_MIB),
        got_sigterm=fields.flag("got_sigterm"),
        succeeded=fields.optional_flag("succeeded"),
        failure=fields.optional_text("failure", LONGEST_FAILURE),
    )
    fields.no_more()
    if status.phase == "started":
        _check_started(fields, status)
    else:
        _check_ended(fields, status)
    return status


def _check_started(fields: Fields, status: StatusFile) -> None:
    of_the_end = (
        status.ended_at,
        status.exit_code,
        status.signal,
        status.wall_seconds,
        status.peak_memory_mib,
        status.succeeded,
        status.failure,
    )
    fields.require(all(value is None for value in of_the_end), "tells of an end in phase started")
    fields.require(not status.got_sigterm, "got_sigterm cannot be true in phase started")


def _check_ended(fields: Fields, status: StatusFile) -> None:
    measured = (status.ended_at, status.wall_seconds, status.peak_memory_mib, status.succeeded)
    fields.require(all(value is not None for value in measured), "lacks part of the end in phase ended")
    one_way = (status.exit_code is None) != (status.signal is None)
    fields.require(one_way, "must have an exit_code or a signal, and not both")
    explained = (status.failure is None) == (status.succeeded is True)
    fields.require(explained, "must have a failure if, and only if, it did not succeed")
    fields.require(not (status.succeeded and status.signal), "cannot have succeeded by a signal")
