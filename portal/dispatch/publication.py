"""How an end becomes known: the verdict and the markers on disk first, then one commit, which owes the mail.

A crash before the commit leaves the job as it was, and the same evidence leads to the same files again. An attempt
that is not the one that counts any more publishes nothing.
"""

import os
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.orm import Session

from portal.applications.definition import Application
from portal.clock import parse_utc_text
from portal.dispatch.context import Dispatch
from portal.dispatch.decide import Ended
from portal.dispatch.evidence import read_evidence
from portal.dispatch.next_attempt import attempt_after_failure, attempt_after_wish, go_on_with, policy_reopens
from portal.dispatch.records import END_FIELDS, as_json, write_verdict
from portal.jobs.directory import FILE_MODE, AttemptDirectory, JobDirectory
from portal.jobs.job_files import read_tail
from portal.jobs.models import Attempt, Job, JobResult
from portal.jobs.retention import kept_until_after
from portal.jobs.states import CORRECTABLE_REASONS, JobState
from portal.jobs.store import Change, change_state
from portal.jobs.wish import ResubmitWish
from portal.mail.outbox import mail_domain, owe_mail
from portal.node.durable import fsync_folder
from portal.node.output_files import STDERR_NAME, STDOUT_NAME
from portal.node.status_file import StatusFile
from portal.schedulers.base import Observation, SchedulerState
from portal.settings import Settings

log = structlog.get_logger()

SUCCESS = "SUCCESS"
ERROR = "ERROR"
_MAX_ANSWER_FILE_BYTES = 1024 * 1024
_MAX_ANSWER_CHARACTERS = 10_000
_LINKS = (STDOUT_NAME, STDERR_NAME)


@dataclass(frozen=True)
class _End:
    """An end with all that is to be written down of it."""

    ended: Ended
    facts: dict[str, Any]
    """What the attempt's row will say; the keys are END_FIELDS."""
    status: StatusFile | None
    answer: str | None
    next_attempt: Attempt | None
    """The row of the attempt with which the job goes on, where it does."""
    corrects: bool
    kept_until: datetime | None
    """When the job is deleted, if this is how it ended."""
    outcome: str
    """What the visitor is told, in the outbox's words."""


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
    wish: ResubmitWish | None = None,
) -> None:
    """Make the end of the attempt that counts known, or open a new attempt where the application's policy says so.

    With a `wish` it opens one whatever the policy says.

    Raises OSError where the disk refuses, StorageError where the database does, and StaleEpochError where a newer
    dispatcher is there: the job then stays as it was, and is looked at again. So it does where a new attempt was to be
    opened, and the node has told of the end meanwhile.
    """
    dispatch.leadership.require()
    application = dispatch.jobs.application_of_job(job.application)
    ended = _with_shortfall(dispatch, attempt, ended)
    facts = _facts(dispatch, attempt, ended, observation, status, reason)
    answer = _find_answer(dispatch.attempt_directory(attempt), application) if _is_success(ended) else None
    next_attempt = None
    if wish is not None:
        next_attempt = attempt_after_wish(dispatch, attempt, wish)
    elif not corrects and policy_reopens(dispatch, job, ended, application):
        next_attempt = attempt_after_failure(dispatch, attempt, ended, facts["node"])
    kept_until = kept_until_after(dispatch.now(), application)
    outcome = outcome_of(dispatch.settings, ended.state, corrects=corrects)
    end = _End(ended, facts, status, answer, next_attempt, corrects, kept_until, outcome)
    _write_files(dispatch, job, attempt, end)
    if next_attempt is not None and _node_has_told_since(dispatch, attempt, status):
        log.info("the node has told how the program ended, in the last moment", name=attempt.scheduler_name)
        _take_back_verdict(dispatch, attempt)
        return
    with dispatch.leadership.writing() as session:
        row = session.get_one(Job, job.job_id)
        attempt_row = session.get_one(Attempt, (job.job_id, attempt.number))
        if not _is_open(row, attempt, corrects=corrects):
            return
        if wish is not None and row.cancel_asked_at is not None:
            _take_back_verdict(dispatch, attempt)
            return
        for name, value in facts.items():
            setattr(attempt_row, name, value)
        if next_attempt is not None:
            _open_new_attempt(dispatch, session, row, attempt_row, ended, next_attempt, wish)
        else:
            _store_end(dispatch, session, row, attempt_row, end)
    log.info(
        "attempt ended",
        job_id=job.job_id,
        attempt=attempt.number,
        state=ended.state.value,
        detail=ended.detail,
        new_attempt=next_attempt is not None,
    )


def outcome_of(settings: Settings, state: JobState, *, corrects: bool) -> str:
    """What the visitor is told of an end, in the outbox's words.

    Where nodes mail, a node that was thought dead tells of its success itself. That message is the correction then: a
    second one, under another Message-ID, would tell the same once more.
    """
    told_by_node = settings.mail.sent_by == "node" and state is JobState.SUCCEEDED
    return "corrected" if corrects and not told_by_node else state.value


def _with_shortfall(dispatch: Dispatch, attempt: Attempt, ended: Ended) -> Ended:
    """The end, with a word of what was not brought from the cluster."""
    shortfall = dispatch.nodes.shortfall(dispatch.attempt_directory(attempt))
    if shortfall is None:
        return ended
    return replace(ended, warning=" ".join(word for word in (ended.warning, shortfall) if word))


def _write_files(dispatch: Dispatch, job: Job, attempt: Attempt, end: _End) -> None:
    write_verdict(dispatch.attempt_directory(attempt), _verdict(attempt, end), dispatch.leadership)
    directory = dispatch.folder.job(job.job_id)
    if end.next_attempt is None:
        publish_markers(directory, attempt.number, succeeded=_is_success(end.ended))
    else:
        withdraw_markers(directory)


def _node_has_told_since(dispatch: Dispatch, attempt: Attempt, status: StatusFile | None) -> bool:
    """Whether there is a word of the end that was not there before.

    A wrapper writes how the program ended, and then looks at the verdict before it mails a success; here the verdict is
    written first, and then this is looked at. Hence one of the two sees the other, and nobody is told of an attempt
    that another one follows.
    """
    if status is not None and status.succeeded is not None:
        return False
    return read_evidence(dispatch.attempt_directory(attempt), attempt).tells_the_end


def _take_back_verdict(dispatch: Dispatch, attempt: Attempt) -> None:
    """What it says is not so: nobody is to open the attempt that it promises, not even from the files alone."""
    dispatch.leadership.require()
    verdict = dispatch.attempt_directory(attempt).verdict
    verdict.unlink(missing_ok=True)
    fsync_folder(str(verdict.parent))


def _is_open(job: Job, attempt: Attempt, *, corrects: bool) -> bool:
    """Whether the attempt still counts, and its end is still to be told, or is one that can be corrected."""
    if job.attempt_number != attempt.number:
        return False
    return job.failure_reason in CORRECTABLE_REASONS if corrects else not job.state.is_final


def publish_markers(directory: JobDirectory, attempt_number: int, *, succeeded: bool) -> None:
    """Put SUCCESS or ERROR and the links to the outputs into the job's folder. Doing it again changes nothing.

    Raises OSError.
    """
    for name in _LINKS:
        _link(directory.path / name, _target(attempt_number, name))
    marker, other = (SUCCESS, ERROR) if succeeded else (ERROR, SUCCESS)
    (directory.path / other).unlink(missing_ok=True)
    (directory.path / marker).touch()
    (directory.path / marker).chmod(FILE_MODE)
    fsync_folder(str(directory.path))


def markers_are_right(directory: JobDirectory, attempt_number: int, *, succeeded: bool | None) -> bool:
    """Whether markers and links are as `publish_markers` leaves them; for None, whether there is no marker."""
    markers = [name for name in (SUCCESS, ERROR) if os.path.lexists(directory.path / name)]
    if succeeded is None:
        return not markers
    return markers == [SUCCESS if succeeded else ERROR] and all(
        _points_to(directory.path / name, _target(attempt_number, name)) for name in _LINKS
    )


def withdraw_markers(directory: JobDirectory) -> None:
    """Take the markers away from a job that goes on; doing it again changes nothing. Raises OSError."""
    for marker in (SUCCESS, ERROR):
        (directory.path / marker).unlink(missing_ok=True)


def _target(attempt_number: int, name: str) -> str:
    return f"attempts/{attempt_number}/work/{name}"


def _points_to(link: Path, target: str) -> bool:
    return link.is_symlink() and str(link.readlink()) == target


def _link(link: Path, target: str) -> None:
    if _points_to(link, target):
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
    """What the attempt's row will say of its end: the node's word first, but the scheduler's own name for the node."""
    seen = observation or Observation(SchedulerState.UNKNOWN)
    common = {
        "node": seen.node or attempt.node or (status.host if status else None),
        "raw_state": seen.raw_state if observation else None,
    }
    if status is not None and status.succeeded is not None:
        return common | {
            "exit_code": status.exit_code,
            "signal": status.signal,
            "reason": reason or status.failure or seen.reason,
            "started_at": parse_utc_text(status.started_at),
            "ended_at": parse_utc_text(status.ended_at) if status.ended_at else dispatch.now(),
        }
    began = parse_utc_text(status.started_at) if status else attempt.started_at or seen.started_at
    return common | {
        "exit_code": seen.exit_code,
        "signal": seen.signal,
        "reason": reason or seen.reason or ended.detail,
        "started_at": None if ended.never_started else began,
        "ended_at": seen.ended_at or dispatch.now(),
    }


def _verdict(attempt: Attempt, end: _End) -> dict[str, Any]:
    ended, status, following = end.ended, end.status, end.next_attempt
    return {
        "attempt": attempt.number,
        "state": ended.state.value,
        "failure_reason": ended.failure_reason.value if ended.failure_reason else None,
        "source": ended.source,
        "detail": ended.detail,
        "by": ended.by,
        "ended_by_portal": ended.ended_by_portal,
        "outcome": end.outcome,
        "answer": end.answer,
        "warning": ended.warning,
        "wall_seconds": status.wall_seconds if status else None,
        "peak_memory_mib": status.peak_memory_mib if status else None,
        "next_attempt": following.number if following else None,
        "next_excluded_nodes": following.excluded_nodes if following else [],
        "kept_until": None if following else as_json(end.kept_until),
        **{name: as_json(end.facts[name]) for name in END_FIELDS},
    }


def _open_new_attempt(
    dispatch: Dispatch,
    session: Session,
    job: Job,
    old: Attempt,
    ended: Ended,
    following: Attempt,
    wish: ResubmitWish | None,
) -> None:
    """End the old attempt and open the next in one transaction: nobody ever sees the job as failed in between."""
    old.state = ended.state
    old.failure_reason = ended.failure_reason
    old.counts = not ended.ended_by_portal
    change = Change(dispatch.now(), ended.source, f"{ended.detail} It goes in again.", ended.by)
    go_on_with(session, job, following, change, wish)


def _store_end(dispatch: Dispatch, session: Session, job: Job, attempt: Attempt, end: _End) -> None:
    now = dispatch.now()
    ended, status = end.ended, end.status
    change = Change(now, ended.source, ended.detail, ended.by)
    change_state(session, job, attempt, ended.state, change, ended.failure_reason)
    job.started_at = attempt.started_at
    job.kept_until = end.kept_until
    session.merge(
        JobResult(
            job_id=job.job_id,
            attempt_number=attempt.number,
            answer=end.answer,
            warning=ended.warning,
            wall_seconds=status.wall_seconds if status else None,
            peak_memory_mib=status.peak_memory_mib if status else None,
        )
    )
    by_node = dispatch.settings.mail.sent_by == "node" and ended.state is JobState.SUCCEEDED
    not_before = now + timedelta(seconds=dispatch.grace_seconds) if by_node else now
    owe_mail(session, job, end.outcome, now, mail_domain(dispatch.settings), not_before)


def _find_answer(directory: AttemptDirectory, application: Application | None) -> str | None:
    """What the application's pattern finds last in the file that it names; None where it finds nothing."""
    if application is None or application.answer is None:
        return None
    text = read_tail(directory.work, application.answer.file, _MAX_ANSWER_FILE_BYTES)
    found = application.answer.pattern.findall(text)
    # PostgreSQL keeps no NUL in a text.
    return str(found[-1]).replace("\0", "")[:_MAX_ANSWER_CHARACTERS] if found else None
