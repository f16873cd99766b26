"""The states of a job and of its attempts, and which may follow which.

These are the portal's own words. What a scheduler says is another type (`portal.schedulers.base.SchedulerState`),
and only `portal.dispatch.decide` turns the one into the other.
"""

from enum import StrEnum


class JobState(StrEnum):
    """Where a job, or one attempt of it, stands."""

    ACCEPTED = "accepted"
    """Written to disk and to the database; no scheduler has been called. It cannot be lost any more."""
    SUBMITTING = "submitting"
    """The intent is committed under a unique name; the scheduler may or may not have it already."""
    QUEUED = "queued"
    """The scheduler has confirmed it, and the program has not started as far as is known."""
    RUNNING = "running"
    """The scheduler or the wrapper said that it started."""
    SUCCEEDED = "succeeded"
    """The wrapper's status file says that the application's rule for success was met."""
    FAILED = "failed"
    """It ended, or never started, for the reason in `FailureReason`."""
    CANCELLED = "cancelled"
    """Its owner, an administrator or an operator of the cluster ended it."""

    @property
    def is_final(self) -> bool:
        """True where nothing but a new attempt or a late status file changes it."""
        return self in FINAL_STATES


FINAL_STATES = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
IN_SCHEDULER_STATES = frozenset({JobState.SUBMITTING, JobState.QUEUED, JobState.RUNNING})


class FailureReason(StrEnum):
    """Why a job or an attempt is `FAILED`."""

    PROGRAM_ERROR = "program_error"
    """The program ran to its end and did not meet the application's rule for success."""
    TIME_LIMIT = "time_limit"
    """It was ended at its time limit."""
    OUT_OF_MEMORY = "out_of_memory"
    """It needed more memory than it was given."""
    NODE_FAILURE = "node_failure"
    """The node, or the compute client, went away beneath it."""
    PREEMPTED = "preempted"
    """It had to make room for other work."""
    LAUNCH_FAILED = "launch_failed"
    """It ended before the wrapper began."""
    REJECTED = "rejected"
    """The scheduler refuses it, or it can never run."""
    LOST = "lost"
    """The scheduler knows it no more and the node left no word of how it ended."""


RESUBMITTABLE_REASONS = frozenset(
    {FailureReason.NODE_FAILURE, FailureReason.PREEMPTED, FailureReason.LAUNCH_FAILED, FailureReason.LOST}
)
"""Failures that say nothing about the program: an application's policy may answer them with a new attempt."""

CORRECTABLE_REASONS = frozenset({FailureReason.LOST, FailureReason.NODE_FAILURE})
"""Failures that a late status file of the same attempt corrects (a node that was thought dead came back)."""

_ACTIVE = frozenset({JobState.ACCEPTED, *IN_SCHEDULER_STATES})

TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    # ACCEPTED -> FAILED: refused before any scheduler was called, such as an application that has gone.
    JobState.ACCEPTED: frozenset({JobState.SUBMITTING, JobState.CANCELLED, JobState.FAILED}),
    # SUBMITTING -> ACCEPTED: the name was looked up and is certainly not in the scheduler.
    JobState.SUBMITTING: frozenset({JobState.ACCEPTED, JobState.QUEUED, JobState.RUNNING, *FINAL_STATES}),
    # -> ACCEPTED: a new attempt was opened in the transaction that ended the old one.
    JobState.QUEUED: frozenset({JobState.ACCEPTED, JobState.RUNNING, *FINAL_STATES}),
    # RUNNING -> QUEUED: the scheduler put it back without starting it again.
    JobState.RUNNING: frozenset({JobState.ACCEPTED, JobState.QUEUED, *FINAL_STATES}),
    # A final job becomes active again by a new attempt; LOST and NODE_FAILURE are corrected by a late status file.
    JobState.SUCCEEDED: frozenset({JobState.ACCEPTED}),
    JobState.FAILED: frozenset({JobState.ACCEPTED, JobState.SUCCEEDED, JobState.FAILED}),
    JobState.CANCELLED: frozenset({JobState.ACCEPTED}),
}


def may_follow(before: JobState, after: JobState) -> bool:
    """True where `after` is a lawful next state of a job in `before`."""
    return after in TRANSITIONS[before]


WORDS: dict[JobState, str] = {
    JobState.ACCEPTED: "Accepted",
    JobState.SUBMITTING: "Accepted",
    JobState.QUEUED: "Waiting",
    JobState.RUNNING: "Running",
    JobState.SUCCEEDED: "Done",
    JobState.FAILED: "Failed",
    JobState.CANCELLED: "Cancelled",
}
"""What people read, the same on every page and in every mail."""

FAILURE_WORDS: dict[FailureReason, str] = {
    FailureReason.PROGRAM_ERROR: "Program error",
    FailureReason.TIME_LIMIT: "Time limit",
    FailureReason.OUT_OF_MEMORY: "Out of memory",
    FailureReason.NODE_FAILURE: "Node failure",
    FailureReason.PREEMPTED: "Preempted",
    FailureReason.LAUNCH_FAILED: "Launch failed",
    FailureReason.REJECTED: "Refused by the scheduler",
    FailureReason.LOST: "Lost",
}
