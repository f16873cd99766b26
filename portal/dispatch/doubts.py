"""Submissions whose answer was lost: the name is looked up before anything else happens to them."""

from collections.abc import Sequence
from datetime import timedelta

import structlog
from sqlalchemy import or_, select

from portal.dispatch.answers import look_again_later, record_submitted, take_back
from portal.dispatch.context import Dispatch
from portal.dispatch.decide import Ended
from portal.dispatch.evidence import gather_evidence
from portal.dispatch.isolation import kept_apart
from portal.dispatch.polling import Memory, look_at
from portal.dispatch.publication import publish_end
from portal.jobs.models import Attempt, Job
from portal.jobs.states import FailureReason, JobState
from portal.node.claim import Claim
from portal.schedulers.base import Absent, FindAnswer, Found, Handle, Observation, SchedulerState, Unknown

log = structlog.get_logger()

BATCH = 100
DOUBT_MARGIN_SECONDS = 2.0


def resolve_doubts(dispatch: Dispatch, memory: Memory) -> int:
    """Look up the names whose submission is in doubt, a predecessor's too; how many were looked up."""
    now = dispatch.now()
    with dispatch.database.reading() as session:
        doubtful = session.execute(
            select(Job, Attempt)
            .join(Attempt, (Attempt.job_id == Job.job_id) & (Attempt.number == Job.attempt_number))
            .where(
                Attempt.state == JobState.SUBMITTING,
                or_(Attempt.next_try_at.is_(None), Attempt.next_try_at <= now),
            )
            .order_by(Attempt.next_try_at, Attempt.intent_at)
            .limit(BATCH)
        ).all()
    if not doubtful:
        return 0
    dispatch.nodes.begin_round()
    answers = dispatch.scheduler.find([attempt.scheduler_name for _, attempt in doubtful])
    for job, attempt in doubtful:
        with kept_apart(attempt.scheduler_name):
            answer = answers.get(attempt.scheduler_name, Unknown("no answer"))
            _settle(dispatch, memory, job, attempt, answer)
    return len(doubtful)


def _settle(dispatch: Dispatch, memory: Memory, job: Job, attempt: Attempt, answer: FindAnswer) -> None:
    if isinstance(answer, Found):
        _adopt_handle(dispatch, job, attempt, answer.handles)
        return
    if isinstance(answer, Unknown) and answer.for_ever and _believe_the_claim(dispatch, job, attempt):
        return
    if isinstance(answer, Absent) and _lost_call_is_over(dispatch, attempt):
        evidence = gather_evidence(dispatch, attempt)
        if evidence is not None and evidence.claim is None:
            take_back(dispatch, job, attempt)
            return
        is_given_up = evidence is not None and evidence.claim is not None and evidence.claim.by == "dispatcher"
        if evidence is not None and is_given_up and not evidence.tells_the_end:
            _give_up(dispatch, job, attempt)
            return
        # It has been started (by hand, or by a scheduler that has forgotten it): what the node wrote decides.
        look_at(dispatch, memory, job, attempt, Observation(SchedulerState.NOT_FOUND))
    look_again_later(dispatch, attempt)


def _believe_the_claim(dispatch: Dispatch, job: Job, attempt: Attempt) -> bool:
    """Where no name can be looked up: the job in the scheduler that took the claim is the one that was handed in."""
    evidence = gather_evidence(dispatch, attempt)
    claim = evidence.claim if evidence is not None else None
    if claim is None or claim.by != "wrapper" or claim.name != attempt.scheduler_name or not claim.scheduler_id:
        return False
    handle = Handle(claim.scheduler_id, attempt.scheduler_name)
    record_submitted(dispatch, job, attempt, handle, "Known by the claim that it took as it started")
    return True


def _give_up(dispatch: Dispatch, job: Job, attempt: Attempt) -> None:
    """A predecessor took its claim, so that it can never start, and this database does not know why."""
    detail = "It had been given up before it started."
    if job.cancel_asked_by is not None:
        ended = Ended(JobState.CANCELLED, "directory", detail, by=job.cancel_asked_by, never_started=True)
    else:
        ended = Ended(JobState.FAILED, "directory", detail, FailureReason.LOST, never_started=True)
    publish_end(dispatch, job, attempt, ended)


def _adopt_handle(dispatch: Dispatch, job: Job, attempt: Attempt, handles: Sequence[Handle]) -> None:
    """The scheduler knows the name. Where it has it twice, the one that took the claim stays and the others go.

    As long as nobody has the claim all of them stay: whichever is cancelled might start in this very moment. The
    others exit when they find the claim taken, and polling follows it.
    """
    evidence = gather_evidence(dispatch, attempt)
    claim = evidence.claim if evidence is not None else None
    kept = choose_handle(handles, claim)
    spare = [handle for handle in handles if handle != kept]
    record_submitted(dispatch, job, attempt, kept, "Found in the scheduler by its name")
    if spare and claim is not None and claim.scheduler_id == kept.scheduler_id:
        log.warning("a job was in the scheduler twice", name=attempt.scheduler_name, cancelled=len(spare))
        dispatch.scheduler.cancel(spare)


def choose_handle(handles: Sequence[Handle], claim: Claim | None) -> Handle:
    """The one whose id the claim names, else the oldest: ids grow."""
    claimed = [handle for handle in handles if claim and handle.scheduler_id == claim.scheduler_id]
    return min(claimed or handles, key=lambda handle: (len(handle.scheduler_id), handle.scheduler_id))


def _lost_call_is_over(dispatch: Dispatch, attempt: Attempt) -> bool:
    lost_call_seconds = dispatch.scheduler.capabilities.lost_call_seconds
    if attempt.intent_at is None or lost_call_seconds == 0:
        return True
    return dispatch.now() - attempt.intent_at >= timedelta(seconds=lost_call_seconds + DOUBT_MARGIN_SECONDS)
