"""From ACCEPTED to QUEUED, exactly once.

An intent, under a name that no other attempt has, is committed before the scheduler is called. Where the answer is
lost, the name is looked up in queue and accounting before anything is handed in again; "absent" counts only once the
lost call can no longer take effect.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import structlog
from sqlalchemy import func, or_, select

from portal.applications.definition import Application
from portal.applications.rendering import render_program
from portal.dispatch.context import Dispatch
from portal.dispatch.decide import Ended
from portal.dispatch.evidence import read_evidence
from portal.dispatch.publication import publish_end
from portal.dispatch.records import write_submission
from portal.errors import DefinitionError, NotFoundError
from portal.jobs.directory import AttemptDirectory
from portal.jobs.job_config import read_job_config
from portal.jobs.models import Attempt, Job
from portal.jobs.script import AttemptPlan, NodeMail, write_attempt
from portal.jobs.states import IN_SCHEDULER_STATES, FailureReason, JobState
from portal.jobs.store import Change, change_state
from portal.mail.outbox import prepare_node_mail
from portal.schedulers.base import (
    Absent,
    Deferred,
    Found,
    Handle,
    InDoubt,
    JobSpec,
    Rejected,
    SubmitAnswer,
    Submitted,
)

log = structlog.get_logger()

BATCH = 100
"""Attempts that go in with one call; between two batches everything else gets its turn."""
RETRY_SECONDS = 30.0
"""When an attempt that could not be prepared, or was put off, is tried again."""
LOOK_AGAIN_SECONDS = 5.0
"""When a name that could not be looked up is looked up again."""
DOUBT_MARGIN_SECONDS = 2.0


@dataclass(frozen=True)
class Prepared:
    """An attempt whose files are written."""

    job: Job
    attempt: Attempt
    spec: JobSpec
    directory: AttemptDirectory


def submit_accepted(dispatch: Dispatch) -> int:
    """Hand in one batch of what was accepted, round-robin between owners; how many were taken in."""
    chosen = _choose(dispatch)
    prepared = [ready for job, attempt in chosen if (ready := _prepare(dispatch, job, attempt)) is not None]
    intended = _commit_intents(dispatch, prepared)
    if not intended:
        return 0
    answers = dispatch.scheduler.submit([ready.spec for ready in intended])
    for ready, answer in zip(intended, answers, strict=True):
        _record_answer(dispatch, ready, answer)
    return sum(isinstance(answer, Submitted) for answer in answers)


def resolve_doubts(dispatch: Dispatch) -> int:
    """Look up the names whose submission is in doubt, its predecessor's too; how many were settled."""
    now = dispatch.now()
    with dispatch.database.reading() as session:
        doubtful = session.execute(
            select(Job, Attempt)
            .join(Attempt, (Attempt.job_id == Job.job_id) & (Attempt.number == Job.attempt_number))
            .where(
                Attempt.state == JobState.SUBMITTING,
                or_(Attempt.next_try_at.is_(None), Attempt.next_try_at <= now),
            )
            .limit(BATCH)
        ).all()
    if not doubtful:
        return 0
    answers = dispatch.scheduler.find([attempt.scheduler_name for _, attempt in doubtful])
    settled = 0
    for job, attempt in doubtful:
        answer = answers[attempt.scheduler_name]
        if isinstance(answer, Found):
            _adopt_handle(dispatch, job, attempt, answer.handles)
            settled += 1
        elif isinstance(answer, Absent) and _lost_call_is_over(dispatch, attempt):
            _take_back(dispatch, job, attempt)
            settled += 1
        else:
            _look_again_later(dispatch, attempt)
    return settled


def _choose(dispatch: Dispatch) -> list[tuple[Job, Attempt]]:
    """The next ones: everybody's first job before anybody's second, within what the scheduler may hold at once."""
    now = dispatch.now()
    with dispatch.database.reading() as session:
        held = session.scalar(select(func.count()).select_from(Attempt).where(Attempt.state.in_(IN_SCHEDULER_STATES)))
        room = min(BATCH, dispatch.settings.limits.max_in_scheduler - (held or 0))
        if room <= 0:
            return []
        turn = func.row_number().over(partition_by=Job.owner, order_by=(Job.created_at, Job.job_id))
        rows = session.execute(
            select(Job, Attempt, turn.label("turn"))
            .join(Attempt, (Attempt.job_id == Job.job_id) & (Attempt.number == Job.attempt_number))
            .where(
                Job.state == JobState.ACCEPTED,
                Job.cancel_asked_at.is_(None),
                or_(Attempt.next_try_at.is_(None), Attempt.next_try_at <= now),
            )
            .order_by("turn", Job.created_at, Job.job_id)
            .limit(room)
        ).all()
    return [(row[0], row[1]) for row in rows]


def _prepare(dispatch: Dispatch, job: Job, attempt: Attempt) -> Prepared | None:
    """Write the attempt's files; None where that cannot be done now: it stays accepted and is tried again."""
    try:
        application = dispatch.catalog.get(job.application)
        directory = dispatch.folder.job(job.job_id)
        config = read_job_config(directory.config)
        plan = _plan(dispatch, application, attempt)
        files = write_attempt(directory, config, plan)
        if plan.mail is not None:
            _prepare_mail(dispatch, job)
    except (NotFoundError, DefinitionError) as error:
        _put_off(dispatch, attempt, f"its application cannot be used at the moment: {error.visitor_message}")
    except (OSError, ValueError) as error:
        _put_off(dispatch, attempt, "its files cannot be written at the moment", log_detail=str(error))
    else:
        return Prepared(job, attempt, _spec(job, attempt, files), files)
    return None


def _prepare_mail(dispatch: Dispatch, job: Job) -> None:
    """The message that the node sends after a success, whole: the node knows nothing but where to hand it in."""
    prepare_node_mail(
        dispatch.jobs.record(job.job_id),
        dispatch.folder.job(job.job_id),
        dispatch.settings,
        dispatch.keys,
        dispatch.clock,
        lambda name: dispatch.catalog.get(name).title,
    )


def _plan(dispatch: Dispatch, application: Application, attempt: Attempt) -> AttemptPlan:
    mail = dispatch.settings.mail
    by_node = mail.sent_by == "node" and application.policy.out_of_memory != "fail"
    return AttemptPlan(
        number=attempt.number,
        scheduler_name=attempt.scheduler_name,
        application=application,
        rendered_program=render_program(application, dispatch.site),
        node_files=dispatch.node_files,
        node_python=dispatch.settings.scheduler.node_python,
        heartbeat_seconds=dispatch.heartbeat_seconds,
        passed_on={name: os.environ[name] for name in application.environment.pass_ if name in os.environ},
        mail=NodeMail(mail.smtp_host, mail.smtp_port, dispatch.settings.from_address, mail.smtp_timeout_seconds)
        if by_node
        else None,
    )


def _spec(job: Job, attempt: Attempt, files: AttemptDirectory) -> JobSpec:
    return JobSpec(
        name=attempt.scheduler_name,
        script=files.job_script,
        working_dir=files.work,
        time_limit_minutes=int(job.resources["time_limit_minutes"]),
        memory_mib=int(job.resources["memory_mib"]),
        cpus=int(job.resources["cpus"]),
        exclude_nodes=tuple(attempt.excluded_nodes),
    )


def _put_off(dispatch: Dispatch, attempt: Attempt, reason: str, log_detail: str = "") -> None:
    log.warning("an attempt is put off", name=attempt.scheduler_name, reason=reason, error=log_detail)
    with dispatch.leadership.writing() as session:
        row = session.get_one(Attempt, (attempt.job_id, attempt.number))
        job = session.get_one(Job, attempt.job_id)
        row.next_try_at = dispatch.now() + timedelta(seconds=RETRY_SECONDS)
        if row.reason != reason:
            row.reason = reason
            job.version += 1


def _commit_intents(dispatch: Dispatch, prepared: Sequence[Prepared]) -> list[Prepared]:
    """Commit SUBMITTING for those that are still to go in: a wish to cancel may have come since."""
    if not prepared:
        return []
    now = dispatch.now()
    for ready in prepared:
        ready.attempt.intent_at = now
        write_submission(ready.directory, ready.attempt, dispatch.leadership.epoch)
    intended = []
    with dispatch.leadership.writing() as session:
        for ready in prepared:
            job = session.get_one(Job, ready.job.job_id)
            attempt = session.get_one(Attempt, (job.job_id, ready.attempt.number))
            if job.state is not JobState.ACCEPTED or job.cancel_asked_at is not None:
                continue
            attempt.intent_at = now
            attempt.next_try_at = None
            attempt.reason = None
            change = Change(now, "portal", f"Handed to the scheduler as {attempt.scheduler_name}.")
            change_state(session, job, attempt, JobState.SUBMITTING, change)
            intended.append(Prepared(job, attempt, ready.spec, ready.directory))
    return intended


def _record_answer(dispatch: Dispatch, ready: Prepared, answer: SubmitAnswer) -> None:
    match answer:
        case Submitted(handle):
            _record_submitted(dispatch, ready.job, ready.attempt, handle, "The scheduler has it")
        case Rejected(reason):
            _record_rejected(dispatch, ready, reason)
        case Deferred(reason):
            _take_back(dispatch, ready.job, ready.attempt, reason)
        case InDoubt(reason):
            log.warning("a submission is in doubt", name=ready.attempt.scheduler_name, reason=reason)
            _look_again_later(dispatch, ready.attempt)


def _record_submitted(dispatch: Dispatch, job: Job, attempt: Attempt, handle: Handle, words: str) -> None:
    now = dispatch.now()
    attempt.scheduler_id = handle.scheduler_id
    attempt.cluster = handle.cluster
    attempt.submitted_at = now
    write_submission(dispatch.attempt_directory(attempt), attempt, dispatch.leadership.epoch)
    with dispatch.leadership.writing() as session:
        row = session.get_one(Attempt, (job.job_id, attempt.number))
        row.scheduler_id = handle.scheduler_id
        row.cluster = handle.cluster
        row.submitted_at = now
        row.next_try_at = None
        change = Change(now, "scheduler", f"{words}, as job {handle.scheduler_id}.")
        change_state(session, session.get_one(Job, job.job_id), row, JobState.QUEUED, change)


def _record_rejected(dispatch: Dispatch, ready: Prepared, reason: str) -> None:
    ended = Ended(JobState.FAILED, "scheduler", f"The scheduler refused it: {reason}", FailureReason.REJECTED)
    publish_end(dispatch, ready.job, ready.attempt, ended, reason=reason)


def _adopt_handle(dispatch: Dispatch, job: Job, attempt: Attempt, handles: Sequence[Handle]) -> None:
    """The scheduler knows the name. Where it has it twice, the one that took the claim stays."""
    claim = read_evidence(dispatch.attempt_directory(attempt), attempt).claim
    claimed = [handle for handle in handles if claim and handle.scheduler_id == claim.scheduler_id]
    kept = (claimed or sorted(handles, key=lambda handle: handle.scheduler_id))[0]
    spare = [handle for handle in handles if handle != kept]
    if spare:
        log.warning("a job was in the scheduler twice", name=attempt.scheduler_name, cancelled=len(spare))
        dispatch.scheduler.cancel(spare)
    _record_submitted(dispatch, job, attempt, kept, "Found in the scheduler by its name")


def _take_back(dispatch: Dispatch, job: Job, attempt: Attempt, reason: str | None = None) -> None:
    """The scheduler certainly does not have it: back to ACCEPTED, to go in again."""
    now = dispatch.now()
    with dispatch.leadership.writing() as session:
        row = session.get_one(Attempt, (job.job_id, attempt.number))
        row.reason = reason
        row.next_try_at = now + timedelta(seconds=RETRY_SECONDS) if reason else None
        detail = f"The scheduler does not take it yet: {reason}" if reason else "The scheduler does not have it."
        change = Change(now, "scheduler", detail)
        change_state(session, session.get_one(Job, job.job_id), row, JobState.ACCEPTED, change)


def _look_again_later(dispatch: Dispatch, attempt: Attempt) -> None:
    with dispatch.leadership.writing() as session:
        row = session.get_one(Attempt, (attempt.job_id, attempt.number))
        row.next_try_at = dispatch.now() + timedelta(seconds=LOOK_AGAIN_SECONDS)


def _lost_call_is_over(dispatch: Dispatch, attempt: Attempt) -> bool:
    lost_call_seconds = dispatch.scheduler.capabilities.lost_call_seconds
    if attempt.intent_at is None or lost_call_seconds == 0:
        return True
    return dispatch.now() - attempt.intent_at >= timedelta(seconds=lost_call_seconds + DOUBT_MARGIN_SECONDS)
