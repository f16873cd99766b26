"""What a predecessor wrote to disk and did not commit, or committed and did not write, is mended.

That happens at take-over, and again from time to time.

The database is right about the jobs that it knows, with one exception: a file whose epoch is newer than any that this
database saw was written for another one, of which this is an older copy. It is left alone, and what it says comes to
light by the same evidence as before.
"""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import or_, select

from portal.dispatch.context import Dispatch
from portal.dispatch.isolation import kept_apart
from portal.dispatch.publication import markers_are_right, outcome_of, publish_markers, withdraw_markers
from portal.dispatch.records import (
    END_FIELDS,
    as_json,
    read_record,
    submission_record,
    write_submission,
    write_verdict,
)
from portal.jobs.models import Attempt, Job, JobEvent
from portal.jobs.states import FINAL_STATES, JobState
from portal.jobs.store import JobRecord, load_records
from portal.node.durable import fsync_folder

RECONCILED_SECONDS = 86_400.0
"""How long ago a job may have ended to be looked at: a predecessor was at work a moment ago."""
RECONCILED_AGAIN_SECONDS = 3_600.0
"""The same for the looks that follow, which come often."""
_CHUNK = 500


def reconcile(dispatch: Dispatch, ended_within_seconds: float = RECONCILED_SECONDS) -> int:
    """Mend the files of all jobs that go on or ended lately; how many were not as the database says.

    Raises StaleEpochError where a newer dispatcher is.
    """
    dispatch.leadership.require()
    mended = 0
    for record in _records(dispatch, ended_within_seconds):
        with kept_apart(record.job.job_id):
            mended += _mend(dispatch, record)
    return mended


def _records(dispatch: Dispatch, ended_within_seconds: float) -> Iterator[JobRecord]:
    since = dispatch.now() - timedelta(seconds=ended_within_seconds)
    with dispatch.database.reading() as session:
        ids = session.scalars(
            select(Job.job_id).where(or_(Job.state.not_in(FINAL_STATES), Job.ended_at > since)).order_by(Job.job_id)
        ).all()
    for start in range(0, len(ids), _CHUNK):
        with dispatch.database.reading() as session:
            records = load_records(session, ids[start : start + _CHUNK])
        yield from records


def _mend(dispatch: Dispatch, record: JobRecord) -> bool:
    if not dispatch.folder.job(record.job.job_id).path.is_dir():
        return False
    changed = [_mend_attempt(dispatch, record, attempt) for attempt in record.attempts]
    return _mend_markers(dispatch, record) or any(changed)


def _mend_attempt(dispatch: Dispatch, record: JobRecord, attempt: Attempt) -> bool:
    files = dispatch.attempt_directory(attempt)
    if not files.path.is_dir():
        return False
    changed = False
    submission = read_record(files.submission)
    if attempt.intent_at is not None and _may_be_mended(dispatch, submission, submission_record(attempt)):
        write_submission(files, attempt, dispatch.leadership)
        changed = True
    verdict = read_record(files.verdict)
    if attempt.state.is_final:
        known = _verdict_of_row(record, attempt)
        if _may_be_mended(dispatch, verdict, known):
            write_verdict(
                files, {**(verdict or {}), **_origin(dispatch, record, attempt), **known}, dispatch.leadership
            )
            changed = True
    elif verdict is not None and _may_be_mended(dispatch, verdict, None):
        _remove(files.verdict)
        changed = True
    return changed


def _may_be_mended(dispatch: Dispatch, file: dict[str, Any] | None, known: dict[str, Any] | None) -> bool:
    """Whether the file does not say what is known, and was not written for a newer database."""
    if file is None:
        return True
    epoch = file.get("epoch")
    if isinstance(epoch, int) and epoch > dispatch.leadership.previous_epoch:
        return False
    return known is None or any(file.get(name) != value for name, value in known.items())


def _verdict_of_row(record: JobRecord, attempt: Attempt) -> dict[str, Any]:
    """What the database knows of an end, in the words of `verdict.json`."""
    result = record.result if record.result and record.result.attempt_number == attempt.number else None
    following = next((other for other in record.attempts if other.number == attempt.number + 1), None)
    return {
        "attempt": attempt.number,
        "state": attempt.state.value,
        "failure_reason": attempt.failure_reason.value if attempt.failure_reason else None,
        "ended_by_portal": not attempt.counts,
        # Of an attempt that counts no more, the file alone knows what came of it.
        **({"answer": result.answer, "warning": result.warning} if result else {}),
        "next_attempt": following.number if following else None,
        "next_excluded_nodes": following.excluded_nodes if following else [],
        **({"kept_until": as_json(record.job.kept_until)} if _is_the_end(record, attempt) else {}),
        **{name: as_json(getattr(attempt, name)) for name in END_FIELDS},
    }


def _is_the_end(record: JobRecord, attempt: Attempt) -> bool:
    return record.job.state.is_final and record.job.attempt_number == attempt.number


def _origin(dispatch: Dispatch, record: JobRecord, attempt: Attempt) -> dict[str, Any]:
    """Where the end is known from, by the job's history."""
    history = list(reversed(record.events))
    event = next((one for one in history if _is_its_end(one, attempt)), None)
    # Where the next attempt was opened in place of an end, the event that opened it tells it.
    event = event or next((one for one in history if _opens_the_next(one, attempt)), None)
    was_corrected = event is not None and event.from_state is not None and event.from_state.is_final
    return {
        "source": event.source if event else "directory",
        "detail": event.detail if event else attempt.reason or "",
        "by": event.by if event else "portal",
        "outcome": outcome_of(dispatch.settings, attempt.state, corrects=was_corrected),
    }


def _is_its_end(event: JobEvent, attempt: Attempt) -> bool:
    return event.to_state.is_final and event.attempt_number == attempt.number


def _opens_the_next(event: JobEvent, attempt: Attempt) -> bool:
    return event.to_state is JobState.ACCEPTED and event.attempt_number == attempt.number + 1


def _remove(file: Path) -> None:
    file.unlink(missing_ok=True)
    fsync_folder(str(file.parent))


def _mend_markers(dispatch: Dispatch, record: JobRecord) -> bool:
    job, directory = record.job, dispatch.folder.job(record.job.job_id)
    succeeded = job.state is JobState.SUCCEEDED if job.state.is_final else None
    if markers_are_right(directory, job.attempt_number, succeeded=succeeded):
        return False
    if succeeded is None:
        withdraw_markers(directory)
    else:
        publish_markers(directory, job.attempt_number, succeeded=succeeded)
    return True
