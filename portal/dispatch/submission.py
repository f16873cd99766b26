"""From ACCEPTED to QUEUED, exactly once.

An intent, under a name that no other attempt has, is committed before the scheduler is called. Where the answer is
lost, the name is looked up in queue and accounting before anything is handed in again; "absent" counts only once the
lost call can no longer take effect.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import structlog
from sqlalchemy import case, func, or_, select
from sqlalchemy.orm import Session

from portal.applications.definition import Application
from portal.applications.rendering import render_program
from portal.dispatch.answers import doubt, look_again_later, put_off, record_submitted, take_back
from portal.dispatch.context import Dispatch
from portal.dispatch.decide import Ended
from portal.dispatch.fairness import Held, choose
from portal.dispatch.isolation import kept_apart
from portal.dispatch.publication import publish_end
from portal.dispatch.records import write_submission
from portal.errors import DefinitionError, NotFoundError, SiteError, StorageError
from portal.jobs.directory import AttemptDirectory
from portal.jobs.job_config import read_job_config
from portal.jobs.models import Attempt, Job
from portal.jobs.rows import resource_texts
from portal.jobs.script import AttemptPlan, NodeMail, write_attempt
from portal.jobs.states import IN_SCHEDULER_STATES, FailureReason, JobState
from portal.jobs.store import Change, change_state
from portal.mail.outbox import prepare_node_mail
from portal.node import claim as claims
from portal.schedulers.base import Deferred, InDoubt, JobSpec, Rejected, SubmitAnswer, Submitted
from portal.transfer.folders import Delivery, NodesUnreachableError

log = structlog.get_logger()

BATCH = 100
"""Attempts that go in with one call; between two batches everything else gets its turn."""
UNWRITABLE = "its files cannot be written at the moment"
UNWRITABLE_ON_NODES = "its files cannot be written on the cluster at the moment"


@dataclass(frozen=True)
class Prepared:
    """An attempt whose files are written."""

    job: Job
    attempt: Attempt
    spec: JobSpec
    directory: AttemptDirectory


def submit_accepted(dispatch: Dispatch) -> int:
    """Hand in one batch of what was accepted, fair between owners; how many were taken in."""
    chosen = _choose(dispatch)
    if chosen:
        dispatch.leadership.require()
    prepared = [ready for job, attempt in chosen if (ready := _prepare(dispatch, job, attempt)) is not None]
    intended = _commit_intents(dispatch, _send(dispatch, prepared))
    if not intended:
        return 0
    answers = dispatch.scheduler.submit([ready.spec for ready in intended])
    for ready, answer in zip(intended, answers, strict=True):
        # Where an answer cannot be written down, the name is looked up.
        with kept_apart(ready.attempt.scheduler_name):
            _record_answer(dispatch, ready, answer)
    return sum(isinstance(answer, Submitted) for answer in answers)


def _choose(dispatch: Dispatch) -> list[tuple[Job, Attempt]]:
    """The next ones, fair between their owners, within what the scheduler may hold at once."""
    limits = dispatch.settings.limits
    with dispatch.database.reading() as session:
        held = _held(session)
        if sum(one.all_jobs for one in held.values()) >= limits.max_in_scheduler:
            return []
        candidates = _candidates(session, dispatch.now())
        names = choose(
            candidates,
            held,
            limits.max_in_scheduler,
            limits.waiting_in_scheduler_per_person,
            BATCH,
        )
        rows = session.execute(
            select(Job, Attempt)
            .join(Attempt, (Attempt.job_id == Job.job_id) & (Attempt.number == Job.attempt_number))
            .where(Attempt.scheduler_name.in_(names))
        ).all()
    order = {name: place for place, name in enumerate(names)}
    return sorted(((row[0], row[1]) for row in rows), key=lambda pair: order[pair[1].scheduler_name])


def _held(session: Session) -> dict[str, Held]:
    """What each person has in the scheduler."""
    has_not_started = case((Attempt.state == JobState.RUNNING, 0), else_=1)
    rows = session.execute(
        select(Job.owner, func.count(), func.sum(has_not_started))
        .join(Attempt, Attempt.job_id == Job.job_id)
        .where(Attempt.state.in_(IN_SCHEDULER_STATES))
        .group_by(Job.owner)
    ).all()
    return {owner: Held(count, waiting) for owner, count, waiting in rows}


def _candidates(session: Session, now: datetime) -> list[tuple[str, str]]:
    """Owner and name of everybody's next ones, oldest first."""
    turn = func.row_number().over(partition_by=Job.owner, order_by=(Job.created_at, Job.job_id))
    accepted = (
        select(Job.owner, Attempt.scheduler_name, Job.created_at, Job.job_id, turn.label("turn"))
        .join(Attempt, (Attempt.job_id == Job.job_id) & (Attempt.number == Job.attempt_number))
        .where(
            Job.state == JobState.ACCEPTED,
            Job.cancel_asked_at.is_(None),
            or_(Attempt.next_try_at.is_(None), Attempt.next_try_at <= now),
        )
        .subquery()
    )
    rows = session.execute(
        select(accepted.c.owner, accepted.c.scheduler_name)
        .where(accepted.c.turn <= BATCH)
        .order_by(accepted.c.created_at, accepted.c.job_id)
    ).all()
    return [(row[0], row[1]) for row in rows]


def _prepare(dispatch: Dispatch, job: Job, attempt: Attempt) -> Prepared | None:
    """Write the attempt's files; None where that cannot be done now: it stays accepted and is tried again."""
    if attempt.intent_at is None and _may_be_in_scheduler(dispatch, attempt):
        doubt(dispatch, job, attempt, "Its folder tells of a submission that this database does not know.")
        return None
    try:
        return _write_files(dispatch, job, attempt)
    except (NotFoundError, DefinitionError) as error:
        put_off(dispatch, attempt, f"its application cannot be used at the moment: {error.visitor_message}")
    except SiteError as error:
        put_off(dispatch, attempt, error.visitor_message)
    except OSError as error:
        put_off(dispatch, attempt, UNWRITABLE, log_detail=str(error))
    except StorageError:
        raise
    except Exception as error:
        # Whatever is wrong with this one must not hold up the others.
        log.exception("an attempt cannot be prepared", name=attempt.scheduler_name)
        put_off(dispatch, attempt, "its files cannot be prepared; an administrator has to look", log_detail=str(error))
    return None


def _may_be_in_scheduler(dispatch: Dispatch, attempt: Attempt) -> bool:
    """Whether the files know more than the database: it was restored from an older copy, or job.sh went in by hand."""
    files = dispatch.attempt_directory(attempt)
    return files.submission.exists() or os.path.lexists(files.work / claims.FILE_NAME)


def _write_files(dispatch: Dispatch, job: Job, attempt: Attempt) -> Prepared:
    application = dispatch.catalog.get(job.application)
    directory = dispatch.folder.job(job.job_id)
    config = replace(read_job_config(directory.config), resources=resource_texts(job.resources))
    spec = _spec(dispatch, application, job, attempt)
    plan = _plan(dispatch, application, attempt, dispatch.scheduler.directives(spec))
    files = write_attempt(directory, config, plan)
    if plan.mail is not None:
        _prepare_mail(dispatch, application, job)
    return Prepared(job, attempt, spec, files)


def _prepare_mail(dispatch: Dispatch, application: Application, job: Job) -> None:
    """The message that the node sends after a success, whole: the node knows nothing but where to hand it in."""
    prepare_node_mail(
        dispatch.jobs.record(job.job_id),
        dispatch.folder.job(job.job_id),
        dispatch.settings,
        dispatch.keys,
        dispatch.clock,
        lambda name: dispatch.catalog.get(name).title,
        application.policy.retention_days,
    )


def _plan(
    dispatch: Dispatch, application: Application, attempt: Attempt, directives: Sequence[str] = ()
) -> AttemptPlan:
    mail = dispatch.settings.mail
    by_node = mail.sent_by == "node" and application.policy.out_of_memory != "fail"
    return AttemptPlan(
        number=attempt.number,
        scheduler_name=attempt.scheduler_name,
        application=application,
        rendered_program=render_program(application, dispatch.site),
        folder_on_nodes=dispatch.nodes.folder,
        node_files=dispatch.nodes.node_files,
        node_python=dispatch.settings.scheduler.node_python,
        heartbeat_seconds=dispatch.heartbeat_seconds,
        passed_on={name: os.environ[name] for name in application.environment.pass_ if name in os.environ},
        directives=directives,
        reserved_exit_codes=dispatch.scheduler.reserved_exit_codes,
        mail=NodeMail(mail.smtp_host, mail.smtp_port, dispatch.settings.from_address, mail.smtp_timeout_seconds)
        if by_node
        else None,
    )


def _spec(dispatch: Dispatch, application: Application, job: Job, attempt: Attempt) -> JobSpec:
    files = dispatch.nodes.folder.job(job.job_id).attempt(attempt.number)
    site = dispatch.settings.scheduler
    return JobSpec(
        name=attempt.scheduler_name,
        script=files.job_script,
        working_dir=files.work,
        time_limit_minutes=int(job.resources["time_limit_minutes"]),
        memory_mib=int(job.resources["memory_mib"]),
        cpus=int(job.resources["cpus"]),
        exclude_nodes=tuple(attempt.excluded_nodes),
        partition=application.resources.partition or site.partition,
        account=site.account,
        qos=site.qos,
        gres=application.resources.gres,
    )


def _send(dispatch: Dispatch, prepared: Sequence[Prepared]) -> list[Prepared]:
    """Bring them to the nodes; those that are there. The others stay accepted, and are tried again."""
    if not prepared:
        return []
    dispatch.nodes.begin_round()
    try:
        answers = dispatch.nodes.send([(dispatch.folder.job(one.job.job_id), one.directory) for one in prepared])
    except NodesUnreachableError as error:
        for ready in prepared:
            put_off(dispatch, ready.attempt, error.visitor_message, log_detail=error.log_detail)
        return []
    sent = []
    for ready, answer in zip(prepared, answers, strict=True):
        match answer.delivery:
            case Delivery.THERE:
                sent.append(ready)
            case Delivery.CLAIMED:
                doubt(dispatch, ready.job, ready.attempt, "It has been started on the cluster, and is looked up.")
            case Delivery.REFUSED:
                put_off(dispatch, ready.attempt, UNWRITABLE_ON_NODES, log_detail=answer.problem)
            case Delivery.NOT_YET:
                pass  # it goes on in the next round
    return sent


def _commit_intents(dispatch: Dispatch, prepared: Sequence[Prepared]) -> list[Prepared]:
    """Commit SUBMITTING for those that are still to go in: a wish to cancel may have come since."""
    written = [ready for ready in prepared if _write_intent(dispatch, ready)]
    if not written:
        return []
    intended = []
    with dispatch.leadership.writing() as session:
        for ready in written:
            job = session.get_one(Job, ready.job.job_id)
            attempt = session.get_one(Attempt, (job.job_id, ready.attempt.number))
            if job.state is not JobState.ACCEPTED or job.cancel_asked_at is not None:
                continue
            attempt.intent_at = ready.attempt.intent_at
            attempt.next_try_at = None
            attempt.reason = None
            change = Change(dispatch.now(), "portal", f"Handed to the scheduler as {attempt.scheduler_name}.")
            change_state(session, job, attempt, JobState.SUBMITTING, change)
            intended.append(Prepared(job, attempt, ready.spec, ready.directory))
    return intended


def _write_intent(dispatch: Dispatch, ready: Prepared) -> bool:
    """Whether the intent stands on disk; where it does not, the attempt stays accepted."""
    ready.attempt.intent_at = dispatch.now()
    try:
        write_submission(ready.directory, ready.attempt, dispatch.leadership)
    except OSError as error:
        put_off(dispatch, ready.attempt, UNWRITABLE, log_detail=str(error))
        return False
    return True


def _record_answer(dispatch: Dispatch, ready: Prepared, answer: SubmitAnswer) -> None:
    match answer:
        case Submitted(handle):
            record_submitted(dispatch, ready.job, ready.attempt, handle, "The scheduler has it")
        case Rejected(reason):
            detail = f"The scheduler refused it: {reason}"
            ended = Ended(JobState.FAILED, "scheduler", detail, FailureReason.REJECTED)
            publish_end(dispatch, ready.job, ready.attempt, ended, reason=reason)
        case Deferred(reason):
            take_back(dispatch, ready.job, ready.attempt, reason)
        case InDoubt(reason):
            log.warning("a submission is in doubt", name=ready.attempt.scheduler_name, reason=reason)
            look_again_later(dispatch, ready.attempt)
