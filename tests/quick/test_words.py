"""Each end and each wait in one plain sentence, and the scheduler's raw words beneath."""

from datetime import UTC, datetime
from typing import Any

import pytest

from portal.jobs import words
from portal.jobs.models import Attempt, Job, JobEvent
from portal.jobs.states import FailureReason, JobState
from portal.jobs.store import JobRecord

NOW = datetime(2026, 11, 24, 6, 0, tzinfo=UTC)
R = FailureReason
PERHAPS = "perhaps it needed more than the 256 MiB of memory that it was given, but nobody recorded why"


def record(
    state: JobState, failure: R | None = None, by: str = "portal", cancel_asked_by: str | None = None, **values: Any
) -> JobRecord:
    job = Job(
        job_id="tcfnctbq",
        application="slow_div",
        owner="ann@example.org",
        state=state,
        failure_reason=failure,
        attempt_number=1,
        resources={"time_limit_minutes": 5, "memory_mib": 256, "cpus": 1},
        cancel_asked_by=cancel_asked_by,
    )
    attempt = Attempt(job_id="tcfnctbq", number=1, state=state, failure_reason=failure, **values)
    event = JobEvent(at=NOW, to_state=state, source="scheduler", detail="The scheduler says so.", by=by)
    return JobRecord(job=job, inputs=(), attempts=(attempt,), events=(event,), result=None)


@pytest.mark.parametrize(
    ("reason", "values", "sentence"),
    [
        (R.TIME_LIMIT, {"raw_state": "TIMEOUT"}, "the program was stopped at its time limit of 5 minutes"),
        (R.TIME_LIMIT, {"raw_state": "DEADLINE"}, "the cluster ended it at its deadline"),
        (R.OUT_OF_MEMORY, {}, "the program needed more than the 256 MiB of memory that it was given"),
        (R.PROGRAM_ERROR, {"signal": 9}, f"the program was killed (signal 9); {PERHAPS}"),
        (R.PROGRAM_ERROR, {"exit_code": 137}, f"the program ended with exit code 137, as after signal 9; {PERHAPS}"),
        (R.PROGRAM_ERROR, {"signal": 11}, "the program was ended by signal 11"),
        (R.PROGRAM_ERROR, {"exit_code": 1}, "the program ended with exit code 1"),
        (R.PROGRAM_ERROR, {"reason": "It says {x}."}, "It says {x}"),
        (R.NODE_FAILURE, {"raw_state": "NODE_FAIL"}, "the computer that it was given went away"),
        (R.NODE_FAILURE, {"raw_state": "BOOT_FAIL"}, "the computer that it was given did not start up"),
        (R.PREEMPTED, {"raw_state": "PREEMPTED"}, "it had to make room for other work"),
        (R.LAUNCH_FAILED, {"raw_state": "FAILED"}, "it ended before the program could be started"),
        (R.REJECTED, {"reason": "invalid partition specified: nope"}, "the scheduler does not take it"),
        (
            R.REJECTED,
            {"raw_state": "PENDING", "reason": "no node of the cluster can ever run it (BadConstraints)"},
            "it can never run on this cluster: no node of the cluster can ever run it (BadConstraints)",
        ),
        (
            R.LOST,
            {"raw_state": "FAILED", "signal": 9},
            f"the program was killed (signal 9) and left no word; {PERHAPS}",
        ),
        (R.LOST, {"raw_state": "COMPLETED", "exit_code": 0}, "nobody knows how the program ended: it left no word"),
        (
            R.LOST,
            {"raw_state": ""},
            "nobody knows how it ended: the scheduler has lost it, and the program left no word",
        ),
    ],
)
def test_every_failure_is_one_sentence(reason: R, values: dict[str, Any], sentence: str) -> None:
    summary = words.summary(record(JobState.FAILED, reason, **values))
    held = ", and an administrator decides whether it runs again"
    assert summary.replace(held, "") == f"Failed: {sentence}."


def test_of_too_little_memory_nobody_says_that_it_has_nothing_to_do_with_the_inputs() -> None:
    ran_out = record(JobState.FAILED, R.OUT_OF_MEMORY, raw_state="OUT_OF_MEMORY", signal=9)
    assert words.advice(ran_out) == "Larger inputs need more memory."


def test_of_a_kill_nobody_says_that_the_inputs_are_right() -> None:
    assert words.advice(record(JobState.FAILED, R.LOST, raw_state="FAILED", signal=9)) == ""
    assert words.advice(record(JobState.FAILED, R.LOST, raw_state="FAILED")) == "Nothing is wrong with your inputs."


def test_who_cancelled_it() -> None:
    by_ann = record(JobState.CANCELLED, by="ann@example.org", cancel_asked_by="ann@example.org", raw_state="CANCELLED")
    assert words.summary(by_ann) == "Cancelled by you."
    assert words.scheduler_facts(by_ann) == "CANCELLED"
    by_root = record(JobState.CANCELLED, by="uid 0", raw_state="CANCELLED", scheduler_id="17")
    assert words.summary(by_root) == "Cancelled by an operator of the cluster."
    assert words.scheduler_facts(by_root) == "CANCELLED, job 17, cancelled by uid 0"


def test_why_it_waits_and_until_when() -> None:
    waits = record(JobState.QUEUED, reason="other jobs have priority (Priority)")
    assert words.summary(waits) == "Waiting: other jobs have priority (Priority)."
    waits.attempt.expected_start_at = NOW
    expected = "; expected to start at 2026-11-24 06:00 UTC."
    assert words.summary(waits) == f"Waiting: other jobs have priority (Priority){expected}"
    assert words.standing(waits) == "Waiting: other jobs have priority (Priority)."
    running = record(JobState.RUNNING, expected_start_at=NOW)
    assert words.summary(running) == "Running."


def test_what_the_scheduler_recorded() -> None:
    values = {"raw_state": "NODE_FAIL", "node": "node1", "scheduler_id": "17"}
    assert words.scheduler_facts(record(JobState.FAILED, R.NODE_FAILURE, **values)) == "NODE_FAIL, node1, job 17"
    failed = record(JobState.FAILED, R.LOST, **{**values, "raw_state": "FAILED"}, signal=9)
    failed.attempt.reason = "it did nothing for too long (InactiveLimit)\x1b"
    recorded = "FAILED, signal 9, node1, job 17, it did nothing for too long (InactiveLimit)\\x1b"
    assert words.scheduler_facts(failed) == recorded
    failed.attempt.reason = failed.events[-1].detail  # which stands in the evidence already
    assert words.scheduler_facts(failed) == "FAILED, signal 9, node1, job 17"
    program = record(JobState.FAILED, R.PROGRAM_ERROR, raw_state="FAILED", exit_code=3)
    program.attempt.reason = "The program ended with exit code 3."
    assert words.scheduler_facts(program) == "FAILED, exit code 3"


def test_what_the_node_wrote_is_not_said_to_be_the_schedulers() -> None:
    values: dict[str, Any] = {"raw_state": "PREEMPTED", "node": "node2", "scheduler_id": "17", "signal": 15}
    preempted = record(JobState.FAILED, R.PREEMPTED, **values)
    preempted.attempt.reason = "The program was ended by signal 15."
    preempted.events[-1].detail = "The node wrote: The program was ended by signal 15. The scheduler says PREEMPTED."
    assert words.scheduler_facts(preempted) == "PREEMPTED, signal 15, node2, job 17"


def test_a_refusal_is_told_in_the_schedulers_words_and_nothing_else_without_any() -> None:
    refused = record(JobState.FAILED, R.REJECTED)
    refused.attempt.reason = "invalid partition specified: nope"
    assert words.scheduler_facts(refused) == "invalid partition specified: nope"
    for state in (JobState.ACCEPTED, JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED):
        assert words.scheduler_facts(record(state, raw_state="RUNNING", node="node1")) == ""
    assert words.scheduler_facts(record(JobState.CANCELLED, by="portal")) == ""


@pytest.mark.parametrize(
    ("kind", "title"),
    [("slurm", "Slurm"), ("slurm-ssh", "Slurm"), ("local", "The scheduler"), ("drmaa", "The scheduler")],
)
def test_what_the_scheduler_is_called(kind: str, title: str) -> None:
    assert words.scheduler_title(kind) == title
