"""What waits for longer than it should, and for what: for the administrator's page and for `portal check`.

Nothing here is repaired. The portal goes on trying by itself; what is listed is what a person should know of.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, case, func, select
from sqlalchemy.orm import Session

from portal.clock import utc_text
from portal.jobs.models import Attempt, Job, MailOutbox, SchedulerHealth
from portal.jobs.states import FINAL_STATES, IN_SCHEDULER_STATES, JobState
from portal.jobs.store import read_health
from portal.settings import LimitsSection

SUBMITTING = timedelta(minutes=5)
"""A submission takes seconds, and a lost answer is looked up once its time-out is over, which is under a minute."""
ACCEPTED = timedelta(minutes=10)
"""A job goes in within seconds; what is put off is tried again every half minute."""
CANCELLING = timedelta(minutes=5)
"""Schedulers kill within half a minute to a minute, and are asked again every half minute."""
RESUBMITTING = timedelta(minutes=5)
"""The new attempt is opened within seconds, unless the old one is in its way."""
WITHOUT_ANSWER = timedelta(minutes=10)
"""Accounting lags by seconds and files by less than the grace period, which comes on top of this."""
OVER_TIME = timedelta(minutes=30)
"""Slurm ends a job up to half a minute late; a node that does not answer keeps it for minutes."""
MAIL = timedelta(hours=1)
"""The first tries come within minutes, and a cap lets everything out within the hour."""
UNATTENDED = timedelta(minutes=5)
"""A dispatcher asks the scheduler every few seconds: after this there is none, or it stands still."""
MOST_OF_A_KIND = 200
_NO_TRY_FAILED = "no try has failed, so that a cap holds it up, or nobody sends"


@dataclass(frozen=True)
class Stuck:
    """One thing that waits."""

    kind: str
    """submitting, accepted, cancelling, resubmitting, without_answer, over_time or mail."""
    job_id: str
    since: datetime
    sentence: str
    """What the portal is waiting for."""


def find_stuck(session: Session, now: datetime, grace_seconds: float, limits: LimitsSection) -> list[Stuck]:
    """Everything that waits for too long, what has waited longest first, at most MOST_OF_A_KIND of a kind."""
    health = read_health(session)
    is_silent = health is None or health.silent_since is not None
    found = [
        *_submitting(session, now, health),
        *([] if is_silent else _accepted(session, now, limits)),
        *_cancelling(session, now, health),
        *_resubmitting(session, now, health),
        *_without_answer(session, now - timedelta(seconds=grace_seconds), health),
        *_over_time(session, now),
        *_mail(session, now),
    ]
    return sorted(found, key=lambda stuck: stuck.since)


def _submitting(session: Session, now: datetime, health: SchedulerHealth | None) -> list[Stuck]:
    rows = _attempts(session, Attempt.state == JobState.SUBMITTING, Attempt.intent_at < now - SUBMITTING)
    waits_for = _scheduler_words(
        health, now, "to say whether it has a job of this name, in its queue or its accounting"
    )
    return [
        Stuck(
            "submitting", job.job_id, attempt.intent_at or job.created_at, f"Handed in without an answer; {waits_for}"
        )
        for job, attempt in rows
    ]


def _accepted(session: Session, now: datetime, limits: LimitsSection) -> list[Stuck]:
    """Accepted while the scheduler answers; but not what waits its turn, behind the caps that keep the portal fair."""
    rows = _attempts(
        session,
        Attempt.state == JobState.ACCEPTED,
        Attempt.created_at < now - ACCEPTED,
        Job.cancel_asked_at.is_(None),
        at_most=None,
    )
    held, waiting = _held(session), _waiting_by_owner(session)
    is_full = held >= limits.max_in_scheduler
    stuck = []
    for job, attempt in rows:
        waits_its_turn = is_full or waiting.get(job.owner, 0) >= limits.waiting_in_scheduler_per_person
        if attempt.reason:
            sentence = f"Not handed in yet: {attempt.reason.rstrip('.')}. It is tried again every half minute."
        elif waits_its_turn:
            continue
        else:
            sentence = "Not handed in yet, for no recorded reason: waits for the dispatcher, whose log says more."
        stuck.append(Stuck("accepted", job.job_id, attempt.created_at, sentence))
    return stuck[:MOST_OF_A_KIND]


def _held(session: Session) -> int:
    query = select(func.count()).select_from(Attempt).where(Attempt.state.in_(IN_SCHEDULER_STATES))
    return session.scalar(query) or 0


def _waiting_by_owner(session: Session) -> dict[str, int]:
    waits = func.sum(case((Attempt.state == JobState.RUNNING, 0), else_=1))
    query = (
        select(Job.owner, waits)
        .join(Attempt, Attempt.job_id == Job.job_id)
        .where(Attempt.state.in_(IN_SCHEDULER_STATES))
        .group_by(Job.owner)
    )
    return {row[0]: int(row[1]) for row in session.execute(query)}


def _cancelling(session: Session, now: datetime, health: SchedulerHealth | None) -> list[Stuck]:
    rows = _attempts(session, Job.cancel_asked_at < now - CANCELLING)
    waits_for = _scheduler_words(health, now, "to end it")
    return [
        Stuck("cancelling", job.job_id, job.cancel_asked_at or now, f"Its cancellation was asked for; {waits_for}")
        for job, _ in rows
    ]


def _resubmitting(session: Session, now: datetime, health: SchedulerHealth | None) -> list[Stuck]:
    query = (
        select(Job)
        .where(Job.resubmit_asked_at < now - RESUBMITTING)
        .order_by(Job.resubmit_asked_at)
        .limit(MOST_OF_A_KIND)
    )
    waits_for = _scheduler_words(
        health, now, "to say that it does not have the old attempt, or its program to have stopped"
    )
    return [
        Stuck("resubmitting", job.job_id, job.resubmit_asked_at or now, f"It was asked to run again; {waits_for}")
        for job in session.scalars(query)
    ]


def _without_answer(session: Session, now: datetime, health: SchedulerHealth | None) -> list[Stuck]:
    rows = _attempts(session, Attempt.end_seen_at < now - WITHOUT_ANSWER, Job.cancel_asked_at.is_(None))
    accounting_is_silent = health is not None and health.accounting_silent_since is not None
    stuck = []
    for job, attempt in rows:
        if accounting_is_silent:
            waits_for = "waits for the scheduler's accounting, which does not answer."
        elif attempt.state is JobState.QUEUED and attempt.raw_state:
            waits_for = f"waits ({attempt.raw_state}, {attempt.reason or 'no reason given'}) and may never start."
        else:
            waits_for = f"waits for {_evidence_words(attempt)}."
        stuck.append(
            Stuck("without_answer", job.job_id, attempt.end_seen_at or now, f"It seems to have ended; {waits_for}")
        )
    return stuck


def _evidence_words(attempt: Attempt) -> str:
    if attempt.reason and "brought here" in attempt.reason:
        return "what it wrote to be brought here from the cluster"
    return "word from its node, whose heart still beats, or for an administrator: `portal resubmit --unfinished`"


def _over_time(session: Session, now: datetime) -> list[Stuck]:
    rows = _attempts(session, Attempt.state == JobState.RUNNING, Attempt.started_at < now - OVER_TIME, at_most=None)
    stuck = []
    for job, attempt in rows:
        limit = timedelta(minutes=int(job.resources.get("time_limit_minutes", 0)))
        if attempt.started_at is not None and now - attempt.started_at > limit + OVER_TIME:
            sentence = (
                f"Running on {attempt.node or 'its node'} past its time limit; waits for the scheduler to end it."
            )
            stuck.append(Stuck("over_time", job.job_id, attempt.started_at + limit, sentence))
    return stuck[:MOST_OF_A_KIND]


def _mail(session: Session, now: datetime) -> list[Stuck]:
    query = (
        select(MailOutbox)
        .where(MailOutbox.sent_at.is_(None), MailOutbox.refused_at.is_(None), MailOutbox.created_at < now - MAIL)
        .order_by(MailOutbox.created_at)
        .limit(MOST_OF_A_KIND)
    )
    return [
        Stuck(
            "mail",
            row.job_id,
            row.created_at,
            f"Mail to {row.recipient} waits: {row.last_error or _NO_TRY_FAILED}",
        )
        for row in session.scalars(query)
    ]


def _attempts(
    session: Session, *conditions: ColumnElement[bool], at_most: int | None = MOST_OF_A_KIND
) -> list[tuple[Job, Attempt]]:
    """Jobs that go on, with the attempt that counts."""
    rows = session.execute(
        select(Job, Attempt)
        .join(Attempt, (Attempt.job_id == Job.job_id) & (Attempt.number == Job.attempt_number))
        .where(Job.state.not_in(FINAL_STATES), *conditions)
        .order_by(Attempt.created_at)
        .limit(at_most)
    ).all()
    return [(row[0], row[1]) for row in rows]


def _scheduler_words(health: SchedulerHealth | None, now: datetime, what: str) -> str:
    """What the scheduler is waited for to do, or that it does not even answer, or is not even asked."""
    if health is None:
        return "waits for a dispatcher, of which none has ever run."
    if now - health.asked_at > UNATTENDED:
        return f"waits for a dispatcher: the last one asked the scheduler at {utc_text(health.asked_at)}."
    if health.silent_since is not None:
        return "waits for the scheduler, which does not answer."
    if health.accounting_silent_since is not None:
        return "waits for the scheduler's accounting, which does not answer."
    return f"waits for the scheduler {what}."
