"""The rows of a job from its directory alone, with its attempts: how they were handed in and how they ended."""

import os
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from portal.applications.definition import Application
from portal.clock import parse_utc_text
from portal.dispatch.records import moment, read_record
from portal.jobs.changes import read_changes, read_resubmit_wish
from portal.jobs.directory import AttemptDirectory, JobDirectory
from portal.jobs.job_config import JobConfig, read_job_config
from portal.jobs.models import Attempt, Job, JobResult
from portal.jobs.rows import insert_job, new_attempt_row, resources_of
from portal.jobs.states import FailureReason, JobState
from portal.jobs.store import Change, add_event
from portal.mail.outbox import owe_mail
from portal.node import claim as claims
from portal.people.sessions import remember_session


def insert_with_attempts(
    session: Session,
    directory: JobDirectory,
    config: JobConfig,
    application: Application | None,
    instance: str,
    mail_domain: str,
) -> None:
    """Add the rows of a directory that has none.

    An attempt without a verdict that may be in the scheduler becomes SUBMITTING, so that its name is looked up
    before anything else happens to it. Raises IntegrityError where its id or its token has a row, and ValueError
    where one of its files says what it cannot.
    """
    job = insert_job(session, config, application, instance, source="directory")
    if config.session_id is not None:
        remember_session(session, config.session_id, config.created_at)
    _restore_wish(job, directory)
    numbers = directory.attempt_numbers()
    for number in numbers:
        attempt = session.get(Attempt, (job.job_id, number))
        if attempt is None:
            attempt = new_attempt_row(job.job_id, number, instance, job.created_at)
            session.add(attempt)
        _restore(attempt, directory.attempt(number))
    if not numbers:
        return
    session.flush()
    last = session.get_one(Attempt, (job.job_id, numbers[-1]))
    _restore_resources(job, directory.attempt(last.number))
    _give_up_older(session, job, last)
    verdict = read_record(directory.attempt(last.number).verdict)
    if verdict is not None and verdict.get("next_attempt") == last.number + 1:
        _open_promised(session, job, last, verdict, instance)
    else:
        _point_at_last(session, job, last, verdict, mail_domain)
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
    elif wish.after_attempt == job.attempt_number - 1:
        job.resources = dict(wish.resources)


def _restore_wish(job: Job, directory: JobDirectory) -> None:
    asked_at = read_changes(directory).get("cancel_asked_at")
    if isinstance(asked_at, str):
        job.cancel_asked_at = parse_utc_text(asked_at)
        job.cancel_asked_by = str(read_changes(directory).get("cancel_asked_by"))


def _restore(attempt: Attempt, files: AttemptDirectory) -> None:
    submission = read_record(files.submission)
    if submission is not None:
        attempt.scheduler_name = str(submission.get("scheduler_name") or attempt.scheduler_name)
        attempt.scheduler_id = _text(submission.get("scheduler_id"))
        attempt.cluster = str(submission.get("cluster") or "")
        attempt.counts = bool(submission.get("counts", True))
        attempt.excluded_nodes = _texts(submission.get("excluded_nodes"))
        attempt.created_at = moment(submission, "created_at") or attempt.created_at
        attempt.intent_at = moment(submission, "intent_at")
        attempt.submitted_at = moment(submission, "submitted_at")
        attempt.state = JobState.SUBMITTING
    elif os.path.lexists(files.work / claims.FILE_NAME):
        attempt.state = JobState.SUBMITTING  # somebody submitted job.sh by hand
    verdict = read_record(files.verdict)
    if verdict is not None:
        _restore_verdict(attempt, verdict)


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


def _open_promised(session: Session, job: Job, old: Attempt, verdict: dict[str, Any], instance: str) -> None:
    """The attempt that the last verdict opened, and that was never prepared."""
    excluded = _texts(verdict.get("next_excluded_nodes"))
    opened_at = old.ended_at or job.created_at
    session.add(new_attempt_row(job.job_id, old.number + 1, instance, opened_at, excluded_nodes=excluded))
    job.attempt_number = old.number + 1
    detail = f"{verdict.get('detail')} It goes in again."
    add_event(session, job, job.state, Change(opened_at, "directory", detail, str(verdict.get("by"))))


def _point_at_last(
    session: Session, job: Job, attempt: Attempt, verdict: dict[str, Any] | None, mail_domain: str
) -> None:
    """The last attempt is the one that counts: its state is the job's, and its result and mail are restored."""
    before = job.state
    job.attempt_number = attempt.number
    job.state, job.failure_reason = attempt.state, attempt.failure_reason
    job.started_at, job.ended_at = attempt.started_at, attempt.ended_at
    if verdict is None:
        if attempt.state is not before:
            add_event(session, job, before, Change(job.created_at, "directory", "Its submission is looked up."))
        return
    ended_at = attempt.ended_at or job.created_at
    add_event(session, job, before, Change(ended_at, "directory", str(verdict.get("detail")), str(verdict.get("by"))))
    session.add(
        JobResult(
            job_id=job.job_id,
            attempt_number=attempt.number,
            answer=_text(verdict.get("answer")),
            warning=_text(verdict.get("warning")),
            wall_seconds=_number(verdict.get("wall_seconds")),
            peak_memory_mib=_number(verdict.get("peak_memory_mib")),
        )
    )
    # The sender finds attempts/N/mail.sent where the mail went out, and sends what nobody sent.
    outcome = "corrected" if verdict.get("outcome") == "corrected" else attempt.state.value
    owe_mail(session, job, outcome, ended_at, mail_domain, ended_at)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _texts(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _small(value: object) -> int | None:
    return value if isinstance(value, int) and abs(value) < 2**31 else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and abs(value) < 1e18 else None
