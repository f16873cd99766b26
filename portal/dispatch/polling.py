"""From QUEUED to an end: one look at the scheduler for all that is in it, then at the evidence of what has moved."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
from sqlalchemy import select

from portal.clock import parse_utc_text
from portal.dispatch.answers import follow_claim
from portal.dispatch.context import Dispatch, handle_of
from portal.dispatch.decide import Alive, AttemptFacts, Ended, Unchanged, Verdict, decide
from portal.dispatch.evidence import Hearts, NodeEvidence, gather_evidence, take_claim
from portal.dispatch.isolation import kept_apart
from portal.dispatch.publication import publish_end
from portal.errors import SchedulerError
from portal.jobs.models import Attempt, Job, SchedulerHealth
from portal.jobs.states import CORRECTABLE_REASONS, FailureReason, JobState
from portal.jobs.store import Change, add_event, change_state
from portal.node.claim import Claim
from portal.schedulers.base import Handle, Health, Observation, SchedulerState
from portal.transfer.folders import NodesUnreachableError

log = structlog.get_logger()

CORRECTION_DAYS = 7
"""How long a job that was lost, or whose node failed, may still be corrected by a late status file."""
CARRYING = "what it wrote is being brought here from the cluster"
_ANOTHER_START = timedelta(minutes=1)
"""How far the expected start has to move to be news: schedulers plan anew all the time."""

Pair = tuple[Job, Attempt]


@dataclass
class Memory:
    """What one dispatcher process remembers between two polls; nothing that a restart may not lose."""

    hearts: Hearts
    seen: dict[str, SchedulerState] = field(default_factory=dict)
    """What the scheduler last said of each attempt, by scheduler name."""
    next_to_poll: str = ""
    """The scheduler name with which the next round begins, where the last one's time did not suffice."""
    next_to_correct: str = ""


def poll(dispatch: Dispatch, memory: Memory) -> bool:
    """Look at everything that is in the scheduler. False where it did not answer: then nothing has changed."""
    pairs = _active(dispatch)
    handles = {attempt.scheduler_name: handle_of(attempt) for _, attempt in pairs}
    asked = [handle for handle in handles.values() if handle is not None]
    try:
        observations = dispatch.scheduler.observe(asked) if asked else {}
    except SchedulerError as error:
        log.warning("the scheduler does not answer", error=str(error))
        store_health(dispatch, Health(ok=False, detail=error.visitor_message))
        return False
    health = dispatch.scheduler.health()
    try:
        _look_at_all(dispatch, memory, pairs, observations)
    except NodesUnreachableError as error:
        log.warning("the nodes' files cannot be reached", error=str(error))
        health = Health(ok=False, detail=error.visitor_message)
    store_health(dispatch, health)
    memory.seen = {name: state for name, state in memory.seen.items() if name in handles}
    return health.ok


def _look_at_all(
    dispatch: Dispatch, memory: Memory, pairs: Sequence[Pair], observations: Mapping[Handle, Observation]
) -> None:
    dispatch.nodes.begin_round()
    turns = _beginning_with(memory.next_to_poll, pairs)
    memory.next_to_poll = ""
    for job, attempt in turns:
        if dispatch.nodes.round_is_over():
            memory.next_to_poll = attempt.scheduler_name
            return
        handle = handle_of(attempt)
        if handle is not None:
            with kept_apart(attempt.scheduler_name):
                observation = observations.get(handle, Observation(SchedulerState.UNKNOWN))
                look_at(dispatch, memory, job, attempt, observation)


def _beginning_with(name: str, pairs: Sequence[Pair]) -> list[Pair]:
    """All of them, in their order, from this one on: where files are carried, not everybody has a turn each time."""
    first = next((index for index, (_, attempt) in enumerate(pairs) if attempt.scheduler_name == name), 0)
    return [*pairs[first:], *pairs[:first]]


def correct_late(dispatch: Dispatch, memory: Memory) -> int:
    """Look for status files of jobs that were given up as lost or as a node failure; how many were corrected."""
    since = dispatch.now() - timedelta(days=CORRECTION_DAYS)
    with dispatch.database.reading() as session:
        given_up = _pairs(
            session.execute(
                select(Job, Attempt)
                .join(Attempt, (Attempt.job_id == Job.job_id) & (Attempt.number == Job.attempt_number))
                .where(
                    Job.state == JobState.FAILED,
                    Job.failure_reason.in_(CORRECTABLE_REASONS),
                    Job.ended_at > since,
                )
                .order_by(Job.job_id)
            ).all()
        )
    corrected = 0
    dispatch.nodes.begin_round()
    turns = _beginning_with(memory.next_to_correct, given_up)
    memory.next_to_correct = ""
    for job, attempt in turns:
        if dispatch.nodes.round_is_over():
            memory.next_to_correct = attempt.scheduler_name
            break
        with kept_apart(attempt.scheduler_name):
            corrected += correct(dispatch, job, attempt)
    return corrected


def correct(dispatch: Dispatch, job: Job, attempt: Attempt) -> bool:
    """Make known what the node says of an attempt that was given up; whether it has said anything.

    Raises as `publish_end` and `gather_evidence` do.
    """
    evidence = gather_evidence(dispatch, attempt)
    status = evidence.status if evidence is not None else None
    if status is None or status.succeeded is None:
        return False
    if status.succeeded:
        ended = Ended(JobState.SUCCEEDED, "status_file", "A late word from the node: the program had succeeded.")
    else:
        detail = f"A late word from the node: {status.failure or 'the program had failed.'}"
        ended = Ended(JobState.FAILED, "status_file", detail, FailureReason.PROGRAM_ERROR)
    publish_end(dispatch, job, attempt, ended, status=status, corrects=True)
    return True


def store_health(dispatch: Dispatch, health: Health) -> None:
    """Write down, for the pages, whether the scheduler answers."""
    now = dispatch.now()
    with dispatch.leadership.writing() as session:
        row = session.get(SchedulerHealth, 1)
        if row is None:
            row = SchedulerHealth(row_id=1)
            session.add(row)
        row.asked_at = now
        row.detail = health.detail
        if health.ok:
            row.answered_at = now
            row.silent_since = None
            row.running, row.waiting = health.running, health.waiting
            row.accounting_silent_since = None if health.accounting_ok else (row.accounting_silent_since or now)
        elif row.silent_since is None:
            row.silent_since = row.answered_at or now


def _active(dispatch: Dispatch) -> list[Pair]:
    with dispatch.database.reading() as session:
        return _pairs(
            session.execute(
                select(Job, Attempt)
                .join(Attempt, (Attempt.job_id == Job.job_id) & (Attempt.number == Job.attempt_number))
                .where(Attempt.state.in_((JobState.QUEUED, JobState.RUNNING)))
                .order_by(Attempt.submitted_at, Attempt.job_id)
            ).all()
        )


def _pairs(rows: Sequence[object]) -> list[Pair]:
    return [(row[0], row[1]) for row in rows]  # type: ignore[index]


def look_at(dispatch: Dispatch, memory: Memory, job: Job, attempt: Attempt, observation: Observation) -> None:
    """Weigh what is known of one attempt, and act upon it. Raises OSError, PortalError or StaleEpochError."""
    if not _is_news(dispatch, memory, attempt, observation):
        return
    directory = dispatch.attempt_directory(attempt)
    has_ended = observation.state.is_final or observation.state is SchedulerState.NOT_FOUND
    evidence = gather_evidence(dispatch, attempt, has_ended=has_ended)
    if evidence is None:
        if has_ended:
            _store_carrying(dispatch, job, attempt, observation)
        return
    heart_has_stopped = has_ended and memory.hearts.has_stopped(directory, attempt, dispatch.grace_seconds)
    claim = evidence.claim
    if claim is not None and _is_of_another_job(attempt, claim):
        if follow_claim(dispatch, job, attempt, claim):
            return  # what was observed is a twin that never started
        if has_ended and not evidence.tells_the_end and not heart_has_stopped:
            return  # nor is the end of that one the end of what started
    facts = _facts(dispatch, job, attempt, evidence, heart_has_stopped)
    verdict = decide(facts, observation, evidence.status, dispatch.now())
    _apply(dispatch, job, attempt, observation, evidence, verdict)
    memory.seen[attempt.scheduler_name] = observation.state
    if isinstance(verdict, Ended):
        memory.hearts.forget(attempt)


def _store_carrying(dispatch: Dispatch, job: Job, attempt: Attempt, observation: Observation) -> None:
    """It has ended, and what it wrote is on its way here: pages say so, and the grace period begins."""
    if attempt.end_seen_at is not None and attempt.reason == CARRYING:
        return
    with dispatch.leadership.writing() as session:
        row = session.get_one(Attempt, (job.job_id, attempt.number))
        job_row = session.get_one(Job, job.job_id)
        row.raw_state, row.reason = observation.raw_state, CARRYING
        row.end_seen_at = row.end_seen_at or dispatch.now()
        detail = f"The scheduler says {observation.raw_state or 'nothing more of it'}; {CARRYING}."
        add_event(session, job_row, job_row.state, Change(dispatch.now(), "scheduler", detail))
        job_row.version += 1


def _is_news(dispatch: Dispatch, memory: Memory, attempt: Attempt, observation: Observation) -> bool:
    """Files are read only for attempts that began, left the queue or are missing, not for all at each poll."""
    if not observation.state.is_alive or attempt.end_seen_at is not None:
        return True
    return memory.seen.get(attempt.scheduler_name) != observation.state or _differs(dispatch, attempt, observation)


def _is_of_another_job(attempt: Attempt, claim: Claim) -> bool:
    """Whether another job in the scheduler than the one that is asked about started the program."""
    return claim.by == "wrapper" and attempt.scheduler_id is not None and claim.scheduler_id != attempt.scheduler_id


def _differs(dispatch: Dispatch, attempt: Attempt, observation: Observation) -> bool:
    if attempt.raw_state != observation.raw_state or attempt.reason != observation.reason:
        return True
    known, expected = attempt.expected_start_at, _expected_start(dispatch, observation)
    if known is None or expected is None:
        return known is not expected
    return abs(expected - known) >= _ANOTHER_START


def _expected_start(dispatch: Dispatch, observation: Observation) -> datetime | None:
    """When it is to start; None where that is not known, or has gone by."""
    expected = observation.expected_start_at
    return expected if expected is not None and expected > dispatch.now() else None


def _facts(
    dispatch: Dispatch, job: Job, attempt: Attempt, evidence: NodeEvidence, heart_has_stopped: bool
) -> AttemptFacts:
    application = dispatch.jobs.application_of_job(job.application)
    return AttemptFacts(
        claim=evidence.claim,
        cancel_asked_by=job.cancel_asked_by,
        end_seen_at=attempt.end_seen_at,
        heart_has_stopped=heart_has_stopped,
        grace_seconds=dispatch.grace_seconds,
        has_accounting=dispatch.scheduler.capabilities.has_accounting,
        enforces_memory=dispatch.scheduler.capabilities.enforces_memory,
        fails_on_out_of_memory=application is not None and application.policy.out_of_memory == "fail",
    )


def _apply(
    dispatch: Dispatch,
    job: Job,
    attempt: Attempt,
    observation: Observation,
    evidence: NodeEvidence,
    verdict: Verdict,
) -> None:
    match verdict:
        case Unchanged(end_seen=end_seen):
            # One that lies ahead was seen before the clock was put back: the grace period begins again.
            if end_seen and (attempt.end_seen_at is None or attempt.end_seen_at > dispatch.now()):
                _store_end_seen(dispatch, attempt)
        case Alive():
            _store_alive(dispatch, job, attempt, observation, evidence, verdict)
        case Ended(needs_claim=needs_claim, still_waits=still_waits):
            # Where a wrapper took the claim in this very moment, nothing has ended: look again at the next poll.
            is_over = not needs_claim or take_claim(dispatch, attempt)
            if is_over and (not still_waits or _cancel(dispatch, attempt)):
                publish_end(dispatch, job, attempt, verdict, observation=observation, status=evidence.status)


def _cancel(dispatch: Dispatch, attempt: Attempt) -> bool:
    """Take what can never run out of the scheduler; False where that was not heard: it is tried at the next poll."""
    handle = handle_of(attempt)
    try:
        dispatch.scheduler.cancel([handle] if handle else [])
    except SchedulerError as error:
        log.warning("what can never run was not cancelled", name=attempt.scheduler_name, error=str(error))
        return False
    return True


def _store_end_seen(dispatch: Dispatch, attempt: Attempt) -> None:
    with dispatch.leadership.writing() as session:
        session.get_one(Attempt, (attempt.job_id, attempt.number)).end_seen_at = dispatch.now()


def _store_alive(
    dispatch: Dispatch,
    job: Job,
    attempt: Attempt,
    observation: Observation,
    evidence: NodeEvidence,
    alive: Alive,
) -> None:
    now, state = dispatch.now(), alive.state
    status = evidence.status
    with dispatch.leadership.writing() as session:
        row = session.get_one(Attempt, (attempt.job_id, attempt.number))
        job_row = session.get_one(Job, job.job_id)
        row.end_seen_at = (row.end_seen_at or now) if alive.never_runs else None
        row.expected_start_at = _expected_start(dispatch, observation) if state is JobState.QUEUED else None
        row.raw_state = observation.raw_state
        row.reason = observation.reason
        row.node = observation.node or (status.host if status else None) or row.node
        if state is JobState.RUNNING:
            began = parse_utc_text(status.started_at) if status else observation.started_at
            row.started_at = began or row.started_at
        if row.state is state:
            job_row.started_at = row.started_at
            job_row.version += 1
            return
        where = f" on {observation.node}" if observation.node else ""
        change = Change(now, "scheduler", f"The scheduler says {observation.raw_state}{where}.")
        change_state(session, job_row, row, state, change)
