"""What the scheduler answered about a submission, written down: on disk first, then in one commit."""

from datetime import timedelta

import structlog

from portal.dispatch.context import Dispatch
from portal.dispatch.records import write_submission
from portal.jobs.models import Attempt, Job
from portal.jobs.states import JobState
from portal.jobs.store import Change, add_event, change_state
from portal.node.claim import Claim
from portal.schedulers.base import Found, Handle

log = structlog.get_logger()

RETRY_SECONDS = 30.0
"""When an attempt that could not be prepared, or was put off, is tried again."""
LOOK_AGAIN_SECONDS = 5.0
"""When a name that could not be looked up is looked up again."""


def record_submitted(dispatch: Dispatch, job: Job, attempt: Attempt, handle: Handle, words: str) -> None:
    """The scheduler has it: QUEUED. Raises OSError, StorageError or StaleEpochError; its name is looked up then."""
    now = dispatch.now()
    _write_handle(dispatch, attempt, handle)
    with dispatch.leadership.writing() as session:
        row = session.get_one(Attempt, (job.job_id, attempt.number))
        row.scheduler_id, row.cluster, row.submitted_at = handle.scheduler_id, handle.cluster, attempt.submitted_at
        row.next_try_at = None
        change = Change(now, "scheduler", f"{words}, as job {handle.scheduler_id}.")
        change_state(session, session.get_one(Job, job.job_id), row, JobState.QUEUED, change)


def take_back(dispatch: Dispatch, job: Job, attempt: Attempt, reason: str | None = None) -> None:
    """The scheduler certainly does not have it: back to ACCEPTED, to go in again; with a `reason`, a little later."""
    now = dispatch.now()
    with dispatch.leadership.writing() as session:
        row = session.get_one(Attempt, (job.job_id, attempt.number))
        row.reason = reason
        row.next_try_at = now + timedelta(seconds=RETRY_SECONDS) if reason else None
        detail = f"The scheduler does not take it yet: {reason}" if reason else "The scheduler does not have it."
        change = Change(now, "scheduler", detail)
        change_state(session, session.get_one(Job, job.job_id), row, JobState.ACCEPTED, change)


def put_off(dispatch: Dispatch, attempt: Attempt, reason: str, log_detail: str = "") -> None:
    """It stays accepted, says why, and is tried again later."""
    log.warning("an attempt is put off", name=attempt.scheduler_name, reason=reason, error=log_detail)
    with dispatch.leadership.writing() as session:
        row = session.get_one(Attempt, (attempt.job_id, attempt.number))
        job = session.get_one(Job, attempt.job_id)
        row.next_try_at = dispatch.now() + timedelta(seconds=RETRY_SECONDS)
        if row.reason != reason:
            row.reason = reason
            job.version += 1


def look_again_later(dispatch: Dispatch, attempt: Attempt) -> None:
    """It stays in doubt for now."""
    with dispatch.leadership.writing() as session:
        row = session.get_one(Attempt, (attempt.job_id, attempt.number))
        if row.state is JobState.SUBMITTING:
            row.next_try_at = dispatch.now() + timedelta(seconds=LOOK_AGAIN_SECONDS)


def doubt(dispatch: Dispatch, job: Job, attempt: Attempt, detail: str) -> None:
    """The scheduler may have it although this database knows of no submission: SUBMITTING, to be looked up by name."""
    now = dispatch.now()
    log.warning("an attempt is looked up before it goes in", name=attempt.scheduler_name, detail=detail)
    with dispatch.leadership.writing() as session:
        row = session.get_one(Attempt, (attempt.job_id, attempt.number))
        row.intent_at = now
        row.next_try_at = None
        change = Change(now, "directory", detail)
        change_state(session, session.get_one(Job, job.job_id), row, JobState.SUBMITTING, change)


def follow_claim(dispatch: Dispatch, job: Job, attempt: Attempt, claim: Claim) -> bool:
    """Let the job in the scheduler that took the claim be the attempt's, and cancel its twins.

    False, with nothing changed, where the scheduler does not say that it has this name under the claim's id: the
    claim lies where jobs can write, and ids are not written alike everywhere.
    """
    answer = dispatch.scheduler.find([attempt.scheduler_name])[attempt.scheduler_name]
    handles = answer.handles if isinstance(answer, Found) else ()
    kept = next((handle for handle in handles if handle.scheduler_id == claim.scheduler_id), None)
    if kept is None:
        return False
    _write_handle(dispatch, attempt, kept)
    with dispatch.leadership.writing() as session:
        row = session.get_one(Attempt, (job.job_id, attempt.number))
        row.scheduler_id, row.cluster, row.end_seen_at = kept.scheduler_id, kept.cluster, None
        job_row = session.get_one(Job, job.job_id)
        detail = f"It was in the scheduler twice; job {kept.scheduler_id} is the one that started."
        add_event(session, job_row, job_row.state, Change(dispatch.now(), "scheduler", detail))
    log.warning("a job was in the scheduler twice", name=attempt.scheduler_name, kept=kept.scheduler_id)
    dispatch.scheduler.cancel([handle for handle in handles if handle != kept])
    return True


def _write_handle(dispatch: Dispatch, attempt: Attempt, handle: Handle) -> None:
    dispatch.leadership.require()
    attempt.scheduler_id, attempt.cluster = handle.scheduler_id, handle.cluster
    attempt.submitted_at = attempt.submitted_at or dispatch.now()
    write_submission(dispatch.attempt_directory(attempt), attempt, dispatch.leadership)
