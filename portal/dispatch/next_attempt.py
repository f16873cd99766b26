"""With which attempt a job goes on, where it does: by its application's policy, or because somebody asked for it."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from portal.applications.definition import Application
from portal.dispatch.context import Dispatch
from portal.dispatch.decide import Ended, opens_new_attempt
from portal.jobs.models import Attempt, Job
from portal.jobs.rows import new_attempt_row
from portal.jobs.states import FailureReason, JobState
from portal.jobs.store import Change, add_event
from portal.jobs.wish import ResubmitWish


def policy_reopens(dispatch: Dispatch, job: Job, ended: Ended, application: Application | None) -> bool:
    """Whether the application's policy answers this end with another attempt."""
    policy = application.policy if application else None
    with dispatch.database.reading() as session:
        counted = session.scalar(
            select(func.count()).select_from(Attempt).where(Attempt.job_id == job.job_id, Attempt.counts)
        )
        cancel_was_asked = session.get_one(Job, job.job_id).cancel_asked_at is not None
    return opens_new_attempt(
        ended,
        resubmits=policy is not None and policy.on_node_failure == "resubmit",
        counted_attempts=counted or 0,
        max_attempts=policy.max_attempts if policy else 0,
        cancel_was_asked=cancel_was_asked,
    )


def attempt_after_failure(dispatch: Dispatch, old: Attempt, ended: Ended, node: str | None) -> Attempt:
    """The row of the attempt with which the job goes on; a node that failed is left out where the scheduler can."""
    avoided = list(old.excluded_nodes)
    excludes = dispatch.scheduler.capabilities.can_exclude_nodes
    if excludes and ended.failure_reason is FailureReason.NODE_FAILURE and node and node not in avoided:
        avoided.append(node)
    instance = dispatch.folder.instance()
    return new_attempt_row(old.job_id, old.number + 1, instance, dispatch.now(), excluded_nodes=avoided)


def attempt_after_wish(dispatch: Dispatch, old: Attempt, wish: ResubmitWish) -> Attempt:
    """The row of the attempt that somebody asked for."""
    excludes = dispatch.scheduler.capabilities.can_exclude_nodes
    avoided = list(dict.fromkeys([*old.excluded_nodes, *wish.excluded_nodes])) if excludes else []
    instance = dispatch.folder.instance()
    return new_attempt_row(old.job_id, old.number + 1, instance, dispatch.now(), excluded_nodes=avoided)


def go_on_with(
    session: Session, job: Job, following: Attempt, change: Change, wish: ResubmitWish | None = None
) -> None:
    """Let the job go on with a new attempt, and with what the wish asks for, which is carried out by that."""
    before = job.state
    session.add(following)
    job.attempt_number = following.number
    job.state = JobState.ACCEPTED
    job.failure_reason = None
    job.started_at = job.ended_at = job.kept_until = None
    if wish is not None:
        job.resources = dict(wish.resources)
        if before.is_final:
            job.cancel_asked_at = job.cancel_asked_by = None
    job.resubmit_asked_at = job.resubmit_wish = None
    add_event(session, job, before, change)
