"""What `make chaos` draws from its seed, and how it counts: each broken promise shows in its line of the table."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from tests.chaos.plan import NODES, TARGETS, plan_faults, plan_submissions
from tests.chaos.table import JobFacts, Line, Owed, as_text, count, is_good

DONE = JobFacts(
    "bbbbbbbb",
    "succeed",
    state="succeeded",
    starts=Counter({1: 1}),
    markers=frozenset({"SUCCESS"}),
    published=1,
    owed=[Owed("<1>")],
    received=frozenset({"<1>"}),
)
NODE_DIED = replace(
    DONE,
    state="failed",
    failure_reason="node_failure",
    attempts=3,
    starts=Counter({1: 1, 2: 1}),
    markers=frozenset({"ERROR"}),
)
FAILED = replace(DONE, what="fail", state="failed", failure_reason="program_error", markers=frozenset({"ERROR"}))
IN_A_DIGEST = replace(DONE, owed=[Owed("<2>", "<digest>"), Owed("<3>", "<digest>")], received=frozenset({"<digest>"}))
CORRECTED = replace(DONE, published=2, corrections=1)


def numbers(*jobs: JobFacts) -> dict[str, int]:
    return {line.name: line.number for line in count(jobs) if line.number}


def test_a_run_in_which_all_was_kept_is_good() -> None:
    lines = count([DONE, NODE_DIED, FAILED, IN_A_DIGEST, CORRECTED])
    assert numbers(DONE, NODE_DIED, FAILED, IN_A_DIGEST, CORRECTED) == {
        "accepted": 5,
        "succeeded": 3,
        "failed as its program was to": 1,
        "failed by an injected fault": 1,
        "  node_failure": 1,
        "went in again after a fault": 1,
    }
    assert is_good(lines)
    assert "BROKEN" not in as_text(lines)


@pytest.mark.parametrize(
    ("job", "broken"),
    [
        (replace(DONE, state="running"), ["forgotten (accepted and never final)"]),
        (JobFacts("bbbbbbbb", "succeed"), ["forgotten (accepted and never final)"]),
        (replace(FAILED, what="succeed"), ["failed for no injected reason"]),
        (replace(FAILED, failure_reason="time_limit"), ["failed for no injected reason"]),
        (replace(DONE, what="fail"), ["said to have ended as its program did not"]),
        (replace(DONE, starts=Counter()), ["said to have ended as its program did not"]),
        (replace(DONE, starts=Counter({1: 2})), ["attempts that started the program twice"]),
        (replace(DONE, published=2), ["jobs with two published results"]),
        (replace(DONE, markers=frozenset({"SUCCESS", "ERROR"})), ["jobs with two published results"]),
        (replace(DONE, markers=frozenset()), ["jobs with two published results"]),
        (replace(DONE, owed=[], received=frozenset()), ["outcomes without a mail"]),
        (replace(DONE, received=frozenset()), ["outcomes without a mail"]),
        (replace(DONE, received=frozenset({"<1>", "<digest>"})), ["outcomes with two Message-IDs"]),
        (replace(IN_A_DIGEST, received=frozenset({"<digest>", "<2>"})), ["outcomes with two Message-IDs"]),
    ],
)
def test_a_broken_promise_shows(job: JobFacts, broken: list[str]) -> None:
    lines = count([DONE, job])
    assert [line.name for line in lines if line.must_be_none and line.number] == broken
    assert not is_good(lines)
    assert "BROKEN: bbbbbbbb" in as_text(lines)


def test_a_run_without_jobs_proves_nothing() -> None:
    assert not is_good(count([]))
    assert not is_good([Line("accepted", 0)])


def test_the_same_seed_is_the_same_plan() -> None:
    assert plan_faults(7, 600) == plan_faults(7, 600) != plan_faults(8, 600)
    assert plan_submissions(7, 600, 1) == plan_submissions(7, 600, 1) != plan_submissions(8, 600, 1)


def test_ten_minutes_hit_everything_and_nothing_that_is_down_already() -> None:
    faults = plan_faults(1, 600)
    assert {fault.target for fault in faults} == {target.name for target in TARGETS}
    assert {fault.node for fault in faults} == {"", *NODES}
    for target in TARGETS:
        mine = [fault for fault in faults if fault.target == target.name]
        assert all(
            first.at_seconds + first.outage_seconds <= second.at_seconds + 0.2 for first, second in pairwise(mine)
        )
    keys = [submission.key for submission in plan_submissions(1, 600, 1)]
    assert len(keys) == len(set(keys)) > 500
