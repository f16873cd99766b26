"""From accepted to queued, exactly once, whatever is lost, refused or killed on the way."""

import errno
import json
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest
from sqlalchemy.orm import Session

import portal.dispatch.submission as submission_module
from portal.dispatch.answers import LOOK_AGAIN_SECONDS, RETRY_SECONDS, record_submitted
from portal.dispatch.doubts import DOUBT_MARGIN_SECONDS, choose_handle
from portal.dispatch.evidence import take_claim
from portal.dispatch.submission import submit_accepted
from portal.errors import DefinitionError, SiteError, StaleEpochError, StorageError
from portal.jobs.models import Attempt, Job
from portal.jobs.states import FailureReason, JobState
from portal.node.claim import Claim
from portal.schedulers.base import Deferred, Handle, Rejected, SchedulerState, Unknown
from portal.settings import LimitsSection
from tests.portal_parts import Portal, opened_portal
from tests.scripted_scheduler import Lost

LOST_CALL_SECONDS = 30.0


class Killed(BaseException):
    """The process ends at this instruction; nothing in the portal catches it."""


@pytest.fixture
def portal() -> Iterator[Portal]:
    with opened_portal(lost_call_seconds=LOST_CALL_SECONDS) as portal:
        yield portal


def accepted(portal: Portal, number: int = 1, **more: Any) -> list[str]:
    """So many jobs, each of a person of their own, a second apart."""
    ids = []
    for index in range(number):
        ids.append(portal.submit(owner=f"person{index}@example.org", **more))
        portal.clock.advance(1)
    return ids


def script(portal: Portal, job_id: str, *answers: Any) -> None:
    portal.scheduler.submit_answers[portal.name(job_id)] = list(answers)


def test_a_job_is_handed_in_under_its_name_with_its_resources(portal: Portal) -> None:
    job_id = portal.submit()
    portal.turn()
    [spec] = portal.scheduler.specs
    instance = portal.folder.instance()
    assert spec.name == f"portal-{instance}-{job_id}-1" == portal.name(job_id)
    assert (spec.time_limit_minutes, spec.memory_mib, spec.cpus, spec.exclude_nodes) == (5, 256, 1, ())
    assert spec.script == portal.files(job_id).job_script
    assert spec.working_dir == portal.files(job_id).work
    assert portal.changes(job_id) == [
        (None, "accepted", "form", "ann@example.org"),
        ("accepted", "submitting", "portal", "portal"),
        ("submitting", "queued", "scheduler", "portal"),
    ]
    assert portal.attempt(job_id).scheduler_id == "101"


def test_the_intent_stands_on_disk_and_in_the_database_before_the_scheduler_is_called(portal: Portal) -> None:
    job_id = portal.submit()
    seen: list[object] = []

    def look() -> None:
        record = json.loads(portal.files(job_id).submission.read_text())
        seen.extend([portal.state(job_id), record["intent_at"], record["scheduler_id"], record["epoch"]])

    portal.scheduler.when_submitting = look
    portal.turn()
    assert seen == [JobState.SUBMITTING, "2026-11-24T06:00:02Z", None, portal.dispatch.leadership.epoch]
    assert json.loads(portal.files(job_id).submission.read_text())["scheduler_id"] == "101"


def test_a_lost_answer_with_the_job_in_the_scheduler_is_found_by_its_name(portal: Portal) -> None:
    job_id = portal.submit()
    script(portal, job_id, Lost(is_in=True))
    portal.turn()
    assert portal.state(job_id) is JobState.SUBMITTING
    portal.turn(LOOK_AGAIN_SECONDS)
    assert portal.state(job_id) is JobState.QUEUED
    assert portal.attempt(job_id).scheduler_id == "101"
    assert portal.scheduler.submitted_names() == [portal.name(job_id)]


def test_a_lost_answer_without_the_job_is_handed_in_again_only_when_the_lost_call_is_over(portal: Portal) -> None:
    job_id = portal.submit()
    script(portal, job_id, Lost(is_in=False))
    portal.turn()
    handed_in_at = portal.clock.monotonic_seconds()
    while len(portal.scheduler.specs) == 1:
        assert portal.state(job_id) is JobState.SUBMITTING
        portal.turn(1)
    waited_seconds = portal.clock.monotonic_seconds() - handed_in_at
    least = LOST_CALL_SECONDS + DOUBT_MARGIN_SECONDS
    assert least <= waited_seconds <= least + LOOK_AGAIN_SECONDS
    assert portal.state(job_id) is JobState.QUEUED
    assert portal.scheduler.submitted_names() == [portal.name(job_id)] * 2


def test_a_job_that_appears_late_is_not_handed_in_again(portal: Portal) -> None:
    """The lost call takes effect long after its connection broke."""
    job_id = portal.submit()
    script(portal, job_id, Lost(is_in=False))
    portal.turn()
    portal.turn(LOOK_AGAIN_SECONDS, times=3)
    portal.scheduler.put_in(portal.name(job_id))
    portal.turn(LOST_CALL_SECONDS)
    assert portal.state(job_id) is JobState.QUEUED
    assert len(portal.scheduler.specs) == 1


def test_while_the_name_cannot_be_looked_up_nothing_is_handed_in(portal: Portal) -> None:
    job_id = portal.submit()
    script(portal, job_id, Lost(is_in=False))
    portal.scheduler.find_answers[portal.name(job_id)] = Unknown("accounting is away")
    portal.turn()
    portal.turn(3600, times=5)
    assert portal.state(job_id) is JobState.SUBMITTING
    assert len(portal.scheduler.specs) == 1
    del portal.scheduler.find_answers[portal.name(job_id)]
    portal.turn(LOOK_AGAIN_SECONDS, times=2)
    assert portal.state(job_id) is JobState.QUEUED
    assert len(portal.scheduler.specs) == 2


def test_a_scheduler_that_is_out_of_reach_keeps_everything_in_order(portal: Portal) -> None:
    """Jobs go on being accepted, and go in once each when it is back."""
    portal.scheduler.is_out = True
    ids = accepted(portal, 3)
    portal.turn(times=3)
    portal.scheduler.is_out = False
    portal.turn(LOOK_AGAIN_SECONDS, times=2)
    assert [portal.state(job_id) for job_id in ids] == [JobState.QUEUED] * 3
    assert sorted(portal.scheduler.submitted_names()) == sorted(portal.name(job_id) for job_id in ids)


# Killed at any instruction


def kill_at(portal: Portal, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a turn that ends in the middle, at this step; another dispatcher begins."""

    def die(*_args: object, **_more: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if step == "after the scheduler took it":
            portal.scheduler.when_submitting = die
        else:
            patch.setattr(submission_module, step, die)
        with pytest.raises(Killed):
            portal.turn()
    portal.crash()


STEPS = [
    "write_attempt",
    "render_program",
    "write_submission",
    "change_state",
    "_commit_intents",
    "after the scheduler took it",
    "record_submitted",
]


def test_where_no_name_can_be_looked_up_the_claim_says_which_job_it_is(portal: Portal) -> None:
    job_id = portal.submit()
    name = portal.name(job_id)
    portal.scheduler.submit_answers[name] = [Lost(is_in=True)]
    portal.scheduler.find_answers[name] = Unknown("there is no such question", for_ever=True)
    portal.turn(times=2)
    assert portal.state(job_id) is JobState.SUBMITTING
    assert portal.start_program(job_id, scheduler_id="101")
    portal.turn(10)
    assert (portal.state(job_id), portal.attempt(job_id).scheduler_id) == (JobState.QUEUED, "101")
    portal.end_program(job_id)
    portal.see(job_id, SchedulerState.COMPLETED)
    portal.turn_past_grace()
    assert portal.state(job_id) is JobState.SUCCEEDED


@pytest.mark.thorough
@pytest.mark.parametrize("step", STEPS)
def test_a_dispatcher_killed_at_any_step_hands_everything_in_once(
    portal: Portal, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = accepted(portal, 2)
    kill_at(portal, step, monkeypatch)
    portal.turn(LOST_CALL_SECONDS, times=3)
    assert [portal.state(job_id) for job_id in ids] == [JobState.QUEUED] * 2
    assert sorted(portal.scheduler.submitted_names()) == sorted(portal.name(job_id) for job_id in ids)
    assert [portal.attempt(job_id).number for job_id in ids] == [1, 1]


def test_killed_between_the_intent_on_disk_and_its_commit(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file tells of an intent that no commit knows: it is looked up before the job goes in."""
    job_id = portal.submit()
    kill_at(portal, "change_state", monkeypatch)
    assert portal.files(job_id).submission.exists()
    assert portal.state(job_id) is JobState.ACCEPTED
    portal.turn()
    assert portal.state(job_id) is JobState.SUBMITTING
    assert portal.scheduler.specs == []
    portal.turn(LOST_CALL_SECONDS + DOUBT_MARGIN_SECONDS, times=2)
    assert portal.state(job_id) is JobState.QUEUED
    assert len(portal.scheduler.specs) == 1


def test_a_database_from_yesterday_does_not_make_a_job_run_twice(portal: Portal) -> None:
    """The database was restored from a copy that knows of no submission; the scheduler has the job."""
    job_id = portal.queued()
    with portal.database.writing() as session:
        attempt = session.get_one(Attempt, (job_id, 1))
        attempt.state = session.get_one(Job, job_id).state = JobState.ACCEPTED
        attempt.intent_at = attempt.scheduler_id = attempt.submitted_at = None
    portal.crash()
    portal.turn(times=2)
    assert portal.state(job_id) is JobState.QUEUED
    assert portal.attempt(job_id).scheduler_id == "101"
    assert len(portal.scheduler.specs) == 1


# Others of the batch


def test_one_that_is_refused_fails_alone_with_the_schedulers_words(portal: Portal) -> None:
    good, bad, other = accepted(portal, 3)
    script(portal, bad, Rejected("Requested node configuration is not available"))
    portal.turn()
    assert portal.state(good) is portal.state(other) is JobState.QUEUED
    record = portal.record(bad)
    assert (record.job.state, record.job.failure_reason) == (JobState.FAILED, FailureReason.REJECTED)
    assert record.attempt.reason == "Requested node configuration is not available"
    assert portal.changes(bad)[-1] == ("submitting", "failed", "scheduler", "portal")
    assert (portal.mails(bad), portal.markers(bad)) == (["failed"], ["ERROR"])
    portal.turn(RETRY_SECONDS, times=3)
    assert portal.scheduler.submitted_names().count(portal.name(bad)) == 1


def test_one_that_is_put_off_is_tried_again_and_does_not_fail(portal: Portal) -> None:
    put_off, other = accepted(portal, 2)
    script(portal, put_off, *[Deferred("QOSMaxSubmitJobPerUserLimit")] * 2)
    portal.turn()
    assert portal.state(put_off) is JobState.ACCEPTED
    assert portal.attempt(put_off).reason == "QOSMaxSubmitJobPerUserLimit"
    assert portal.state(other) is JobState.QUEUED
    portal.turn(RETRY_SECONDS - 3)
    assert len(portal.scheduler.specs) == 2
    portal.turn(RETRY_SECONDS, times=2)
    assert portal.state(put_off) is JobState.QUEUED
    assert portal.attempt(put_off).reason is None
    assert portal.scheduler.submitted_names().count(portal.name(put_off)) == 3


def test_an_answer_that_cannot_be_written_down_is_looked_up(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = accepted(portal, 2)
    name = portal.name(first)
    original = record_submitted

    def fail_once(dispatch: Any, job: Job, attempt: Attempt, *rest: Any) -> None:
        if attempt.scheduler_name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(dispatch, job, attempt, *rest)

    monkeypatch.setattr(submission_module, "record_submitted", fail_once)
    portal.turn()
    assert (portal.state(first), portal.state(second)) == (JobState.SUBMITTING, JobState.QUEUED)
    portal.turn()
    assert portal.state(first) is JobState.QUEUED
    assert len(portal.scheduler.specs) == 2


@pytest.mark.parametrize(
    ("module", "name", "message"),
    [
        (
            "scheduler",
            "directives",
            "The scheduler's option --gres cannot be 'a b': it has characters that are not safe.",
        ),
        ("submission", "render_program", "program.sh.j2: 'no_such_fact' is undefined"),
    ],
)
def test_a_script_that_cannot_be_made_keeps_its_job_waiting_and_says_why(
    portal: Portal, monkeypatch: pytest.MonkeyPatch, module: str, name: str, message: str
) -> None:
    def fail(*_: object) -> NoReturn:
        raise DefinitionError(message)

    job_id = portal.submit()
    with monkeypatch.context() as broken:
        broken.setattr(portal.scheduler if module == "scheduler" else submission_module, name, fail)
        portal.turn()
    assert portal.state(job_id) is JobState.ACCEPTED
    assert portal.attempt(job_id).reason == f"its application cannot be used at the moment: {message}"
    assert portal.scheduler.specs == []
    portal.turn(RETRY_SECONDS + 1)
    assert portal.state(job_id) is JobState.QUEUED


def test_an_application_that_is_missing_keeps_its_jobs_waiting(portal: Portal) -> None:
    waiting = portal.submit(application="any_inputs")
    other = portal.submit()
    portal.shelf.missing.add("any_inputs")
    portal.turn()
    assert (portal.state(waiting), portal.state(other)) == (JobState.ACCEPTED, JobState.QUEUED)
    reason = portal.attempt(waiting).reason
    assert reason is not None
    assert reason.startswith("its application cannot be used at the moment: ")
    version = portal.job(waiting).version
    portal.turn(RETRY_SECONDS + 1, times=3)
    assert portal.job(waiting).version == version
    portal.shelf.missing.clear()
    portal.turn(RETRY_SECONDS + 1)
    assert portal.state(waiting) is JobState.QUEUED
    assert portal.attempt(waiting).reason is None


@pytest.mark.parametrize("step", ["write_attempt", "write_submission"])
def test_a_full_disk_keeps_a_job_waiting_and_loses_nothing(
    portal: Portal, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = accepted(portal, 2)
    folder = portal.directory(first).path
    original = getattr(submission_module, step)

    def write(target: Any, *rest: Any) -> Any:
        if target.path == folder or folder in target.path.parents:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(target, *rest)

    monkeypatch.setattr(submission_module, step, write)
    portal.turn()
    assert (portal.state(first), portal.state(second)) == (JobState.ACCEPTED, JobState.QUEUED)
    assert portal.attempt(first).reason == "its files cannot be written at the moment"
    monkeypatch.undo()
    portal.turn(RETRY_SECONDS + LOST_CALL_SECONDS, times=2)
    assert portal.state(first) is JobState.QUEUED
    assert len(portal.scheduler.specs) == 2


def test_a_site_that_slurm_cannot_work_with_is_named_as_what_jobs_wait_for(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise SiteError("An administrator has to move the portal's jobs folder.")

    monkeypatch.setattr(portal.scheduler, "directives", refuse)
    job_id = portal.submit()
    portal.turn()
    assert portal.state(job_id) is JobState.ACCEPTED
    assert portal.attempt(job_id).reason == "An administrator has to move the portal's jobs folder."
    monkeypatch.undo()
    portal.turn(RETRY_SECONDS + 1)
    assert portal.state(job_id) is JobState.QUEUED


def test_a_job_that_cannot_be_prepared_does_not_hold_up_the_others(portal: Portal) -> None:
    poisoned, other = accepted(portal, 2)
    with portal.database.writing() as session:
        session.get_one(Job, poisoned).resources = {}
    portal.turn(times=2)
    assert (portal.state(poisoned), portal.state(other)) == (JobState.ACCEPTED, JobState.QUEUED)
    assert portal.attempt(poisoned).reason is not None


# Twice in the scheduler


def twice_in_the_scheduler(portal: Portal) -> str:
    """The lost call took effect after all, when the job had been handed in again."""
    job_id = portal.submit()
    script(portal, job_id, Lost(is_in=True), Lost(is_in=True))
    portal.turn()
    portal.scheduler.put_in(portal.name(job_id))
    return job_id


def test_the_claim_says_which_one_stays_else_the_oldest() -> None:
    handles = [Handle("100", "name"), Handle("99", "name"), Handle("101", "name")]
    claim = Claim("wrapper", "101", "name", "node1", 4711, "2026-11-24T06:00:00Z")
    assert choose_handle(handles, claim).scheduler_id == "101"
    assert choose_handle(handles, claim._replace(scheduler_id="pid-12@node1")).scheduler_id == "99"
    assert choose_handle(handles, None).scheduler_id == "99"


@pytest.mark.parametrize("claimant", ["101", "102"])
def test_of_two_the_one_that_took_the_claim_is_kept(portal: Portal, claimant: str) -> None:
    job_id = twice_in_the_scheduler(portal)
    portal.start_program(job_id, scheduler_id=claimant)
    portal.turn(LOOK_AGAIN_SECONDS)
    assert portal.attempt(job_id).scheduler_id == claimant
    assert [handle.scheduler_id for handle in portal.scheduler.cancelled] == [{"101": "102", "102": "101"}[claimant]]


def test_of_two_without_a_claim_none_is_cancelled_before_one_starts(portal: Portal) -> None:
    job_id = twice_in_the_scheduler(portal)
    portal.turn(LOOK_AGAIN_SECONDS)
    assert portal.attempt(job_id).scheduler_id == "101"
    assert portal.scheduler.cancelled == []
    portal.start_program(job_id, scheduler_id="102")
    portal.see(job_id, SchedulerState.RUNNING)
    portal.turn()
    assert portal.attempt(job_id).scheduler_id == "102"
    assert [handle.scheduler_id for handle in portal.scheduler.cancelled] == ["101"]
    assert json.loads(portal.files(job_id).submission.read_text())["scheduler_id"] == "102"


def test_one_that_a_predecessor_gave_up_ends_and_goes_in_as_another_attempt(portal: Portal) -> None:
    """As after a database was restored: its claim is taken, so that it could never start."""
    job_id = portal.submit()
    script(portal, job_id, Lost(is_in=False))
    portal.turn()
    assert take_claim(portal.dispatch, portal.attempt(job_id))
    portal.turn(LOST_CALL_SECONDS + 3, times=3)
    attempts = portal.record(job_id).attempts
    assert [(one.state, one.failure_reason) for one in attempts] == [
        (JobState.FAILED, FailureReason.LOST),
        (JobState.QUEUED, None),
    ]


def test_a_job_that_was_started_by_hand_is_not_handed_in_again(portal: Portal) -> None:
    """`job.sh` can be submitted by hand; its end comes to light by its status file."""
    job_id = portal.submit()
    portal.shelf.missing.add("slow_div")
    portal.turn()
    portal.shelf.missing.clear()
    portal.files(job_id).make()
    portal.start_program(job_id, scheduler_id="pid-12@node1")
    portal.turn(RETRY_SECONDS + 1)
    for _ in range(6):
        portal.beat(job_id)
        portal.turn(LOST_CALL_SECONDS + 3)
    assert portal.state(job_id) is JobState.SUBMITTING
    portal.end_program(job_id, output="The answer is: 4\n")
    portal.turn(LOOK_AGAIN_SECONDS)
    assert portal.state(job_id) is JobState.SUCCEEDED
    assert portal.scheduler.specs == []


# Fairness and the cap


def test_no_more_jobs_than_the_cap_are_in_the_scheduler() -> None:
    with opened_portal(limits={"max_in_scheduler": 3}) as portal:
        ids = accepted(portal, 5)
        portal.turn(times=3)
        assert len(portal.scheduler.specs) == 3
        done = ids[0]
        portal.start_program(done)
        portal.end_program(done)
        portal.see(done, SchedulerState.COMPLETED)
        portal.turn(times=2)
        assert portal.state(done) is JobState.SUCCEEDED
        assert len(portal.scheduler.specs) == 4


def test_everybodys_first_job_goes_in_before_anybodys_second() -> None:
    with opened_portal(limits={"max_in_scheduler": 2}) as portal:
        many = []
        for _ in range(12):
            many.append(portal.submit(owner="many@example.org"))
            portal.clock.advance(1)
        single = portal.submit(owner="single@example.org")
        portal.turn()
        assert portal.scheduler.submitted_names() == [portal.name(many[0]), portal.name(single)]


def test_what_somebody_has_in_the_scheduler_counts_when_the_next_is_chosen() -> None:
    """It is first come, first served there: what is in it already would stay ahead of the next visitor."""
    with opened_portal(limits={"max_in_scheduler": 10, "waiting_in_scheduler_per_person": 4}) as portal:
        many = []
        for _ in range(20):
            many.append(portal.submit(owner="many@example.org"))
            portal.clock.advance(1)
        portal.turn(times=3)
        assert portal.scheduler.submitted_names() == [portal.name(job_id) for job_id in many[:4]]
        single = portal.submit(owner="single@example.org")
        portal.start_program(many[0])
        portal.see(many[0], SchedulerState.RUNNING)
        portal.turn(times=2)
        names = [portal.name(single), portal.name(many[4])]
        assert portal.scheduler.submitted_names()[4:] == names


def test_jobs_of_one_person_go_in_in_the_order_in_which_they_came(portal: Portal) -> None:
    """Within one second, too."""
    ids = []
    for _ in range(6):
        ids.append(portal.submit())
        portal.clock.advance(0.001)
    portal.turn()
    assert portal.scheduler.submitted_names() == [portal.name(job_id) for job_id in ids]


def test_a_cap_of_the_default_size_is_kept_in_the_settings() -> None:
    assert LimitsSection().max_in_scheduler == 1000


# Another dispatcher takes over


def overtake(portal: Portal) -> Any:
    """Let another dispatcher take over in the middle of a submission; a function that says who holds what."""
    second = portal.new_dispatch()

    def take() -> None:
        # The lock was lost (a network file system forgot it): both believe that they hold it.
        second.leadership._raise_epoch()

    portal.scheduler.when_submitting = take
    return second


def test_one_that_was_overtaken_in_the_middle_changes_nothing_more(portal: Portal) -> None:
    job_id = portal.submit()
    second = overtake(portal)
    first = portal.dispatch
    with pytest.raises(StaleEpochError):
        portal.turn()
    before = portal.files(job_id).submission.read_text()
    assert portal.state(job_id) is JobState.SUBMITTING
    for step in (lambda: portal.dispatcher.turn(), lambda: submit_accepted(first)):
        portal.submit()
        portal.clock.advance(10)
        with pytest.raises(StaleEpochError):
            step()
    assert len(portal.scheduler.specs) == 1
    assert portal.files(job_id).submission.read_text() == before
    assert second.leadership.epoch > first.leadership.epoch


def test_the_one_that_took_over_finds_what_the_other_handed_in(portal: Portal) -> None:
    job_id = portal.submit()
    overtake(portal)
    with pytest.raises(StaleEpochError):
        portal.turn()
    portal.crash()
    portal.turn()
    assert portal.state(job_id) is JobState.QUEUED
    assert len(portal.scheduler.specs) == 1


def test_the_epoch_of_a_new_database_is_higher_than_that_of_the_lost_one(portal: Portal) -> None:
    """Files carry epochs and outlive the database: a new one that began at 1 could not change them any more."""
    job_id = portal.queued()
    for _ in range(5):
        portal.crash()
    epoch = portal.dispatch.leadership.epoch
    portal.clock.advance(60)
    portal.lose_database()
    assert portal.dispatch.leadership.epoch > epoch
    assert portal.dispatch.leadership.previous_epoch == 0
    portal.make_old(job_id, seconds=3600)
    portal.turn(times=2)
    assert portal.state(job_id) is JobState.QUEUED


@pytest.mark.parametrize("text", ['{"epoch": 99999999999999}', "[" * 50_000, '{"epoch": "x"}', "[]"])
def test_a_spoilt_file_stops_no_dispatcher(portal: Portal, text: str) -> None:
    job_id = portal.submit()
    portal.scheduler.submit_answers[portal.name(job_id)] = [Deferred("full")]
    portal.turn()
    portal.files(job_id).submission.write_text(text)
    portal.turn(RETRY_SECONDS, times=2)
    assert portal.state(job_id) is JobState.QUEUED
    assert json.loads(portal.files(job_id).submission.read_text())["epoch"] == portal.dispatch.leadership.epoch


def test_a_second_dispatcher_waits_for_the_lock_and_then_raises_the_epoch(portal: Portal) -> None:
    second = portal.new_dispatch().leadership
    is_stopped = threading.Event()
    is_stopped.set()
    assert not second.take(is_stopped)
    portal.dispatch.leadership.release()
    portal.dispatch.leadership.release()
    assert second.take(threading.Event())
    assert second.epoch == portal.dispatch.leadership.epoch + 1
    second.release()


def test_a_dispatcher_that_could_not_raise_the_epoch_lets_go_of_the_lock(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal.dispatch.leadership.release()
    second = portal.new_dispatch().leadership
    with monkeypatch.context() as patch:
        patch.setattr(Session, "commit", lambda _session: (_ for _ in ()).throw(StorageError("full")))
        with pytest.raises(StorageError):
            second.take(threading.Event())
    assert second.epoch == 0
    assert second.take(threading.Event())
    second.release()
