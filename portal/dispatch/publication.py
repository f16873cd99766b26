"""How an end becomes known: the verdict and the markers on disk first, then one commit, which owes the mail.

A crash before the commit leaves the job as it was, and the same evidence leads to the same files again. An attempt
that is not the one that counts any more publishes nothing.
"""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from portal.applications.definition import Application
from portal.clock import parse_utc_text, utc_text
from portal.dispatch.context import Dispatch
from portal.dispatch.decide import Ended, opens_new_attempt
from portal.dispatch.records import write_verdict
from portal.jobs.directory import AttemptDirectory, JobDirectory
from portal.jobs.job_files import read_tail
from portal.jobs.models import Attempt, Job, JobResult
from portal.jobs.rows import scheduler_name
from portal.jobs.states import FailureReason, JobState
from portal.jobs.store import Change, add_event, change_state
from portal.mail.outbox import mail_domain, owe_mail
from portal.node.durable import fsync_folder
from portal.node.output_files import STDERR_NAME, STDOUT_NAME
from portal.node.status_file import StatusFile
from portal.schedulers.base import Observation

log = structlog.get_logger()

SUCCESS = "SUCCESS"
ERROR = "ERROR"
_MAX_ANSWER_FILE_BYTES = 1024 * 1024
_MAX_ANSWER_CHARACTERS = 10_000
_LINKS = (STDOUT_NAME, STDERR_NAME)


def publish_end(
    dispatch: Dispatch,
    job: Job,
    attempt: Attempt,
    ended: Ended,
    *,
    observation: Observation | None = None,
    status: StatusFile | None = None,
    reason: str | None = None,
    corrects: bool = False,
) -> None:
    """Make the end of the attempt that counts known, or open a new attempt where the application's policy says so.

    Raises OSError where the disk refuses, StorageError where the database does, and StaleEpochError where a newer
    dispatcher is there: the job then stays as it was, and is looked at again.
    """
    facts = _facts(dispatch, attempt, ended, observation, status, reason)
    application = dispatch.jobs.application_of_job(job.application)
    reopens = not corrects and _reopens(dispatch, job, ended, application)
    answer = _find_answer(dispatch.attempt_directory(attempt), application) if _is_success(ended) else None
    write_verdict(
        dispatch.attempt_directory(attempt), _verdict(attempt, ended, facts, answer), dispatch.leadership.epoch
    )
    directory = dispatch.folder.job(job.job_id)
    if not reopens:
        publish_markers(directory, attempt.number, succeeded=_is_success(ended))
    with dispatch.leadership.writing() as session:
        row = session.get_one(Job, job.job_id)
        attempt_row = session.get_one(Attempt, (job.job_id, attempt.number))
        if row.attempt_number != attempt.number or (row.state.is_final and not corrects):
            return
        _store_facts(attempt_row, facts)
        if reopens:
            _open_new_attempt(dispatch, session, row, attempt_row, ended)
        else:
            _store_end(dispatch, session, row, attempt_row, ended, status, answer, corrects=corrects)
    log.info(
        "attempt ended",
        job_id=job.job_id,
        attempt=attempt.number,
        state=ended.state.value,
        detail=ended.detail,
        new_attempt=reopens,
    )


def publish_markers(directory: JobDirectory, attempt_number: int, *, succeeded: bool) -> None:
    """Put SUCCESS or ERROR and the links to the outputs into the job's folder. Doing it again changes nothing.

    Raises OSError.
    """
    for name in _LINKS:
        _link(directory.path / name, f"attempts/{attempt_number}/work/{name}")
    marker, other = (SUCCESS, ERROR) if succeeded else (ERROR, SUCCESS)
    (directory.path / other).unlink(missing_ok=True)
    (directory.path / marker).touch(mode=0o640)
    fsync_folder(str(directory.path))


def withdraw_markers(directory: JobDirectory) -> None:
    """Take the markers away from a job that goes on. Raises OSError."""
    for marker in (SUCCESS, ERROR):
        (directory.path / marker).unlink(missing_ok=True)


def _link(link: Path, target: str) -> None:
    if link.is_symlink() and str(link.readlink()) == target:
        return
    beside = link.with_name(f".{link.name}.new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    beside.replace(link)


def _is_success(ended: Ended) -> bool:
    return ended.state is JobState.SUCCEEDED


def _facts(
    dispatch: Dispatch,
    attempt: Attempt,
    ended: Ended,
    observation: Observation | None,
    status: StatusFile | None,
    reason: str | None,
) -> dict[str, Any]:
    """What the attempt's row will say of its end; the node's word before the scheduler's."""
    seen = observation
    if status is not None and status.succeeded is not None:
        return {
            "exit_code": status.exit_code,
            "signal": status.signal,
            "node": status.host,
            "reason": reason or status.failure or (seen.reason if seen else None),
            "raw_state": seen.raw_state if seen else None,
            "started_at": parse_utc_text(status.started_at),
            "ended_at": parse_utc_text(status.ended_at) if status.ended_at else dispatch.now(),
        }
    return {
        "exit_code": seen.exit_code if seen else None,
        "signal": seen.signal if seen else None,
        "node": (seen.node if seen else None) or attempt.node,
        "reason": reason or (seen.reason if seen else None) or ended.detail,
        "raw_state": seen.raw_state if seen else None,
        "started_at": None if ended.never_started else attempt.started_at or (seen.started_at if seen else None),
        "ended_at": (seen.ended_at if seen else None) or dispatch.now(),
    }


def _verdict(attempt: Attempt, ended: Ended, facts: dict[str, Any], answer: str | None) -> dict[str, Any]:
    shown = {key: utc_text(value) if isinstance(value, datetime) else value for key, value in facts.items()}
    return {
        "attempt": attempt.number,
        "state": ended.state.value,
        "failure_reason": ended.failure_reason.value if ended.failure_reason else None,
        "source": ended.source,
        "detail": ended.detail,
        "by": ended.by,
        "ended_by_portal": ended.ended_by_portal,
        "answer": answer,
        "warning": ended.warning,
        **shown,
    }


def _store_facts(attempt: Attempt, facts: dict[str, Any]) -> None:
    for name, value in facts.items():
        setattr(attempt, name, value)


def _reopens(dispatch: Dispatch, job: Job, ended: Ended, application: Application | None) -> bool:
    if application is None:
        return False
    with dispatch.database.reading() as session:
        counted = session.scalar(
            select(func.count()).select_from(Attempt).where(Attempt.job_id == job.job_id, Attempt.counts)
        )
        cancel_was_asked = session.get_one(Job, job.job_id).cancel_asked_at is not None
    return opens_new_attempt(
        ended,
        resubmits=application.policy.on_node_failure == "resubmit",
        counted_attempts=counted or 0,
        max_attempts=application.policy.max_attempts,
        cancel_was_asked=cancel_was_asked,
    )


def _open_new_attempt(dispatch: Dispatch, session: Session, job: Job, old: Attempt, ended: Ended) -> None:
    """End the old attempt and open the next in one transaction: nobody ever sees the job as failed in between."""
    now = dispatch.now()
    before = job.state
    old.state = ended.state
    old.failure_reason = ended.failure_reason
    old.counts = not ended.ended_by_portal
    avoided = list(old.excluded_nodes)
    excludes = dispatch.scheduler.capabilities.can_exclude_nodes
    if excludes and ended.failure_reason is FailureReason.NODE_FAILURE and old.node and old.node not in avoided:
        avoided.append(old.node)
    number = old.number + 1
    session.add(
        Attempt(
            job_id=job.job_id,
            number=number,
            state=JobState.ACCEPTED,
            scheduler_name=scheduler_name(dispatch.folder.instance(), job.job_id, number),
            cluster="",
            counts=True,
            excluded_nodes=avoided,
            created_at=now,
        )
    )
    job.attempt_number = number
    job.state = JobState.ACCEPTED
    job.failure_reason = None
    job.started_at = job.ended_at = None
    add_event(session, job, before, Change(now, ended.source, f"{ended.detail} It goes in again.", ended.by))


def _store_end(
    dispatch: Dispatch,
    session: Session,
    job: Job,
    attempt: Attempt,
    ended: Ended,
    status: StatusFile | None,
    answer: str | None,
    *,
    corrects: bool,
) -> None:
    now = dispatch.now()
    change_state(
        session, job, attempt, ended.state, Change(now, ended.source, ended.detail, ended.by), ended.failure_reason
    )
    job.started_at = attempt.started_at
    session.merge(
        JobResult(
            job_id=job.job_id,
            attempt_number=attempt.number,
            answer=answer,
            warning=ended.warning,
            wall_seconds=status.wall_seconds if status else None,
            peak_memory_mib=status.peak_memory_mib if status else None,
        )
    )
    outcome = "corrected" if corrects else ended.state.value
    by_node = dispatch.settings.mail.sent_by == "node" and ended.state is JobState.SUCCEEDED
    not_before = now + timedelta(seconds=dispatch.grace_seconds) if by_node else now
    owe_mail(session, job, outcome, now, mail_domain(dispatch.settings), not_before)


def _find_answer(directory: AttemptDirectory, application: Application | None) -> str | None:
    """What the application's pattern finds last in the file that it names; None where it finds nothing."""
    if application is None or application.answer is None:
        return None
    text = read_tail(directory.work, application.answer.file, _MAX_ANSWER_FILE_BYTES)
    found = application.answer.pattern.findall(text)
    return str(found[-1])[:_MAX_ANSWER_CHARACTERS] if found else None
