"""What becomes of an attempt, from all that is known of it: pure functions, small enough to read in one sitting.

The order of trust: the status file that the wrapper wrote on the node, then the scheduler's accounting, then its
queue. No answer is no evidence. The rules are numbered as in the portal's design.
"""

import signal
from dataclasses import dataclass
from datetime import datetime, timedelta

from portal.jobs.states import RESUBMITTABLE_REASONS, FailureReason, JobState
from portal.node.claim import Claim
from portal.node.status_file import StatusFile
from portal.schedulers.base import Observation, SchedulerState


@dataclass(frozen=True)
class AttemptFacts:
    """What the portal itself knows of an attempt."""

    claim: Claim | None
    """Who took the right to start it, if anybody has."""
    cancel_asked_by: str | None
    """Who wants it cancelled, if anybody does."""
    end_seen_at: datetime | None
    """When it was first seen to have ended, or to be missing; the grace period runs from here."""
    heart_has_stopped: bool
    """The wrapper's counter was seen to stand still, on the dispatcher's own monotonic clock."""
    grace_seconds: float
    has_accounting: bool
    """Whether the scheduler can be asked for jobs that left its queue."""
    enforces_memory: bool
    """Whether the scheduler's final word may be that the job ran out of memory."""
    fails_on_out_of_memory: bool
    """The application's `out_of_memory = "fail"`: accounting is awaited even after a success."""


@dataclass(frozen=True)
class Unchanged:
    """Nothing can be concluded yet."""

    end_seen: bool
    """Something has ended or is missing: the grace period runs."""


@dataclass(frozen=True)
class Alive:
    """The scheduler has it: `QUEUED` or `RUNNING`."""

    state: JobState
    never_runs: bool = False
    """It waits, and the scheduler says that it can never start: the grace period runs."""


@dataclass(frozen=True)
class Ended:
    """It has ended, for good as far as this attempt is concerned."""

    state: JobState
    source: str
    """Where the evidence came from: `status_file` or `scheduler`."""
    detail: str
    """The evidence in one sentence."""
    failure_reason: FailureReason | None = None
    needs_claim: bool = False
    """Nobody has the claim: it must be taken first, so that a late start exits. If that fails, nothing has ended."""
    by: str = "portal"
    """Who ended it: for a cancellation the person, or the scheduler's word for an operator."""
    warning: str | None = None
    never_started: bool = False
    ended_by_portal: bool = False
    still_waits: bool = False
    """The scheduler has it yet, and is to cancel it before this end is told."""


Verdict = Unchanged | Alive | Ended

_NAMED_FAILURES: dict[SchedulerState, FailureReason] = {
    SchedulerState.TIME_LIMIT: FailureReason.TIME_LIMIT,
    SchedulerState.OUT_OF_MEMORY: FailureReason.OUT_OF_MEMORY,
    SchedulerState.NODE_FAILURE: FailureReason.NODE_FAILURE,
    SchedulerState.PREEMPTED: FailureReason.PREEMPTED,
}
"""Ends for which the scheduler itself names a reason."""

_WAITING = (SchedulerState.PENDING, SchedulerState.HELD)


def decide(attempt: AttemptFacts, observation: Observation, status: StatusFile | None, now: datetime) -> Verdict:
    """What this evidence says of the attempt. `status` must be of this attempt; that of a start counts as none."""
    grace_is_over = attempt.end_seen_at is not None and now - attempt.end_seen_at >= timedelta(
        seconds=attempt.grace_seconds
    )
    if status is not None and status.succeeded is not None:
        if status.succeeded:
            return _succeeded(attempt, observation, grace_is_over)  # rule 1
        return _failed(attempt, observation, status, grace_is_over)  # rule 1
    if observation.state.is_final:
        return _ended_without_word(attempt, observation) if grace_is_over else Unchanged(end_seen=True)  # rules 2, 3
    if observation.state is SchedulerState.NOT_FOUND:
        return _absent(attempt, grace_is_over)  # rules 2, 4
    if observation.state in _WAITING:
        return _waiting(attempt, observation, grace_is_over)
    if observation.state.is_alive:
        return Alive(JobState.RUNNING)
    return Unchanged(end_seen=attempt.end_seen_at is not None)  # rule 5


def opens_new_attempt(
    ended: Ended, *, resubmits: bool, counted_attempts: int, max_attempts: int, cancel_was_asked: bool
) -> bool:
    """Whether the application's policy answers this end with another attempt.

    `counted_attempts` includes the one that ended. Two ends are not the application's to judge: what the portal's own
    shutdown took away runs again always, and what the scheduler lost before it started does so within `max_attempts`.
    """
    if ended.state is not JobState.FAILED or cancel_was_asked:
        return False
    if ended.ended_by_portal:
        return True
    if ended.failure_reason not in RESUBMITTABLE_REASONS or counted_attempts >= max_attempts:
        return False
    lost_unstarted = ended.never_started and ended.failure_reason is FailureReason.LOST
    return resubmits or lost_unstarted


def _succeeded(attempt: AttemptFacts, observation: Observation, grace_is_over: bool) -> Verdict:
    ran_out = observation.state is SchedulerState.OUT_OF_MEMORY
    if attempt.fails_on_out_of_memory:
        if ran_out:
            detail = f"The program reported success, but {_scheduler_words(observation)}."
            return Ended(JobState.FAILED, "scheduler", detail, FailureReason.OUT_OF_MEMORY)
        if not _has_spoken(observation, grace_is_over):
            return _awaiting_final_word(attempt, observation)
    if attempt.enforces_memory and observation.state.is_alive and not grace_is_over:
        # Its script has just ended, and the scheduler is about to say how: the mail shall not miss a warning.
        return _awaiting_final_word(attempt, observation)
    warning = "Part of the program ran out of memory: look at the results with care." if ran_out else None
    detail = "The node wrote: the program succeeded."
    return Ended(JobState.SUCCEEDED, "status_file", detail, warning=warning)


def _failed(attempt: AttemptFacts, observation: Observation, status: StatusFile, grace_is_over: bool) -> Verdict:
    """A failure waits for the scheduler's final word: a time limit kills program and wrapper with one signal."""
    if not _has_spoken(observation, grace_is_over):
        return _awaiting_final_word(attempt, observation)
    wrote = f"The node wrote: {status.failure or 'the program failed.'}"
    if observation.state is SchedulerState.CANCELLED:
        return _cancelled(attempt, observation, f"{wrote} {_sentence(observation)}")
    if attempt.cancel_asked_by is not None and status.got_sigterm:
        return _cancelled(attempt, observation, f"{wrote} It had been told to end.")
    if observation.ended_by_portal and status.got_sigterm:
        reason = _NAMED_FAILURES.get(observation.state, FailureReason.PREEMPTED)
        detail = f"{wrote} {_sentence(observation)}"
        return Ended(JobState.FAILED, "scheduler", detail, reason, ended_by_portal=True)
    if observation.state in _NAMED_FAILURES:
        reason = _NAMED_FAILURES[observation.state]
        return Ended(JobState.FAILED, "scheduler", f"{wrote} {_sentence(observation)}", reason)
    return Ended(JobState.FAILED, "status_file", wrote, FailureReason.PROGRAM_ERROR)


def _has_spoken(observation: Observation, grace_is_over: bool) -> bool:
    """Whether the scheduler's final word is there, or has been waited for long enough. Silence is not waiting."""
    if observation.state is SchedulerState.UNKNOWN:
        return False
    return observation.state.is_final or grace_is_over


def _awaiting_final_word(attempt: AttemptFacts, observation: Observation) -> Unchanged:
    """The grace period begins with the first answer: a scheduler that is out of reach starts no clock."""
    is_silent = observation.state is SchedulerState.UNKNOWN
    return Unchanged(end_seen=not is_silent or attempt.end_seen_at is not None)


def _waiting(attempt: AttemptFacts, observation: Observation, grace_is_over: bool) -> Verdict:
    """One that can never start is refused, late: after the grace period, since clusters change."""
    # What was claimed has started, and what is to be cancelled ends by that.
    if not observation.never_runs or not _is_unclaimed(attempt) or attempt.cancel_asked_by is not None:
        return Alive(JobState.QUEUED)
    if not grace_is_over:
        return Alive(JobState.QUEUED, never_runs=True)
    return _can_never_run(observation, still_waits=True)


def _can_never_run(observation: Observation, *, still_waits: bool = False) -> Ended:
    detail = f"{_sentence(observation)} It can never run."
    return Ended(
        JobState.FAILED,
        "scheduler",
        detail,
        FailureReason.REJECTED,
        needs_claim=True,
        never_started=True,
        still_waits=still_waits,
    )


def _is_unclaimed(attempt: AttemptFacts) -> bool:
    """Whether no wrapper has begun; a dispatcher's claim is the portal's own."""
    return attempt.claim is None or attempt.claim.by == "dispatcher"


def _ended_without_word(attempt: AttemptFacts, observation: Observation) -> Ended:
    """The scheduler calls it ended, and no status file came within the grace period."""
    unclaimed = _is_unclaimed(attempt)
    if observation.never_runs and unclaimed and attempt.cancel_asked_by is None:
        return _can_never_run(observation)
    detail = _sentence(observation)
    if observation.state is SchedulerState.CANCELLED:
        return _cancelled(attempt, observation, detail, needs_claim=unclaimed)
    was_killed = observation.state is SchedulerState.FAILED and observation.signal == signal.SIGKILL
    if was_killed and attempt.cancel_asked_by is not None:
        # Grid Engine's accounting does not say who killed a job.
        return _cancelled(attempt, observation, detail, needs_claim=unclaimed)
    if observation.state in _NAMED_FAILURES:
        reason = _NAMED_FAILURES[observation.state]
    elif unclaimed:
        reason = FailureReason.LAUNCH_FAILED
        detail += " The program was never started."
    else:
        reason = FailureReason.LOST
        detail += " The node left no word of how the program ended."
    return Ended(
        JobState.FAILED,
        "scheduler",
        detail,
        reason,
        needs_claim=unclaimed,
        never_started=unclaimed,
        ended_by_portal=observation.ended_by_portal,
    )


def _absent(attempt: AttemptFacts, grace_is_over: bool) -> Verdict:
    """Queue and accounting were asked, both answered, and neither knows it."""
    unclaimed = _is_unclaimed(attempt)
    if not grace_is_over or not (unclaimed or attempt.heart_has_stopped):
        return Unchanged(end_seen=True)
    detail = "The scheduler does not know it any more, neither in its queue nor in its accounting."
    if attempt.cancel_asked_by is not None:
        return Ended(JobState.CANCELLED, "scheduler", detail, needs_claim=unclaimed, by=attempt.cancel_asked_by)
    if not attempt.has_accounting:
        return Unchanged(end_seen=True)  # absence proves nothing then: an administrator decides
    if unclaimed:
        detail += " The program was never started."
    return Ended(
        JobState.FAILED, "scheduler", detail, FailureReason.LOST, needs_claim=unclaimed, never_started=unclaimed
    )


def _cancelled(attempt: AttemptFacts, observation: Observation, detail: str, *, needs_claim: bool = False) -> Ended:
    by = attempt.cancel_asked_by or observation.cancelled_by or "operator"
    return Ended(JobState.CANCELLED, "scheduler", detail, needs_claim=needs_claim, by=by)


def _sentence(observation: Observation) -> str:
    words = _scheduler_words(observation)
    return f"{words[0].upper()}{words[1:]}."


def _scheduler_words(observation: Observation) -> str:
    """The scheduler's own words for what it saw, raw, with exit code, signal, node and reason."""
    parts = [f"the scheduler says {observation.raw_state or observation.state.name}"]
    if observation.exit_code is not None:
        parts.append(f"exit code {observation.exit_code}")
    if observation.signal:
        parts.append(f"signal {observation.signal}")
    if observation.node:
        parts.append(f"on {observation.node}")
    if observation.reason:
        parts.append(observation.reason)
    return ", ".join(parts)
