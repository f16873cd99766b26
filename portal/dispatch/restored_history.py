"""The history of a job as far as its files tell it: `submission.json` and `verdict.json` of each attempt."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from portal.jobs.models import Attempt, Job, JobEvent
from portal.jobs.states import JobState

LOOKED_UP = "Its submission is looked up."


@dataclass(frozen=True)
class AttemptFiles:
    """An attempt's row as its files have it, and its verdict, if there is one."""

    attempt: Attempt
    verdict: dict[str, Any] | None


@dataclass(frozen=True)
class _Told:
    at: datetime
    number: int
    state: JobState
    source: str
    detail: str
    by: str = "portal"


def add_history(
    session: Session, job: Job, before: JobState, files: Sequence[AttemptFiles], known_until: datetime | None
) -> None:
    """Add the events of which the database does not know: those after the last one that it has.

    `before` is the state that the job had for the database. Files tell whole seconds, and a job that was just taken
    up has one event, of its acceptance.
    """
    state = before
    for told in _told(job, files):
        is_known = known_until is not None and told.at < known_until.replace(microsecond=0)
        if (is_known and not _is_end_that_is_news(told, job, before)) or told.state is state:
            continue
        job.version += 1
        session.add(
            JobEvent(
                job_id=job.job_id,
                attempt_number=told.number,
                at=told.at,
                from_state=state,
                to_state=told.state,
                source=told.source,
                detail=told.detail,
                by=told.by,
            )
        )
        state = told.state


def _is_end_that_is_news(told: _Told, job: Job, before: JobState) -> bool:
    """The clock of a node may be wrong: an end that the database does not know is told all the same."""
    return told.state.is_final and told.number == job.attempt_number and not before.is_final


def _told(job: Job, files: Sequence[AttemptFiles]) -> Iterator[_Told]:
    for place, one in enumerate(files):
        attempt, verdict = one.attempt, one.verdict
        if place:
            yield _opened(job, files[place - 1], attempt)
        if attempt.intent_at is not None:
            detail = f"Handed to the scheduler as {attempt.scheduler_name}."
            yield _Told(attempt.intent_at, attempt.number, JobState.SUBMITTING, "directory", detail)
        if attempt.submitted_at is not None and attempt.state is not JobState.SUBMITTING:
            detail = f"The scheduler had it, as job {attempt.scheduler_id}."
            yield _Told(attempt.submitted_at, attempt.number, JobState.QUEUED, "directory", detail)
        if verdict is not None and attempt.started_at is not None:
            where = f" on {attempt.node}" if attempt.node else ""
            yield _Told(attempt.started_at, attempt.number, JobState.RUNNING, "directory", f"It started{where}.")
        if verdict is not None and verdict.get("next_attempt") is None:
            at = attempt.ended_at or job.created_at
            source, detail, by = (str(verdict.get(name) or "") for name in ("source", "detail", "by"))
            yield _Told(at, attempt.number, attempt.state, source or "directory", detail, by or "portal")
        if attempt.state is JobState.SUBMITTING:
            at = attempt.intent_at or attempt.created_at
            yield _Told(at, attempt.number, JobState.SUBMITTING, "directory", LOOKED_UP)


def _opened(job: Job, old: AttemptFiles, attempt: Attempt) -> _Told:
    verdict = old.verdict or {}
    at = old.attempt.ended_at or attempt.created_at or job.created_at
    detail = f"{verdict.get('detail') or 'The attempt before has ended.'} It goes in again."
    by = str(verdict.get("by") or "portal")
    return _Told(at, attempt.number, JobState.ACCEPTED, str(verdict.get("source") or "directory"), detail, by)
