"""What becomes of an attempt: the rules of the design one by one, and what must hold whatever is seen."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from portal.dispatch.decide import Alive, AttemptFacts, Ended, Unchanged, Verdict, decide, opens_new_attempt
from portal.jobs.states import FailureReason, JobState
from portal.node.claim import Claim
from portal.schedulers.base import Observation, SchedulerState
from tests.status_files import STARTED

NOW = datetime(2026, 11, 24, 6, 0, tzinfo=UTC)
GRACE_SECONDS = 60.0

SUCCEEDED = STARTED._replace(
    phase="ended", ended_at="2026-11-24T05:55:00Z", exit_code=0, wall_seconds=300.0, peak_memory_mib=1.0, succeeded=True
)
FAILED = SUCCEEDED._replace(exit_code=1, succeeded=False, failure="The program ended with exit code 1.")
TERMINATED = FAILED._replace(exit_code=None, signal=15, got_sigterm=True, failure="The program was ended by signal 15.")

CLAIMS = {
    "unclaimed": None,
    "wrapper's claim": Claim("wrapper", "17", "portal-abcdef-tcfnctbq-1", "node1", 4711, "2026-11-24T05:50:00Z"),
    "dispatcher's claim": Claim("dispatcher", "17", "portal-abcdef-tcfnctbq-1", "head", 12, "2026-11-24T05:50:00Z"),
}
STATUSES = {"no status": None, "started": STARTED, "succeeded": SUCCEEDED, "failed": FAILED, "terminated": TERMINATED}

NOTHING_KNOWN = AttemptFacts(
    claim=None,
    cancel_asked_by=None,
    end_seen_at=None,
    heart_has_stopped=False,
    grace_seconds=GRACE_SECONDS,
    has_accounting=True,
    enforces_memory=True,
    fails_on_out_of_memory=False,
)
LONG_AGO = NOW - timedelta(seconds=GRACE_SECONDS)
JUST_NOW = NOW - timedelta(seconds=GRACE_SECONDS - 1)

WAIT = "wait"
"""The end was seen; the grace period runs."""
SAME = "same"
"""Nothing was seen."""


@dataclass(frozen=True)
class Case:
    """One line of the tables: what is seen, and what is concluded before and after the grace period."""

    name: str
    state: SchedulerState
    claim: str = "wrapper's claim"
    status: str = "no status"
    cancel_asked: bool = False
    stopped: bool = False
    accounting: bool = True
    memory: bool = True
    signal: int | None = None
    strict_memory: bool = False
    by_portal: bool = False
    before: str = WAIT
    after: str = WAIT

    def __str__(self) -> str:
        return self.name

    def verdict(self, end_seen_at: datetime | None) -> Verdict:
        facts = replace(
            NOTHING_KNOWN,
            claim=CLAIMS[self.claim],
            cancel_asked_by="ann@example.org" if self.cancel_asked else None,
            end_seen_at=end_seen_at,
            heart_has_stopped=self.stopped,
            has_accounting=self.accounting,
            enforces_memory=self.memory,
            fails_on_out_of_memory=self.strict_memory,
        )
        observation = Observation(self.state, self.state.name, signal=self.signal, ended_by_portal=self.by_portal)
        return decide(facts, observation, STATUSES[self.status], NOW)


def words(verdict: Verdict) -> str:
    """A verdict in the few words of the tables below."""
    match verdict:
        case Unchanged(end_seen=end_seen):
            return WAIT if end_seen else SAME
        case Alive(state):
            return str(state.value)
        case Ended():
            reason = verdict.failure_reason.value if verdict.failure_reason else verdict.by
            parts = [verdict.state.value, reason, verdict.source]
            parts += ["claims"] if verdict.needs_claim else []
            parts += ["unstarted"] if verdict.never_started else []
            parts += ["by portal"] if verdict.ended_by_portal else []
            parts += ["warns"] if verdict.warning else []
            return ", ".join(parts)


S = SchedulerState
DONE = "succeeded, portal, status_file"
PROGRAM = "failed, program_error, status_file"
BY_ANN = "cancelled, ann@example.org, scheduler"
BY_OPERATOR = "cancelled, operator, scheduler"

RULE_1 = [
    Case("a success decides", S.COMPLETED, status="succeeded", before=DONE, after=DONE),
    Case("and while the job is seen to run", S.RUNNING, status="succeeded", memory=False, before=DONE, after=DONE),
    *(
        Case(f"a {state} job may yet have run out of memory", state, status="succeeded", before=WAIT, after=DONE)
        for state in (S.RUNNING, S.COMPLETING, S.SUSPENDED)
    ),
    Case("silence is not waited for", S.UNKNOWN, status="succeeded", before=DONE, after=DONE),
    Case("and where it is not found", S.NOT_FOUND, status="succeeded", before=DONE, after=DONE),
    Case(
        "and where it was to be cancelled", S.CANCELLED, status="succeeded", cancel_asked=True, before=DONE, after=DONE
    ),
    Case("memory is a warning", S.OUT_OF_MEMORY, status="succeeded", before=DONE + ", warns", after=DONE + ", warns"),
    Case("strict memory waits", S.RUNNING, status="succeeded", strict_memory=True, before=WAIT, after=DONE),
    Case("strict memory hears", S.COMPLETED, status="succeeded", strict_memory=True, before=DONE, after=DONE),
    Case(
        "strict memory fails",
        S.OUT_OF_MEMORY,
        status="succeeded",
        strict_memory=True,
        before="failed, out_of_memory, scheduler",
        after="failed, out_of_memory, scheduler",
    ),
    Case("a failure waits for the last word", S.COMPLETING, status="failed", before=WAIT, after=PROGRAM),
    Case("or for its absence", S.NOT_FOUND, status="failed", before=WAIT, after=PROGRAM),
    Case("a bare failure is the program's", S.FAILED, status="failed", before=PROGRAM, after=PROGRAM),
    Case("the scheduler calls it completed", S.COMPLETED, status="failed", before=PROGRAM, after=PROGRAM),
    *(
        Case(
            f"the scheduler names {state.value}",
            state,
            status="terminated",
            before=f"failed, {state.value}, scheduler",
            after=f"failed, {state.value}, scheduler",
        )
        for state in (S.TIME_LIMIT, S.OUT_OF_MEMORY, S.NODE_FAILURE, S.PREEMPTED)
    ),
    Case("cancelled by an operator", S.CANCELLED, status="terminated", before=BY_OPERATOR, after=BY_OPERATOR),
    Case("cancelled by Ann", S.CANCELLED, status="terminated", cancel_asked=True, before=BY_ANN, after=BY_ANN),
    Case("told to end as asked", S.FAILED, status="terminated", cancel_asked=True, before=BY_ANN, after=BY_ANN),
    Case("failed before it was told", S.FAILED, status="failed", cancel_asked=True, before=PROGRAM, after=PROGRAM),
    Case(
        "the portal was stopped",
        S.PREEMPTED,
        status="terminated",
        by_portal=True,
        before="failed, preempted, scheduler, by portal",
        after="failed, preempted, scheduler, by portal",
    ),
    Case(
        "failed, then the portal was stopped", S.FAILED, status="failed", by_portal=True, before=PROGRAM, after=PROGRAM
    ),
]
RULE_2 = [
    Case("an operator cancelled it", S.CANCELLED, after=BY_OPERATOR),
    Case("while it waited", S.CANCELLED, claim="unclaimed", after=BY_OPERATOR + ", claims"),
    Case("Ann cancelled it", S.CANCELLED, cancel_asked=True, after=BY_ANN),
    Case("absent, as Ann wished", S.NOT_FOUND, cancel_asked=True, stopped=True, after=BY_ANN),
    Case("absent before it began", S.NOT_FOUND, claim="unclaimed", cancel_asked=True, after=BY_ANN + ", claims"),
    Case("absent without accounting", S.NOT_FOUND, cancel_asked=True, stopped=True, accounting=False, after=BY_ANN),
    Case("absent, and its heart beats", S.NOT_FOUND, cancel_asked=True, after=WAIT),
]
RULE_3 = [
    Case("completed without a word", S.COMPLETED, after="failed, lost, scheduler"),
    Case("failed without a word", S.FAILED, status="started", after="failed, lost, scheduler"),
    Case("killed by nobody knows whom", S.FAILED, signal=9, after="failed, lost, scheduler"),
    Case("killed, and its end was asked for", S.FAILED, signal=9, cancel_asked=True, after=BY_ANN),
    *(
        Case(f"the scheduler says {state.value}", state, after=f"failed, {state.value}, scheduler")
        for state in (S.TIME_LIMIT, S.OUT_OF_MEMORY, S.NODE_FAILURE, S.PREEMPTED)
    ),
    *(
        Case(
            f"{state.value} before it began ({claim})",
            state,
            claim=claim,
            after=f"failed, {reason}, scheduler, claims, unstarted",
        )
        for claim in ("unclaimed", "dispatcher's claim")
        for state, reason in ((S.COMPLETED, "launch_failed"), (S.FAILED, "launch_failed"), (S.NODE_FAILURE,) * 2)
    ),
    Case(
        "the portal was stopped, no word", S.PREEMPTED, by_portal=True, after="failed, preempted, scheduler, by portal"
    ),
]
RULE_4 = [
    Case("absent, and its heart beats", S.NOT_FOUND, after=WAIT),
    Case("absent, and its heart has stopped", S.NOT_FOUND, stopped=True, after="failed, lost, scheduler"),
    Case(
        "absent and never claimed",
        S.NOT_FOUND,
        claim="unclaimed",
        after="failed, lost, scheduler, claims, unstarted",
    ),
    Case(
        "absent and claimed by a dispatcher",
        S.NOT_FOUND,
        claim="dispatcher's claim",
        after="failed, lost, scheduler, claims, unstarted",
    ),
    Case("without accounting, an administrator decides", S.NOT_FOUND, stopped=True, accounting=False, after=WAIT),
]


@pytest.mark.parametrize("case", [*RULE_1, *RULE_2, *RULE_3, *RULE_4], ids=str)
def test_the_rules_one_by_one(case: Case) -> None:
    assert words(case.verdict(None)) == case.before
    assert words(case.verdict(JUST_NOW)) == case.before
    assert words(case.verdict(LONG_AGO)) == case.after


ALIVE_AS = {
    S.PENDING: JobState.QUEUED,
    S.HELD: JobState.QUEUED,
    S.RUNNING: JobState.RUNNING,
    S.SUSPENDED: JobState.RUNNING,
    S.COMPLETING: JobState.RUNNING,
}


@pytest.mark.parametrize("state", ALIVE_AS, ids=lambda state: state.value)
@pytest.mark.parametrize("status", ["no status", "started"])
def test_what_is_alive_is_waiting_or_running_for_ever(state: SchedulerState, status: str) -> None:
    for end_seen_at in (None, LONG_AGO):
        assert Case("", state, status=status).verdict(end_seen_at) == Alive(ALIVE_AS[state])


@pytest.mark.parametrize("state", [S.PENDING, S.HELD])
def test_what_can_never_run_is_refused_after_the_grace_period(state: SchedulerState) -> None:
    never = Observation(state, "PENDING", reason="no node can ever run it (BadConstraints)", never_runs=True)
    for claim in ("unclaimed", "dispatcher's claim"):
        facts = replace(NOTHING_KNOWN, claim=CLAIMS[claim])
        for end_seen_at in (None, JUST_NOW):
            waiting = decide(replace(facts, end_seen_at=end_seen_at), never, None, NOW)
            assert waiting == Alive(JobState.QUEUED, never_runs=True)
        verdict = decide(replace(facts, end_seen_at=LONG_AGO), never, None, NOW)
        assert isinstance(verdict, Ended)
        assert words(verdict) == "failed, rejected, scheduler, claims, unstarted"
        assert verdict.still_waits
        assert verdict.detail == (
            "The scheduler says PENDING, no node can ever run it (BadConstraints). It can never run."
        )


def test_what_was_claimed_or_is_to_be_cancelled_is_not_refused() -> None:
    never = Observation(S.PENDING, "PENDING", never_runs=True)
    facts = replace(NOTHING_KNOWN, end_seen_at=LONG_AGO)
    for known in (
        replace(facts, claim=CLAIMS["wrapper's claim"]),
        replace(facts, cancel_asked_by="ann@example.org"),
    ):
        assert decide(known, never, None, NOW) == Alive(JobState.QUEUED)


@pytest.mark.parametrize("state", [S.CANCELLED, S.FAILED])
def test_what_the_scheduler_itself_ended_because_it_can_never_run_was_refused(state: SchedulerState) -> None:
    never = Observation(state, state.name, reason="it waited in vain (DependencyNeverSatisfied)", never_runs=True)
    facts = replace(NOTHING_KNOWN, end_seen_at=LONG_AGO)
    verdict = decide(facts, never, None, NOW)
    assert isinstance(verdict, Ended)
    assert words(verdict) == "failed, rejected, scheduler, claims, unstarted"
    assert not verdict.still_waits
    assert decide(replace(facts, end_seen_at=JUST_NOW), never, None, NOW) == Unchanged(end_seen=True)
    if state is S.CANCELLED:
        assert words(decide(replace(facts, cancel_asked_by="ann@example.org"), never, None, NOW)) == BY_ANN + ", claims"


def everything() -> Iterator[tuple[Case, datetime | None, Verdict]]:
    """Every state of the scheduler with every claim, status file, wish, heart, and moment."""
    flags = (False, True)
    for state, claim, status, cancel_asked, stopped, accounting, strict in itertools.product(
        S, CLAIMS, STATUSES, flags, flags, flags, flags
    ):
        case = Case("", state, claim, status, cancel_asked, stopped, accounting, strict)
        for end_seen_at in (None, JUST_NOW, LONG_AGO):
            yield case, end_seen_at, case.verdict(end_seen_at)


EVERYTHING = list(everything())


def test_success_comes_from_a_status_file_only() -> None:
    successes = [case for case, _, verdict in EVERYTHING if isinstance(verdict, Ended) and verdict.state == "succeeded"]
    assert successes
    assert {case.status for case in successes} == {"succeeded"}


def test_an_outage_changes_nothing() -> None:
    """Not even the clock of the grace period begins. What the node itself wrote of a success needs no scheduler."""
    for case, end_seen_at, verdict in EVERYTHING:
        if case.state is S.UNKNOWN and not (case.status == "succeeded" and not case.strict_memory):
            assert verdict == Unchanged(end_seen=end_seen_at is not None), case


def test_nothing_that_is_alive_ends_without_a_status_file() -> None:
    for case, _, verdict in EVERYTHING:
        if case.state.is_alive and isinstance(verdict, Ended):
            assert case.status in ("succeeded", "failed", "terminated"), case


def test_nothing_ends_within_the_grace_period_without_a_status_file() -> None:
    for case, end_seen_at, verdict in EVERYTHING:
        if isinstance(verdict, Ended) and end_seen_at is not LONG_AGO:
            assert case.status in ("succeeded", "failed", "terminated"), case


def test_what_nobody_has_claimed_is_claimed_before_it_ends() -> None:
    for case, _, verdict in EVERYTHING:
        if isinstance(verdict, Ended) and case.status in ("no status", "started"):
            assert verdict.needs_claim == (case.claim != "wrapper's claim"), case


def test_what_was_cancelled_was_asked_for_or_says_the_scheduler() -> None:
    for case, _, verdict in EVERYTHING:
        if isinstance(verdict, Ended) and verdict.state is JobState.CANCELLED:
            assert case.cancel_asked or case.state is S.CANCELLED, case


def test_the_evidence_is_told_in_the_schedulers_own_words() -> None:
    facts = replace(NOTHING_KNOWN, claim=CLAIMS["wrapper's claim"], end_seen_at=LONG_AGO)
    observation = Observation(S.NODE_FAILURE, "NODE_FAIL", exit_code=1, signal=9, node="node7", reason="no heart beat")
    verdict = decide(facts, observation, None, NOW)
    assert isinstance(verdict, Ended)
    assert verdict.detail == "The scheduler says NODE_FAIL, exit code 1, signal 9, on node7, no heart beat."


REASONS = {
    FailureReason.PROGRAM_ERROR: False,
    FailureReason.TIME_LIMIT: False,
    FailureReason.OUT_OF_MEMORY: False,
    FailureReason.REJECTED: False,
    FailureReason.NODE_FAILURE: True,
    FailureReason.PREEMPTED: True,
    FailureReason.LAUNCH_FAILED: True,
    FailureReason.LOST: True,
}


def opens(ended: Ended, *, resubmits: bool = True, counted: int = 1, cancel_was_asked: bool = False) -> bool:
    return opens_new_attempt(
        ended, resubmits=resubmits, counted_attempts=counted, max_attempts=3, cancel_was_asked=cancel_was_asked
    )


@pytest.mark.parametrize("reason", FailureReason, ids=lambda reason: reason.value)
def test_which_failures_the_policy_answers_with_another_attempt(reason: FailureReason) -> None:
    ended = Ended(JobState.FAILED, "scheduler", "", reason)
    assert opens(ended) is REASONS[reason]
    assert opens(ended, counted=2) is REASONS[reason]
    assert not opens(ended, counted=3)
    assert not opens(ended, resubmits=False)
    assert not opens(ended, cancel_was_asked=True)


def test_what_was_lost_before_it_started_goes_in_again_whatever_the_policy() -> None:
    lost = Ended(JobState.FAILED, "scheduler", "", FailureReason.LOST, never_started=True)
    assert opens(lost, resubmits=False)
    assert not opens(lost, resubmits=False, counted=3)
    assert not opens(lost, resubmits=False, cancel_was_asked=True)
    launch_failed = replace(lost, failure_reason=FailureReason.LAUNCH_FAILED)
    assert not opens(launch_failed, resubmits=False)


def test_what_the_portals_own_stop_took_away_always_runs_again() -> None:
    stopped = Ended(JobState.FAILED, "scheduler", "", FailureReason.PREEMPTED, ended_by_portal=True)
    assert opens(stopped, resubmits=False, counted=99)
    assert not opens(stopped, cancel_was_asked=True)


@pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.CANCELLED])
def test_nothing_but_a_failure_is_tried_again(state: JobState) -> None:
    assert not opens(Ended(state, "scheduler", ""))
