"""The rows of a job from its directory alone, with its attempts: how they were handed in and how they ended."""

from typing import Any

from sqlalchemy.orm import Session

from portal.applications.definition import Application
from portal.clock import parse_utc_text
from portal.dispatch.records import moment, read_record
from portal.jobs.changes import read_changes
from portal.jobs.directory import AttemptDirectory, JobDirectory
from portal.jobs.job_config import JobConfig
from portal.jobs.models import Attempt, Job, JobResult
from portal.jobs.rows import insert_job, scheduler_name
from portal.jobs.states import FailureReason, JobState
from portal.jobs.store import Change, add_event
from portal.mail.outbox import owe_mail
from portal.node import claim as claims


def insert_with_attempts(
    session: Session,
    directory: JobDirectory,
    config: JobConfig,
    application: Application | None,
    instance: str,
    mail_domain: str,
) -> None:
    """Add the rows of a directory that has none. Raises IntegrityError where its id or its token has a row.

    An attempt without a verdict that may be in the scheduler becomes SUBMITTING, so that its name is looked up
    before anything else happens to it.
    """
    job = insert_job(session, config, application, instance, source="directory")
    changes = read_changes(directory)
    if isinstance(changes.get("cancel_asked_at"), str):
        job.cancel_asked_at = parse_utc_text(changes["cancel_asked_at"])
        job.cancel_asked_by = str(changes.get("cancel_asked_by"))
    numbers = directory.attempt_numbers()
    for number in numbers:
        attempt = session.get(Attempt, (job.job_id, number))
        if attempt is None:
            attempt = _new_attempt(job, number, instance)
            session.add(attempt)
        _restore(attempt, directory.attempt(number))
    if numbers:
        session.flush()
        _point_at_last(session, job, session.get_one(Attempt, (job.job_id, numbers[-1])), directory, mail_domain)


def _new_attempt(job: Job, number: int, instance: str) -> Attempt:
    return Attempt(
        job_id=job.job_id,
        number=number,
        state=JobState.ACCEPTED,
        scheduler_name=scheduler_name(instance, job.job_id, number),
        cluster="",
        counts=True,
        excluded_nodes=[],
        created_at=job.created_at,
    )


def _restore(attempt: Attempt, files: AttemptDirectory) -> None:
    submission = read_record(files.submission)
    if submission is not None:
        attempt.scheduler_name = str(submission.get("scheduler_name") or attempt.scheduler_name)
        attempt.scheduler_id = submission.get("scheduler_id")
        attempt.cluster = str(submission.get("cluster") or "")
        attempt.counts = bool(submission.get("counts", True))
        attempt.excluded_nodes = list(submission.get("excluded_nodes") or [])
        attempt.created_at = moment(submission, "created_at") or attempt.created_at
        attempt.intent_at = moment(submission, "intent_at")
        attempt.submitted_at = moment(submission, "submitted_at")
        attempt.state = JobState.SUBMITTING
    elif (files.work / claims.FILE_NAME).exists():
        attempt.state = JobState.SUBMITTING  # somebody submitted job.sh by hand
    verdict = read_record(files.verdict)
    if verdict is not None:
        _restore_verdict(attempt, verdict)


def _restore_verdict(attempt: Attempt, verdict: dict[str, Any]) -> None:
    attempt.state = JobState(verdict["state"])
    attempt.failure_reason = FailureReason(verdict["failure_reason"]) if verdict.get("failure_reason") else None
    for name in ("exit_code", "signal", "node", "reason", "raw_state"):
        setattr(attempt, name, verdict.get(name))
    attempt.started_at = moment(verdict, "started_at")
    attempt.ended_at = moment(verdict, "ended_at")
    attempt.counts = not verdict.get("ended_by_portal", False)


def _point_at_last(session: Session, job: Job, attempt: Attempt, directory: JobDirectory, mail_domain: str) -> None:
    """The last attempt is the one that counts: its state is the job's, and its result and mail are restored."""
    before = job.state
    job.attempt_number = attempt.number
    job.state, job.failure_reason = attempt.state, attempt.failure_reason
    job.started_at, job.ended_at = attempt.started_at, attempt.ended_at
    verdict = read_record(directory.attempt(attempt.number).verdict)
    if verdict is None or not attempt.state.is_final:
        if attempt.state is not before:
            add_event(session, job, before, Change(job.created_at, "directory", "Its submission is looked up."))
        return
    ended_at = attempt.ended_at or job.created_at
    add_event(session, job, before, Change(ended_at, "directory", str(verdict.get("detail")), str(verdict.get("by"))))
    session.add(
        JobResult(
            job_id=job.job_id,
            attempt_number=attempt.number,
            answer=verdict.get("answer"),
            warning=verdict.get("warning"),
        )
    )
    # The sender finds attempts/N/mail.sent where the mail went out, and sends what nobody sent.
    owe_mail(session, job, attempt.state.value, ended_at, mail_domain, ended_at)
