"""From queued to an end: what is written, who is told, and what neither an outage nor a hostile file can change."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import portal.dispatch.evidence as evidence_module
import portal.dispatch.polling as polling_module
import portal.dispatch.publication as publication_module
import portal.dispatch.submission as submission_module
from portal.dispatch.dispatcher import CORRECT_EVERY_SECONDS, RECONCILE_EVERY_SECONDS
from portal.dispatch.evidence import read_evidence, take_claim
from portal.dispatch.records import write_verdict
from portal.dispatch.wishes import ASK_AGAIN_SECONDS
from portal.errors import SchedulerError, StaleEpochError, StorageError
from portal.jobs import words
from portal.jobs.directory import AttemptDirectory
from portal.jobs.models import Attempt, Job
from portal.jobs.script import write_attempt
from portal.jobs.states import FailureReason, JobState
from portal.node import claim as claims
from portal.node import status_file
from portal.node.status_file import StatusFile
from portal.schedulers.base import Deferred, SchedulerState
from portal.transfer.folders import NodesUnreachableError, SharedFolders
from tests.portal_parts import GRACE_SECONDS, Portal, opened_portal
from tests.scripted_scheduler import Lost

S = SchedulerState


@pytest.fixture
def portal() -> Iterator[Portal]:
    with opened_portal() as portal:
        yield portal


def finished(portal: Portal, output: str = "The answer is: 4\n", **more: Any) -> str:
    """A job that has succeeded; its id."""
    job_id = portal.running(**more)
    portal.end_program(job_id, output=output)
    portal.see(job_id, S.COMPLETED, node="node1")
    portal.turn()
    return job_id


def fails_with(portal: Portal, state: SchedulerState, **more: Any) -> str:
    """A job that ran when the scheduler ended it without a word from the node; the grace period is over."""
    job_id = portal.running(**more)
    portal.see(job_id, state, node="node1")
    portal.turn_past_grace()
    return job_id


# Through the states


def test_a_job_goes_through_its_states_with_the_evidence_for_each(portal: Portal) -> None:
    job_id = finished(portal)
    assert portal.changes(job_id) == [
        (None, "accepted", "form", "ann@example.org"),
        ("accepted", "submitting", "portal", "portal"),
        ("submitting", "queued", "scheduler", "portal"),
        ("queued", "running", "scheduler", "portal"),
        ("running", "succeeded", "status_file", "portal"),
    ]
    record = portal.record(job_id)
    assert record.events[-1].detail == "The node wrote: the program succeeded."
    assert (record.attempt.exit_code, record.attempt.signal, record.attempt.raw_state) == (0, None, "COMPLETED")
    assert record.job.started_at == record.attempt.started_at is not None
    assert record.job.ended_at == record.attempt.ended_at is not None
    assert record.result is not None
    assert (record.result.answer, record.result.wall_seconds, record.result.peak_memory_mib) == ("4", 3.0, 12.5)


def test_an_end_is_on_disk_with_its_markers_and_links(portal: Portal) -> None:
    job_id = finished(portal)
    folder = portal.directory(job_id).path
    assert portal.markers(job_id) == ["SUCCESS"]
    assert (folder / "SUCCESS").stat().st_size == 0
    assert (folder / "output.txt").readlink() == Path("attempts/1/work/output.txt")
    assert (folder / "output.txt").read_text() == "The answer is: 4\n"
    verdict = json.loads(portal.files(job_id).verdict.read_text())
    assert verdict["epoch"] == portal.dispatch.leadership.epoch
    assert {key: verdict[key] for key in ("state", "failure_reason", "source", "answer", "by", "next_attempt")} == {
        "state": "succeeded",
        "failure_reason": None,
        "source": "status_file",
        "answer": "4",
        "by": "portal",
        "next_attempt": None,
    }


def test_the_schedulers_own_name_for_a_node_comes_before_the_nodes(portal: Portal) -> None:
    job_id = portal.running()
    assert portal.attempt(job_id).node == "node1"
    portal.end_program(job_id)
    portal.see(job_id, S.COMPLETED)
    portal.turn()
    assert portal.attempt(job_id).node == "node1"


def test_the_node_names_itself_where_the_scheduler_does_not(portal: Portal) -> None:
    job_id = portal.queued()
    portal.start_program(job_id)
    portal.see(job_id, S.RUNNING)
    portal.turn()
    assert portal.attempt(job_id).node == "host1"


def test_what_a_job_waits_for_is_shown_as_it_changes(portal: Portal) -> None:
    job_id = portal.queued()
    version = portal.job(job_id).version
    portal.see(job_id, S.PENDING, reason="Priority")
    portal.turn(times=3)
    assert portal.attempt(job_id).reason == "Priority"
    assert portal.job(job_id).version == version + 1
    portal.see(job_id, S.HELD, "PENDING", reason="JobHeldAdmin")
    portal.turn()
    assert (portal.state(job_id), portal.attempt(job_id).reason) == (JobState.QUEUED, "JobHeldAdmin")


def test_an_expected_start_is_shown_while_it_lies_ahead_and_moves_are_told(portal: Portal) -> None:
    job_id = portal.queued()
    first = portal.clock.now_utc() + timedelta(minutes=10)
    portal.see(job_id, S.PENDING, expected_start_at=first)
    portal.turn()
    assert portal.attempt(job_id).expected_start_at == first
    assert words.summary(portal.record(job_id)).endswith(f"expected to start at {first:%Y-%m-%d %H:%M} UTC.")
    version = portal.job(job_id).version
    portal.see(job_id, S.PENDING, expected_start_at=first + timedelta(seconds=59))
    portal.turn()
    assert portal.job(job_id).version == version  # schedulers plan anew all the time
    portal.see(job_id, S.PENDING, expected_start_at=first + timedelta(minutes=1))
    portal.turn()
    assert portal.attempt(job_id).expected_start_at == first + timedelta(minutes=1)
    portal.turn(700)
    assert portal.attempt(job_id).expected_start_at is None
    portal.see(job_id, S.PENDING, expected_start_at=first + timedelta(hours=1))
    portal.turn()
    assert portal.attempt(job_id).expected_start_at is not None
    portal.see(job_id, S.RUNNING, node="node1")
    portal.turn()
    assert portal.attempt(job_id).expected_start_at is None


def test_what_can_never_run_is_cancelled_in_the_scheduler_and_refused(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = portal.queued()
    [handle] = portal.scheduler.handles(portal.name(job_id))
    why = "no node of the cluster can ever run it (BadConstraints)"
    portal.see(job_id, S.PENDING, reason=why, never_runs=True)
    portal.turn()
    portal.turn(GRACE_SECONDS - 1)
    assert (portal.state(job_id), portal.attempt(job_id).reason) == (JobState.QUEUED, why)
    assert portal.scheduler.cancelled == []
    with monkeypatch.context() as unheard:
        unheard.setattr(portal.scheduler, "cancel", lambda _: raise_(SchedulerError("It does not answer.")))
        portal.turn()
        assert portal.state(job_id) is JobState.QUEUED
    portal.turn()
    assert portal.scheduler.cancelled == [handle]
    job = portal.job(job_id)
    assert (job.state, job.failure_reason) == (JobState.FAILED, FailureReason.REJECTED)
    assert words.summary(portal.record(job_id)) == f"Failed: it can never run on this cluster: {why}."
    assert portal.mails(job_id) == ["failed"]
    assert not portal.start_program(job_id)  # the claim is taken


def test_what_can_run_again_within_the_grace_period_waits_on(portal: Portal) -> None:
    job_id = portal.queued()
    portal.see(job_id, S.PENDING, never_runs=True)
    portal.turn()
    portal.see(job_id, S.PENDING)
    portal.turn(GRACE_SECONDS + 1, times=2)
    portal.see(job_id, S.PENDING, never_runs=True)
    portal.turn()
    assert portal.state(job_id) is JobState.QUEUED


def raise_(error: Exception) -> None:
    raise error


def test_a_start_that_was_known_is_not_forgotten(portal: Portal) -> None:
    job_id = portal.queued()
    started_at = portal.clock.now_utc() - timedelta(seconds=1)
    portal.see(job_id, S.RUNNING, started_at=started_at)
    portal.turn()
    portal.see(job_id, S.SUSPENDED)
    portal.turn()
    record = portal.record(job_id)
    assert (record.attempt.raw_state, record.attempt.started_at) == ("SUSPENDED", started_at)
    assert record.job.started_at == started_at


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("The answer is: 0\n", "0"),
        ("The answer is: -3\n", "-3"),
        (f"The answer is: {'9' * 1000}\n", "9" * 1000),
        (f"The answer is: {'9' * 20_000}\n", "9" * 10_000),
        ("The answer is: 1\nThe answer is: 2\n", "2"),
        ("no answer at all\n", None),
        ("", None),
    ],
    ids=["zero", "negative", "very large", "too large", "the last one", "none", "no output"],
)
def test_the_answer_is_what_the_program_printed(portal: Portal, output: str, answer: str | None) -> None:
    result = portal.record(finished(portal, output)).result
    assert result is not None
    assert result.answer == answer


def test_a_program_that_fails_is_told_with_its_own_word(portal: Portal) -> None:
    job_id = portal.running()
    portal.end_program(job_id, exit_code=3)
    portal.see(job_id, S.FAILED, exit_code=3)
    portal.turn()
    record = portal.record(job_id)
    assert (record.job.state, record.job.failure_reason) == (JobState.FAILED, FailureReason.PROGRAM_ERROR)
    assert record.attempt.exit_code == 3
    assert (portal.markers(job_id), portal.mails(job_id)) == (["ERROR"], ["failed"])


def test_mail_is_owed_once_and_goes_out_once_however_often_the_turn_is_repeated(portal: Portal) -> None:
    job_id = finished(portal)
    portal.turn(CORRECT_EVERY_SECONDS, times=3)
    portal.crash()
    portal.turn(times=3)
    assert portal.mails(job_id) == ["succeeded"]
    portal.sender.send_due()
    portal.sender.send_due()
    assert len(portal.mail.messages) == 1


@pytest.mark.parametrize("step", ["write_verdict", "publish_markers", "change_state", "owe_mail"])
def test_a_dispatcher_killed_while_it_publishes_an_end_does_so_again(
    portal: Portal, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(*_args: object, **_more: object) -> None:
        raise Killed

    job_id = portal.running()
    portal.end_program(job_id, output="The answer is: 4\n")
    portal.see(job_id, S.COMPLETED)
    with monkeypatch.context() as patch:
        patch.setattr(publication_module, step, die)
        with pytest.raises(Killed):
            portal.turn()
    assert portal.state(job_id) is JobState.RUNNING
    portal.crash()
    portal.turn()
    assert portal.state(job_id) is JobState.SUCCEEDED
    assert (portal.markers(job_id), portal.mails(job_id)) == (["SUCCESS"], ["succeeded"])
    assert [change[1] for change in portal.changes(job_id)].count("succeeded") == 1


def test_one_that_was_overtaken_in_the_middle_of_a_poll_publishes_no_end(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = portal.running()
    portal.end_program(job_id)
    portal.see(job_id, S.COMPLETED)

    def be_overtaken(directory: Any, attempt: Attempt) -> Any:
        portal.new_dispatch().leadership._raise_epoch()
        return read_evidence(directory, attempt)

    monkeypatch.setattr(evidence_module, "read_evidence", be_overtaken)
    with pytest.raises(StaleEpochError):
        portal.turn()
    assert portal.state(job_id) is JobState.RUNNING
    assert (portal.markers(job_id), portal.mails(job_id)) == ([], [])
    assert not portal.files(job_id).verdict.exists()


# Outages


def test_an_outage_changes_nothing_and_says_since_when(portal: Portal) -> None:
    ids = [portal.running(), portal.queued()]
    before = [portal.record(job_id) for job_id in ids]
    answered_at = portal.health().answered_at
    portal.scheduler.is_out = True
    for job_id in ids:
        portal.see(job_id, S.FAILED)
    portal.end_program(ids[0])
    portal.turn(GRACE_SECONDS, times=10)
    after = [portal.record(job_id) for job_id in ids]
    assert [record.job.version for record in after] == [record.job.version for record in before]
    assert [record.attempt.end_seen_at for record in after] == [None, None]
    health = portal.health()
    assert (health.answered_at, health.silent_since) == (answered_at, answered_at)
    assert health.asked_at == portal.clock.now_utc()


def test_what_happened_during_an_outage_comes_to_light_after_it(portal: Portal) -> None:
    job_id = portal.running()
    portal.scheduler.is_out = True
    portal.end_program(job_id, output="The answer is: 4\n")
    portal.see(job_id, S.COMPLETED)
    portal.turn(600, times=3)
    portal.scheduler.is_out = False
    portal.turn()
    assert portal.state(job_id) is JobState.SUCCEEDED
    assert portal.health().silent_since is None


class Carrying(SharedFolders):
    """As if files had to be carried: each look takes its time, and a round has time for two."""

    def __init__(self, portal: Portal) -> None:
        super().__init__(portal.folder, portal.node_files)
        self.looks = 0
        self.away = False
        self.is_here = True
        self.looked_at: list[str] = []

    def begin_round(self) -> None:
        self.looks = 0

    def round_is_over(self) -> bool:
        return self.looks >= 2

    def bring(self, attempt: AttemptDirectory, *, everything: bool) -> bool:
        if self.away:
            raise NodesUnreachableError("The cluster's files cannot be reached at the moment.")
        self.looks += 1
        self.looked_at.append(attempt.path.parent.parent.name.removeprefix("job-"))
        return self.is_here


def carry(portal: Portal) -> Carrying:
    """From now on files have to be carried."""
    carrying = Carrying(portal)
    object.__setattr__(portal.dispatch, "nodes", carrying)
    return carrying


def test_whoever_had_no_turn_is_first_in_the_next_round(portal: Portal) -> None:
    ids = [portal.running() for _ in range(5)]
    nodes = carry(portal)
    for job_id in ids:
        portal.end_program(job_id)
        portal.see(job_id, S.COMPLETED)
    portal.turn(times=3)
    assert sorted(nodes.looked_at) == sorted(ids)
    assert {portal.state(job_id) for job_id in ids} == {JobState.SUCCEEDED}


def test_while_results_are_on_their_way_the_page_says_so_and_nothing_is_decided(portal: Portal) -> None:
    job_id = portal.running()
    nodes = carry(portal)
    nodes.is_here = False
    portal.end_program(job_id)
    portal.see(job_id, S.COMPLETED)
    portal.turn(GRACE_SECONDS, times=3)
    record = portal.record(job_id)
    assert record.job.state is JobState.RUNNING
    assert [event.detail for event in record.events if "being brought" in event.detail] == [
        "The scheduler says COMPLETED; what it wrote is being brought here from the cluster."
    ]
    nodes.is_here = True
    portal.turn()
    assert portal.state(job_id) is JobState.SUCCEEDED


def test_while_the_nodes_files_are_out_of_reach_nothing_changes_and_the_pages_say_since_when(portal: Portal) -> None:
    job_id = portal.running()
    answered_at = portal.health().answered_at
    nodes = carry(portal)
    nodes.away = True
    portal.end_program(job_id)
    portal.see(job_id, S.COMPLETED)
    portal.turn(GRACE_SECONDS, times=3)
    assert portal.state(job_id) is JobState.RUNNING
    assert (portal.health().silent_since, portal.health().detail) == (
        answered_at,
        "The cluster's files cannot be reached at the moment.",
    )
    nodes.away = False
    portal.turn()
    assert portal.state(job_id) is JobState.SUCCEEDED
    assert portal.health().silent_since is None


def test_since_when_accounting_does_not_answer_is_known_until_it_does(portal: Portal) -> None:
    portal.running()
    portal.scheduler.accounting_is_out = True
    portal.turn()
    since = portal.clock.now_utc()
    portal.turn(60, times=3)
    assert (portal.health().accounting_silent_since, portal.health().silent_since) == (since, None)
    portal.scheduler.accounting_is_out = False
    portal.turn()
    assert portal.health().accounting_silent_since is None


@pytest.mark.parametrize("exit_code", [None, 1])
def test_an_answer_that_is_not_understood_changes_nothing(portal: Portal, exit_code: int | None) -> None:
    job_id = portal.running()
    if exit_code is not None:
        portal.end_program(job_id, exit_code=exit_code)
    portal.see(job_id, S.UNKNOWN, "FROBNICATING")
    version = portal.job(job_id).version
    portal.turn(GRACE_SECONDS, times=4)
    assert (portal.state(job_id), portal.job(job_id).version) == (JobState.RUNNING, version)
    assert portal.attempt(job_id).end_seen_at is None


def test_a_success_that_the_node_wrote_needs_no_scheduler_that_is_understood(portal: Portal) -> None:
    job_id = portal.running()
    portal.see(job_id, S.UNKNOWN, "FROBNICATING")
    portal.turn(GRACE_SECONDS)
    portal.end_program(job_id)
    portal.turn()
    assert portal.state(job_id) is JobState.SUCCEEDED


def test_a_job_that_is_not_answered_for_stays_as_it_was(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [portal.running(), portal.running()]
    missing = portal.name(ids[0])
    portal.see(ids[1], S.COMPLETED)
    portal.end_program(ids[1])
    observe = portal.scheduler.observe
    monkeypatch.setattr(
        portal.scheduler, "observe", lambda handles: observe([one for one in handles if one.name != missing])
    )
    portal.turn_past_grace()
    assert [portal.state(job_id) for job_id in ids] == [JobState.RUNNING, JobState.SUCCEEDED]


def test_a_clock_that_is_put_back_begins_the_grace_period_again(portal: Portal) -> None:
    job_id = portal.running()
    portal.see(job_id, S.NODE_FAILURE)
    portal.turn()
    portal.clock.set_wall_clock(portal.clock.now_utc() - timedelta(hours=1))
    portal.turn()
    assert portal.attempt(job_id).end_seen_at == portal.clock.now_utc()
    portal.turn_past_grace()
    assert portal.state(job_id) is not JobState.RUNNING


def test_a_job_that_is_missed_for_a_moment_has_not_ended(portal: Portal) -> None:
    job_id = portal.running()
    handle = portal.scheduler.handles(portal.name(job_id))[0]
    seen = portal.scheduler.jobs.pop(handle)
    portal.turn(GRACE_SECONDS / 2)
    assert portal.attempt(job_id).end_seen_at is not None
    portal.scheduler.jobs[handle] = seen
    portal.turn()
    assert portal.attempt(job_id).end_seen_at is None
    portal.scheduler.forget(portal.name(job_id))
    portal.turn(GRACE_SECONDS - 5)
    assert portal.state(job_id) is JobState.RUNNING


# A node that fails


def test_a_node_failure_opens_another_attempt_in_one_commit_and_owes_no_mail(portal: Portal) -> None:
    job_id = fails_with(portal, S.NODE_FAILURE)
    record = portal.record(job_id)
    first, second = record.attempts
    assert (first.state, first.failure_reason, first.node) == (JobState.FAILED, FailureReason.NODE_FAILURE, "node1")
    assert (record.job.attempt_number, second.state, second.excluded_nodes) == (2, JobState.ACCEPTED, ["node1"])
    assert (record.job.state, record.job.failure_reason, record.job.ended_at) == (JobState.ACCEPTED, None, None)
    assert "failed" not in [change[1] for change in portal.changes(job_id)]
    assert record.events[-1].detail == "The scheduler says NODE_FAILURE, on node1. It goes in again."
    assert (portal.mails(job_id), portal.markers(job_id)) == ([], [])
    portal.turn()
    assert portal.scheduler.specs[-1].exclude_nodes == ("node1",)
    assert portal.scheduler.specs[-1].name.endswith(f"{job_id}-2")


def test_after_the_last_attempt_it_fails_with_one_mail(portal: Portal) -> None:
    job_id = fails_with(portal, S.NODE_FAILURE)
    for _ in range(2):
        portal.turn()
        portal.start_program(job_id)
        portal.see(job_id, S.NODE_FAILURE, node="node1")
        portal.turn_past_grace()
    record = portal.record(job_id)
    assert [attempt.state for attempt in record.attempts] == [JobState.FAILED] * 3
    assert (record.job.state, record.job.failure_reason) == (JobState.FAILED, FailureReason.NODE_FAILURE)
    assert (portal.mails(job_id), portal.markers(job_id)) == (["failed"], ["ERROR"])
    portal.turn(GRACE_SECONDS, times=3)
    assert len(portal.record(job_id).attempts) == 3


def test_an_application_may_leave_it_to_an_administrator(portal: Portal) -> None:
    job_id = fails_with(portal, S.NODE_FAILURE, application="held")
    assert portal.job(job_id).failure_reason is FailureReason.NODE_FAILURE
    assert (len(portal.record(job_id).attempts), portal.mails(job_id)) == (1, ["failed"])


@pytest.mark.thorough
@pytest.mark.parametrize("application", ["slow_div", "held"])
@pytest.mark.parametrize("with_status", [False, True], ids=["no word", "the wrapper noted SIGTERM"])
def test_what_the_portals_own_stop_took_away_runs_again_and_does_not_count(
    portal: Portal, application: str, with_status: bool
) -> None:
    job_id = portal.running(application=application)
    for _ in range(4):
        if with_status:
            portal.end_program(job_id, exit_code=143, sigterm=True)
        portal.see(job_id, S.PREEMPTED, ended_by_portal=True)
        portal.turn_past_grace()
        portal.turn()
        portal.start_program(job_id)
    record = portal.record(job_id)
    assert [attempt.counts for attempt in record.attempts] == [False] * 4 + [True]
    assert portal.mails(job_id) == []


def test_what_the_portals_own_stop_took_away_runs_again_though_its_application_is_missing(portal: Portal) -> None:
    job_id = portal.running()
    portal.shelf.missing.add("slow_div")
    portal.see(job_id, S.PREEMPTED, ended_by_portal=True)
    portal.turn_past_grace()
    assert portal.state(job_id) is JobState.ACCEPTED
    portal.shelf.missing.clear()


def test_a_marker_that_a_predecessor_left_is_withdrawn_where_the_job_goes_on(portal: Portal) -> None:
    job_id = portal.running()
    publication_module.publish_markers(portal.directory(job_id), 1, succeeded=False)
    portal.see(job_id, S.NODE_FAILURE)
    portal.turn_past_grace()
    assert (portal.state(job_id), portal.markers(job_id)) == (JobState.ACCEPTED, [])


# What never started


def test_a_job_that_is_absent_and_never_started_is_claimed_and_goes_in_again(portal: Portal) -> None:
    job_id = portal.queued(application="held")
    portal.scheduler.forget(portal.name(job_id))
    portal.turn_past_grace()
    claim = claims.parse((portal.files(job_id, 1).work / "claim").read_bytes())
    assert (claim.by, claim.name) == ("dispatcher", portal.record(job_id).attempts[0].scheduler_name)
    record = portal.record(job_id)
    assert [attempt.failure_reason for attempt in record.attempts] == [FailureReason.LOST, None]
    assert record.attempts[0].started_at is None


def test_a_wrapper_that_starts_after_that_exits_and_runs_nothing(portal: Portal) -> None:
    job_id = portal.queued()
    portal.scheduler.forget(portal.name(job_id))
    portal.turn_past_grace()
    late = portal.files(job_id, 1)
    command = [sys.executable, "-I", str(portal.node_files.wrapper), str(late.config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 75
    assert "claimed already, by the dispatcher" in done.stderr
    assert sorted(path.name for path in late.work.iterdir()) == ["claim"]


def test_where_a_wrapper_claims_in_this_very_moment_nothing_ends(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = portal.queued()
    portal.see(job_id, S.FAILED)
    original = take_claim

    def take_too_late(*args: Any) -> bool:
        portal.start_program(job_id)
        return original(*args)

    monkeypatch.setattr(polling_module, "take_claim", take_too_late)
    portal.turn_past_grace()
    assert portal.state(job_id) is JobState.QUEUED
    portal.end_program(job_id)
    portal.turn()
    assert portal.state(job_id) is JobState.SUCCEEDED


def test_a_claim_that_the_dispatcher_took_before_it_died_is_its_own(portal: Portal) -> None:
    job_id = portal.queued()
    portal.see(job_id, S.FAILED)
    portal.turn()
    take_claim(portal.dispatch, portal.attempt(job_id))
    portal.crash()
    portal.turn(GRACE_SECONDS, times=2)
    assert portal.record(job_id).attempts[0].failure_reason is FailureReason.LAUNCH_FAILED


@pytest.mark.parametrize("kind", ["link", "two names", "too large", "not JSON", "another's"])
def test_a_claim_that_may_not_be_read_says_that_something_started(portal: Portal, kind: str) -> None:
    """A wrapper that was killed while it took the claim leaves it with two names; a job may leave anything."""
    job_id = portal.queued()
    portal.start_program(job_id)
    claim = portal.files(job_id).work / "claim"
    if kind == "two names":
        claim.with_name(".claim.0123.tmp").hardlink_to(claim)
    else:
        claim.unlink()
        if kind == "link":
            claim.symlink_to("/etc/passwd")
        else:
            other = b'{"by": "dispatcher"}' if kind == "another's" else b"x" * (100_000 if kind == "too large" else 3)
            claim.write_bytes(other)
    portal.see(job_id, S.COMPLETED)
    portal.turn_past_grace()
    attempt = portal.record(job_id).attempts[0]
    assert (attempt.state, attempt.failure_reason) == (JobState.FAILED, FailureReason.LOST)


def test_a_job_whose_heart_beats_is_not_lost(portal: Portal) -> None:
    job_id = portal.running()
    portal.scheduler.forget(portal.name(job_id))
    for _ in range(5):
        portal.beat(job_id)
        portal.turn(GRACE_SECONDS)
    assert portal.state(job_id) is JobState.RUNNING
    portal.turn(GRACE_SECONDS, times=2)
    assert portal.record(job_id).attempts[0].failure_reason is FailureReason.LOST


def test_the_end_of_a_twin_that_never_started_is_not_the_end(portal: Portal) -> None:
    """Two jobs of the name got in; the one whose id is not known here started, the other exited at the claim."""
    job_id = portal.queued()
    twin = portal.scheduler.put_in(portal.name(job_id))
    portal.start_program(job_id, scheduler_id=twin.scheduler_id)
    first = portal.scheduler.handles(portal.name(job_id))[0]
    portal.scheduler.jobs[first] = portal.scheduler.jobs[first].__class__(S.FAILED, "FAILED", exit_code=75)
    portal.turn()
    assert portal.attempt(job_id).scheduler_id == twin.scheduler_id
    portal.end_program(job_id)
    portal.scheduler.jobs[twin] = portal.scheduler.jobs[twin].__class__(S.COMPLETED, "COMPLETED")
    portal.turn()
    assert portal.state(job_id) is JobState.SUCCEEDED


def test_the_end_of_a_job_that_did_not_start_it_is_not_the_end_of_what_runs(portal: Portal) -> None:
    """Started by hand under an id that the scheduler does not know: as long as its heart beats, it runs."""
    job_id = portal.queued(application="held")
    portal.start_program(job_id, scheduler_id="pid-12@node1")
    portal.see(job_id, S.FAILED, exit_code=75)
    for _ in range(4):
        portal.beat(job_id)
        portal.turn(GRACE_SECONDS)
    assert portal.state(job_id) is JobState.QUEUED
    portal.turn(GRACE_SECONDS, times=3)
    assert portal.job(job_id).failure_reason is FailureReason.LOST


# Late words


def lost(portal: Portal) -> str:
    job_id = portal.running(application="held")
    portal.scheduler.forget(portal.name(job_id))
    portal.turn(GRACE_SECONDS, times=3)
    assert portal.job(job_id).failure_reason is FailureReason.LOST
    return job_id


def node_failed(portal: Portal) -> str:
    return fails_with(portal, S.NODE_FAILURE, application="held")


@pytest.mark.parametrize("given_up", [lost, node_failed])
@pytest.mark.parametrize("exit_code", [0, 2])
def test_a_late_word_from_the_node_corrects_what_was_given_up(
    portal: Portal, given_up: Callable[[Portal], str], exit_code: int
) -> None:
    job_id = given_up(portal)
    portal.end_program(job_id, exit_code=exit_code)
    portal.turn(CORRECT_EVERY_SECONDS)
    record = portal.record(job_id)
    expected = (JobState.SUCCEEDED, None) if exit_code == 0 else (JobState.FAILED, FailureReason.PROGRAM_ERROR)
    assert (record.job.state, record.job.failure_reason) == expected
    assert portal.mails(job_id) == ["failed", "corrected"]
    assert portal.markers(job_id) == (["SUCCESS"] if exit_code == 0 else ["ERROR"])
    assert json.loads(portal.files(job_id).verdict.read_text())["outcome"] == "corrected"
    portal.turn(CORRECT_EVERY_SECONDS, times=3)
    assert portal.mails(job_id) == ["failed", "corrected"]


def test_where_nodes_mail_the_nodes_own_word_of_a_late_success_is_the_correction() -> None:
    """It has told of the success under that Message-ID: a correction under another one would tell it twice."""
    with opened_portal(mail={"sent_by": "node"}) as portal:
        job_id = node_failed(portal)
        portal.sender.send_due()
        portal.end_program(job_id)
        (portal.files(job_id).work / "mail.sent").write_text("2026-11-24T06:10:00Z <as the node wrote it>\n")
        portal.turn(CORRECT_EVERY_SECONDS)
        assert portal.state(job_id) is JobState.SUCCEEDED
        assert portal.mails(job_id) == ["failed", "succeeded"]
        assert json.loads(portal.files(job_id).verdict.read_text())["outcome"] == "succeeded"
        portal.clock.advance(GRACE_SECONDS + 1)
        portal.sender.send_due()
        assert portal.mail.ids() == [f"<{job_id}.1.failed@portal.example.org>"]


def test_a_node_that_tells_of_its_success_while_another_attempt_is_being_opened_is_believed(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = portal.running()

    def write(*arguments: Any) -> None:
        write_verdict(*arguments)
        monkeypatch.setattr("portal.dispatch.publication.write_verdict", write_verdict)
        portal.end_program(job_id)

    monkeypatch.setattr("portal.dispatch.publication.write_verdict", write)
    portal.see(job_id, S.NODE_FAILURE, node="node1")
    portal.turn_past_grace()
    portal.turn()
    assert portal.state(job_id) is JobState.SUCCEEDED
    assert portal.record(job_id).job.attempt_number == 1
    assert json.loads(portal.files(job_id).verdict.read_text())["next_attempt"] is None


def test_one_correction_that_fails_does_not_hold_up_the_others(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [node_failed(portal), node_failed(portal)]
    for job_id in ids:
        portal.end_program(job_id)
    poisoned = portal.files(ids[0]).path
    original = write_verdict

    def write(directory: Any, *rest: Any) -> None:
        if directory.path == poisoned:
            raise OSError("no such disk")
        original(directory, *rest)

    monkeypatch.setattr(publication_module, "write_verdict", write)
    portal.turn(CORRECT_EVERY_SECONDS)
    assert [portal.state(job_id) for job_id in ids] == [JobState.FAILED, JobState.SUCCEEDED]


def test_an_old_attempts_late_word_changes_nothing(portal: Portal) -> None:
    job_id = fails_with(portal, S.NODE_FAILURE)
    portal.end_program(job_id, number=1, output="The answer is: 4\n")
    portal.see(job_id, S.PENDING)
    portal.turn(CORRECT_EVERY_SECONDS, times=4)
    record = portal.record(job_id)
    assert [attempt.state for attempt in record.attempts] == [JobState.FAILED, JobState.QUEUED]
    assert (record.job.state, portal.mails(job_id), portal.markers(job_id)) == (JobState.QUEUED, [], [])


# What one job leaves behind cannot harm another


def remove_the_folder(portal: Portal, job_id: str) -> None:
    shutil.rmtree(portal.directory(job_id).path)


def write_garbage(portal: Portal, job_id: str) -> None:
    (portal.files(job_id).work / status_file.FILE_NAME).write_bytes(b'{"schema": 1, "succeeded": true}')


def write_deep_garbage(portal: Portal, job_id: str) -> None:
    (portal.files(job_id).work / status_file.FILE_NAME).write_bytes(b"[" * 60_000)


def write_too_much(portal: Portal, job_id: str) -> None:
    (portal.files(job_id).work / status_file.FILE_NAME).write_bytes(b"x" * 10_000_000)


def write_of_another_attempt(portal: Portal, job_id: str) -> None:
    _write_as(portal, job_id, lambda status: status._replace(attempt=2))


def write_of_another_job(portal: Portal, job_id: str) -> None:
    _write_as(portal, job_id, lambda status: status._replace(job_id="bcdfghjk"))


def link_elsewhere(portal: Portal, job_id: str) -> None:
    portal.write_status(job_id, portal.ended_status(job_id))
    file = portal.files(job_id).work / status_file.FILE_NAME
    target = portal.folder_path / "stolen.json"
    file.rename(target)
    file.symlink_to(target)


def leave_a_pipe(portal: Portal, job_id: str) -> None:
    file = portal.files(job_id).work / status_file.FILE_NAME
    file.unlink()
    os.mkfifo(file)


def _write_as(portal: Portal, job_id: str, change: Callable[[StatusFile], StatusFile]) -> None:
    data = status_file.encode(change(portal.ended_status(job_id)))
    (portal.files(job_id).work / status_file.FILE_NAME).write_bytes(data)


POISONS = [
    remove_the_folder,
    write_garbage,
    write_deep_garbage,
    write_too_much,
    write_of_another_attempt,
    write_of_another_job,
    link_elsewhere,
    leave_a_pipe,
]


@pytest.mark.thorough
@pytest.mark.parametrize("poison", POISONS, ids=lambda poison: poison.__name__)
def test_what_one_job_leaves_behind_is_no_success_and_holds_up_nobody(
    portal: Portal, poison: Callable[[Portal, str], None]
) -> None:
    poisoned = portal.running(application="held")
    healthy = portal.running()
    poison(portal, poisoned)
    portal.end_program(healthy)
    for job_id in (poisoned, healthy):
        portal.see(job_id, S.COMPLETED)
    portal.turn_past_grace()
    assert portal.state(healthy) is JobState.SUCCEEDED
    if poison is remove_the_folder:
        assert portal.state(poisoned) is JobState.RUNNING
    else:
        assert portal.job(poisoned).failure_reason is FailureReason.LOST


def test_an_error_of_ours_with_one_attempt_holds_up_nobody(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [portal.running(), portal.running()]
    for job_id in ids:
        portal.end_program(job_id)
        portal.see(job_id, S.COMPLETED)
    original = read_evidence

    def read(directory: Any, attempt: Attempt) -> Any:
        if attempt.job_id == ids[0]:
            raise ZeroDivisionError
        return original(directory, attempt)

    monkeypatch.setattr(evidence_module, "read_evidence", read)
    portal.turn()
    assert [portal.state(job_id) for job_id in ids] == [JobState.RUNNING, JobState.SUCCEEDED]


def test_files_are_read_only_for_what_has_moved(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [portal.running() for _ in range(3)]
    portal.turn()
    looked_at: list[str] = []
    original = read_evidence

    def read(directory: Any, attempt: Attempt) -> Any:
        looked_at.append(attempt.job_id)
        return original(directory, attempt)

    monkeypatch.setattr(evidence_module, "read_evidence", read)
    portal.turn(times=3)
    assert looked_at == []
    portal.see(ids[1], S.COMPLETING)
    portal.turn()
    assert looked_at == [ids[1]]
    assert len(portal.scheduler.asked("observe")[-1]) == 3


# Wishes


def test_a_job_that_was_not_handed_in_is_cancelled_at_once_without_the_scheduler(portal: Portal) -> None:
    job_id = portal.submit()
    portal.ask_cancel(job_id)
    portal.turn()
    record = portal.record(job_id)
    assert (record.job.state, record.job.failure_reason) == (JobState.CANCELLED, None)
    assert portal.changes(job_id)[-1] == ("accepted", "cancelled", "wish", "ann@example.org")
    assert (portal.mails(job_id), portal.markers(job_id)) == (["cancelled"], ["ERROR"])
    assert [call.verb for call in portal.scheduler.calls] == []
    assert claims.parse((portal.files(job_id).work / "claim").read_bytes()).by == "dispatcher"


def test_a_wish_that_comes_while_the_job_is_prepared_keeps_it_from_going_in(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = portal.submit()

    def wish_and_write(*args: Any) -> Any:
        portal.ask_cancel(job_id)
        return write_attempt(*args)

    monkeypatch.setattr(submission_module, "write_attempt", wish_and_write)
    portal.turn(times=2)
    assert (portal.state(job_id), portal.scheduler.specs) == (JobState.CANCELLED, [])


def test_a_job_that_is_put_off_can_be_cancelled(portal: Portal) -> None:
    job_id = portal.submit()
    portal.scheduler.submit_answers[portal.name(job_id)] = [Deferred("full")]
    portal.turn()
    portal.ask_cancel(job_id)
    portal.turn()
    assert portal.state(job_id) is JobState.CANCELLED


def test_a_job_that_was_started_by_hand_before_it_was_cancelled_is_looked_up(portal: Portal) -> None:
    job_id = portal.submit()
    portal.files(job_id).make()
    portal.start_program(job_id, scheduler_id="pid-12@node1")
    portal.ask_cancel(job_id)
    portal.turn()
    assert portal.state(job_id) is JobState.SUBMITTING
    assert portal.mails(job_id) == []


def test_a_folder_that_cannot_be_written_is_not_tried_at_every_turn(portal: Portal) -> None:
    job_id = portal.submit()
    remove_the_folder(portal, job_id)
    with portal.database.writing() as session:
        session.get_one(Job, job_id).cancel_asked_at = portal.clock.now_utc()
    portal.turn(times=3)
    assert portal.state(job_id) is JobState.ACCEPTED
    portal.directory(job_id).path.mkdir()
    portal.turn(ASK_AGAIN_SECONDS)
    assert portal.state(job_id) is JobState.CANCELLED


def test_a_wish_waits_while_the_submission_is_in_doubt(portal: Portal) -> None:
    job_id = portal.submit()
    portal.scheduler.submit_answers[portal.name(job_id)] = [Lost(is_in=True)]
    portal.turn()
    portal.ask_cancel(job_id)
    portal.scheduler.is_out = True
    portal.turn(10, times=3)
    assert (portal.state(job_id), portal.scheduler.cancelled) == (JobState.SUBMITTING, [])
    portal.scheduler.is_out = False
    portal.turn(10, times=2)
    assert [handle.name for handle in portal.scheduler.cancelled] == [portal.name(job_id)]


def test_a_job_in_doubt_that_did_not_get_in_is_cancelled_and_not_handed_in(portal: Portal) -> None:
    job_id = portal.submit()
    portal.scheduler.submit_answers[portal.name(job_id)] = [Lost(is_in=False)]
    portal.turn()
    portal.ask_cancel(job_id)
    portal.turn(60, times=2)
    assert portal.state(job_id) is JobState.CANCELLED
    assert len(portal.scheduler.specs) == 1


def test_a_waiting_job_is_cancelled_in_the_scheduler_and_ends_by_its_word(portal: Portal) -> None:
    job_id = portal.queued()
    portal.ask_cancel(job_id)
    portal.turn(times=3)
    assert portal.state(job_id) is JobState.QUEUED
    assert len(portal.scheduler.cancelled) == 1
    portal.see(job_id, S.CANCELLED, "CANCELLED by 0", cancelled_by="root")
    portal.turn_past_grace()
    assert portal.changes(job_id)[-1] == ("queued", "cancelled", "scheduler", "ann@example.org")
    assert portal.mails(job_id) == ["cancelled"]


def test_a_scheduler_that_still_has_it_is_asked_again(portal: Portal) -> None:
    job_id = portal.running()
    portal.scheduler.is_out = True
    portal.ask_cancel(job_id)
    portal.turn(times=2)
    portal.scheduler.is_out = False
    portal.turn(ASK_AGAIN_SECONDS / 2, times=5)
    assert len(portal.scheduler.cancelled) == 3


def test_a_running_job_that_noted_sigterm_was_cancelled(portal: Portal) -> None:
    job_id = portal.running()
    portal.ask_cancel(job_id)
    portal.turn()
    portal.end_program(job_id, exit_code=143, sigterm=True)
    portal.see(job_id, S.FAILED, exit_code=143)
    portal.turn()
    assert (portal.state(job_id), portal.markers(job_id)) == (JobState.CANCELLED, ["ERROR"])


def test_a_job_that_finished_meanwhile_has_succeeded(portal: Portal) -> None:
    job_id = portal.running()
    portal.end_program(job_id)
    portal.ask_cancel(job_id)
    portal.see(job_id, S.CANCELLED)
    portal.turn()
    assert portal.state(job_id) is JobState.SUCCEEDED


def test_once_cancellation_is_asked_for_no_new_attempt_is_opened(portal: Portal) -> None:
    job_id = portal.running()
    portal.ask_cancel(job_id)
    portal.see(job_id, S.NODE_FAILURE)
    portal.turn_past_grace()
    assert portal.job(job_id).failure_reason is FailureReason.NODE_FAILURE
    assert len(portal.record(job_id).attempts) == 1


# At take-over


def test_a_take_over_writes_files_again_that_do_not_say_what_the_database_says(portal: Portal) -> None:
    job_id = finished(portal)
    files = portal.files(job_id)
    good = [json.loads(file.read_text()) for file in (files.submission, files.verdict)]
    files.submission.unlink()
    files.verdict.write_text(json.dumps({**good[1], "state": "failed", "answer": "5"}))
    (portal.directory(job_id).path / "SUCCESS").rename(portal.directory(job_id).path / "ERROR")
    (portal.directory(job_id).path / "output.txt").unlink()
    portal.crash()
    portal.turn()
    mended = [json.loads(file.read_text()) for file in (files.submission, files.verdict)]
    epoch = portal.dispatch.leadership.epoch
    assert mended == [{**record, "epoch": epoch} for record in good]
    assert portal.markers(job_id) == ["SUCCESS"]
    assert (portal.directory(job_id).path / "output.txt").read_text() == "The answer is: 4\n"


def test_a_take_over_leaves_right_files_alone(portal: Portal) -> None:
    ids = [finished(portal), fails_with(portal, S.NODE_FAILURE), portal.queued()]
    portal.turn()
    files = [
        file
        for job_id in ids
        for number in portal.directory(job_id).attempt_numbers()
        for file in (portal.files(job_id, number).submission, portal.files(job_id, number).verdict)
        if file.exists()
    ]
    assert len(files) == 6
    before = [file.read_bytes() for file in files]
    portal.crash()
    portal.turn()
    assert [file.read_bytes() for file in files] == before


def test_a_take_over_withdraws_an_end_that_was_never_committed(portal: Portal) -> None:
    job_id = portal.running()
    files = portal.files(job_id)
    files.verdict.write_text(json.dumps({"epoch": portal.dispatch.leadership.epoch, "state": "failed"}))
    publication_module.publish_markers(portal.directory(job_id), 1, succeeded=False)
    portal.crash()
    portal.turn()
    assert (files.verdict.exists(), portal.markers(job_id)) == (False, [])


def test_a_take_over_leaves_files_alone_that_were_written_for_a_newer_database(portal: Portal) -> None:
    job_id = portal.running()
    files = portal.files(job_id)
    text = json.dumps({"epoch": portal.dispatch.leadership.epoch + 1, "state": "failed"})
    files.verdict.write_text(text)
    portal.clock.advance(60)
    portal.crash()
    portal.turn()
    assert files.verdict.read_text() == text


def test_what_a_predecessor_does_when_it_wakes_up_late_is_mended(portal: Portal) -> None:
    """It stood still at a step in the job's files while it was overtaken, and takes that step before it notices."""
    job_id = portal.running()
    portal.end_program(job_id)
    portal.see(job_id, S.COMPLETED, exit_code=0)
    portal.turn()
    assert portal.state(job_id) is JobState.SUCCEEDED
    files = portal.files(job_id)
    files.verdict.unlink()
    (portal.directory(job_id).path / "SUCCESS").unlink()
    portal.turn(RECONCILE_EVERY_SECONDS)
    assert portal.markers(job_id) == ["SUCCESS"]
    assert json.loads(files.verdict.read_text())["state"] == "succeeded"


def test_a_take_over_is_tried_again_where_the_database_fails(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    import portal.dispatch.dispatcher as dispatcher_module

    calls: list[int] = []

    def fail_once(_dispatch: object) -> int:
        calls.append(1)
        if len(calls) == 1:
            raise StorageError("away")
        return 0

    monkeypatch.setattr(dispatcher_module, "reconcile", fail_once)
    portal.turn(times=4)
    assert len(calls) == 2
