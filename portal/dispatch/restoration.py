"""The rows of a job from its directory alone: how its attempts were handed in and how they ended, and what it is owed.

Where the job has rows already, and they are older than its files, they are brought up to them.
"""

import os
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from portal.applications.definition import Application
from portal.clock import parse_utc_text
from portal.dispatch.records import moment, read_record
from portal.dispatch.restored_history import AttemptFiles, add_history
from portal.jobs.changes import read_changes, read_resubmit_wish
from portal.jobs.directory import AttemptDirectory, JobDirectory
from portal.jobs.job_config import JobConfig, read_job_config
from portal.jobs.models import Attempt, Job, JobEvent, JobResult
from portal.jobs.rows import insert_job, new_attempt_row, resources_of
from portal.jobs.states import IN_SCHEDULER_STATES, FailureReason, JobState
from portal.mail.restoration import restore_mail
from portal.node import claim as claims
from portal.people.sessions import remember_session


@dataclass(frozen=True)
class Portal:
    """What the rows of every job need to know of the portal."""

    instance: str
    mail_domain: str


def insert_with_attempts(
    session: Session, directory: JobDirectory, config: JobConfig, application: Application | None, portal: Portal
) -> None:
    """Add the rows of a directory that has none.

    An attempt without a verdict that may be in the scheduler becomes SUBMITTING, so that its name is looked up
    before anything else happens to it. Raises IntegrityError where its id or its token has a row, and ValueError
    where one of its files says what it cannot.
    """
    job = insert_job(session, config, application, portal.instance, source="directory")
    if config.session_id is not None:
        remember_session(session, config.session_id, config.created_at)
    session.flush()
    bring_up_to_files(session, job, directory, portal)


def bring_up_to_files(session: Session, job: Job, directory: JobDirectory, portal: Portal) -> None:
    """Let the rows of a job say what its directory says. Raises ValueError where a file says what it cannot."""
    _restore_changes(job, directory)
    numbers = directory.attempt_numbers()
    if not numbers:
        return
    known_until = session.scalar(select(func.max(JobEvent.at)).where(JobEvent.job_id == job.job_id))
    files = [_restore_attempt(session, job, number, directory.attempt(number), portal) for number in numbers]
    session.flush()
    last = files[-1]
    _restore_resources(job, directory.attempt(last.attempt.number))
    _give_up_older(session, job, last.attempt)
    before = job.state
    opens_another = last.verdict is not None and last.verdict.get("next_attempt") == last.attempt.number + 1
    if last.verdict is not None and opens_another:
        files.append(_open_promised(session, job, last.attempt, last.verdict, portal.instance))
    else:
        _point_at_last(session, job, last.attempt, last.verdict)
    add_history(session, job, before, files, known_until)
    for one in files:
        restore_mail(session, job, one.attempt, directory.attempt(one.attempt.number), one.verdict, portal.mail_domain)
    _restore_resubmission(job, directory)


def _restore_resources(job: Job, files: AttemptDirectory) -> None:
    """What the last attempt was given: more than the job asked for at first, where somebody asked for more since."""
    try:
        job.resources = resources_of(read_job_config(files.config)) or job.resources
    except (OSError, ValueError):
        return  # it was never prepared


def _restore_resubmission(job: Job, directory: JobDirectory) -> None:
    """A wish that was not carried out goes on being one; of one that was, an unprepared attempt has its resources."""
    wish = read_resubmit_wish(directory)
    if wish is None:
        return
    if wish.after_attempt == job.attempt_number:
        job.resubmit_asked_at, job.resubmit_wish = wish.asked_at, wish.as_json()
    elif wish.after_attempt == job.attempt_number - 1 and not directory.attempt(job.attempt_number).config.exists():
        job.resources = dict(wish.resources)


def _restore_changes(job: Job, directory: JobDirectory) -> None:
    changes = read_changes(directory)
    for wish in ("cancel", "delete"):
        asked_at = changes.get(f"{wish}_asked_at")
        if isinstance(asked_at, str) and getattr(job, f"{wish}_asked_at") is None:
            setattr(job, f"{wish}_asked_at", parse_utc_text(asked_at))
            setattr(job, f"{wish}_asked_by", str(changes.get(f"{wish}_asked_by")))
            job.version += 1
    generation = changes.get("key_generation")
    if isinstance(generation, int) and job.key_generation < generation < 2**31:
        job.key_generation = generation


def _restore_attempt(session: Session, job: Job, number: int, files: AttemptDirectory, portal: Portal) -> AttemptFiles:
    attempt = session.get(Attempt, (job.job_id, number))
    if attempt is None:
        attempt = new_attempt_row(job.job_id, number, portal.instance, job.created_at)
        session.add(attempt)
    submission, verdict = read_record(files.submission), read_record(files.verdict)
    if submission is not None:
        _restore_submission(attempt, submission)
    elif attempt.state is JobState.ACCEPTED and os.path.lexists(files.work / claims.FILE_NAME):
        attempt.state = JobState.SUBMITTING  # somebody submitted job.sh by hand
    if verdict is not None:
        _restore_verdict(attempt, verdict)
    return AttemptFiles(attempt, verdict)


def _restore_submission(attempt: Attempt, submission: dict[str, Any]) -> None:
    scheduler_id = _text(submission.get("scheduler_id"))
    is_known = attempt.state in IN_SCHEDULER_STATES and attempt.scheduler_id == scheduler_id
    attempt.scheduler_name = str(submission.get("scheduler_name") or attempt.scheduler_name)
    attempt.scheduler_id = scheduler_id
    attempt.cluster = str(submission.get("cluster") or "")
    attempt.counts = bool(submission.get("counts", True))
    attempt.excluded_nodes = _texts(submission.get("excluded_nodes"))
    attempt.created_at = moment(submission, "created_at") or attempt.created_at
    attempt.intent_at = moment(submission, "intent_at")
    attempt.submitted_at = moment(submission, "submitted_at")
    if not is_known and not attempt.state.is_final:
        attempt.state = JobState.SUBMITTING


def _restore_verdict(attempt: Attempt, verdict: dict[str, Any]) -> None:
    attempt.state = JobState(str(verdict.get("state")))
    if not attempt.state.is_final:
        raise ValueError("verdict.json does not tell of an end")
    reason = verdict.get("failure_reason")
    attempt.failure_reason = FailureReason(reason) if reason else None
    attempt.exit_code = _small(verdict.get("exit_code"))
    attempt.signal = _small(verdict.get("signal"))
    attempt.node = _text(verdict.get("node"))
    attempt.reason = _text(verdict.get("reason"))
    attempt.raw_state = _text(verdict.get("raw_state"))
    attempt.started_at = moment(verdict, "started_at")
    attempt.ended_at = moment(verdict, "ended_at")
    attempt.counts = not verdict.get("ended_by_portal", False)


def _give_up_older(session: Session, job: Job, last: Attempt) -> None:
    """An attempt after which another was opened has ended, even where its verdict is missing: it counts no more."""
    older = session.scalars(select(Attempt).where(Attempt.job_id == job.job_id, Attempt.number < last.number))
    for attempt in older:
        if not attempt.state.is_final:
            attempt.state, attempt.failure_reason = JobState.FAILED, FailureReason.LOST


def _open_promised(session: Session, job: Job, old: Attempt, verdict: dict[str, Any], instance: str) -> AttemptFiles:
    """The attempt that the last verdict opened, and that was never prepared."""
    number = old.number + 1
    following = session.get(Attempt, (job.job_id, number))
    if following is None:
        excluded = _texts(verdict.get("next_excluded_nodes"))
        opened_at = old.ended_at or job.created_at
        following = new_attempt_row(job.job_id, number, instance, opened_at, excluded_nodes=excluded)
        session.add(following)
        session.flush()
    _point_at_last(session, job, following, None)
    return AttemptFiles(following, None)


def _point_at_last(session: Session, job: Job, attempt: Attempt, verdict: dict[str, Any] | None) -> None:
    """The last attempt is the one that counts: its state is the job's, and its result is restored."""
    job.attempt_number = attempt.number
    job.state, job.failure_reason = attempt.state, attempt.failure_reason
    job.started_at, job.ended_at = attempt.started_at, attempt.ended_at
    job.kept_until = moment(verdict, "kept_until") if verdict is not None else None
    if verdict is None:
        return
    session.merge(
        JobResult(
            job_id=job.job_id,
            attempt_number=attempt.number,
            answer=_text(verdict.get("answer")),
            warning=_text(verdict.get("warning")),
            wall_seconds=_number(verdict.get("wall_seconds")),
            peak_memory_mib=_number(verdict.get("peak_memory_mib")),
        )
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _texts(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _small(value: object) -> int | None:
    return value if isinstance(value, int) and abs(value) < 2**31 else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and abs(value) < 1e18 else None
