"""A job runs again: what may be asked for, what the dispatcher makes of it, and that nothing of it gets lost."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from portal.dispatch import resubmission as dispatch_resubmission
from portal.dispatch.records import write_verdict
from portal.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError, TooManyRequestsError
from portal.jobs.access import Viewer
from portal.jobs.changes import read_resubmit_wish
from portal.jobs.keys import Purpose
from portal.jobs.resubmission import Changes
from portal.jobs.states import FailureReason, JobState
from portal.schedulers.base import SchedulerState, Unknown
from tests.portal_parts import ADMINISTRATOR, ANN, Portal, opened_portal
from tests.scripted_scheduler import Lost


@pytest.fixture
def portal() -> Iterator[Portal]:
    with opened_portal() as portal:
        yield portal


def failed(portal: Portal, **more: Any) -> str:
    """A job whose program has failed."""
    job_id = portal.running(**more)
    portal.end_program(job_id, exit_code=3)
    portal.see(job_id, SchedulerState.FAILED, node="node1")
    portal.turn()
    assert portal.state(job_id) is JobState.FAILED
    return job_id


def held(portal: Portal) -> str:
    """A job whose node died, and whose application leaves it to an administrator."""
    job_id = portal.running(application="held", x="1")
    portal.see(job_id, SchedulerState.NODE_FAILURE, "NODE_FAIL", node="node1")
    portal.turn_past_grace()
    assert portal.job(job_id).failure_reason is FailureReason.NODE_FAILURE
    return job_id


def numbers(portal: Portal, job_id: str) -> list[int]:
    return [attempt.number for attempt in portal.record(job_id).attempts]


def reindex(portal: Portal) -> None:
    """As `portal reindex`; by the portal's own clock, which stands elsewhere than the disk's."""
    for job_id in portal.folder.job_ids():
        portal.make_old(job_id, 1)
    report = portal.adoption.adopt_orphans(0)
    assert (report.adopted, report.unreadable) == (1, 0)


def owner_viewer(portal: Portal, job_id: str) -> Viewer:
    return Viewer(owner_key=portal.keys.key(Purpose.OWNER, job_id, 1))


# What comes of it


def test_a_failed_job_runs_again_and_mails_again(portal: Portal) -> None:
    job_id = failed(portal)
    assert portal.resubmit(job_id)
    portal.turn(times=2)
    assert (portal.state(job_id), numbers(portal, job_id)) == (JobState.QUEUED, [1, 2])
    assert portal.markers(job_id) == []
    assert portal.start_program(job_id)
    portal.end_program(job_id, output="The answer is: 4\n")
    portal.see(job_id, SchedulerState.COMPLETED)
    portal.turn(times=2)
    assert portal.state(job_id) is JobState.SUCCEEDED
    assert portal.markers(job_id) == ["SUCCESS"]
    assert portal.mails(job_id) == ["failed", "succeeded"]
    record = portal.record(job_id)
    assert record.result is not None
    assert (record.result.answer, record.result.attempt_number) == ("4", 2)


def test_the_history_says_who_asked_and_for_what(portal: Portal) -> None:
    job_id = failed(portal)
    portal.resubmit(job_id, memory_mib=16384, exclude_nodes=("node1",))
    portal.turn()
    event = next(event for event in portal.record(job_id).events if event.source == "wish")
    assert (event.from_state, event.to_state, event.by) == (JobState.FAILED, JobState.ACCEPTED, "administrator")
    assert event.detail == "It was asked that it run again, with 16 GiB of memory, not on node1."


def test_the_new_attempt_gets_the_memory_and_the_nodes_that_were_asked_for(portal: Portal) -> None:
    job_id = held(portal)
    portal.resubmit(job_id, memory_mib=4096, time_limit_minutes=120, exclude_nodes=("node1",))
    portal.turn(times=2)
    spec = portal.scheduler.specs[-1]
    assert (spec.memory_mib, spec.time_limit_minutes, spec.exclude_nodes) == (4096, 120, ("node1",))
    assert "memory_mib = 4096" in portal.files(job_id).config.read_text()
    assert "memory_mib = 256" in portal.directory(job_id).config.read_text(), "what was asked for at first stays"


def test_a_zombie_of_the_old_attempt_changes_nothing(portal: Portal) -> None:
    job_id = held(portal)
    portal.resubmit(job_id)
    portal.turn(times=2)
    portal.end_program(job_id, number=1, output="The answer is: 666\n")
    portal.turn(40, times=3)
    assert portal.state(job_id) is JobState.QUEUED
    assert portal.markers(job_id) == []
    portal.start_program(job_id)
    portal.end_program(job_id, output="fine\n")
    portal.see(job_id, SchedulerState.COMPLETED)
    portal.turn(times=2)
    assert portal.state(job_id) is JobState.SUCCEEDED
    assert (portal.directory(job_id).path / "output.txt").read_text() == "fine\n"


def test_what_may_live_on_is_cancelled_in_the_scheduler(portal: Portal) -> None:
    job_id = held(portal)
    portal.resubmit(job_id)
    portal.turn()
    assert [handle.name for handle in portal.scheduler.cancelled] == [portal.record(job_id).attempts[0].scheduler_name]


def test_an_attempt_that_never_started_can_start_no_more(portal: Portal) -> None:
    job_id = portal.queued(application="held", x="1")
    portal.see(job_id, SchedulerState.FAILED)
    portal.turn_past_grace()
    assert portal.job(job_id).failure_reason is FailureReason.LAUNCH_FAILED
    portal.resubmit(job_id)
    portal.turn()
    assert not portal.start_program(job_id, number=1)
    assert portal.start_program(job_id, number=2)


def test_a_cancelled_job_runs_again_when_it_is_named(portal: Portal) -> None:
    job_id = portal.submit()
    portal.ask_cancel(job_id)
    portal.turn()
    assert portal.state(job_id) is JobState.CANCELLED
    portal.resubmit(job_id)
    portal.turn(times=2)
    assert portal.state(job_id) is JobState.QUEUED
    assert portal.job(job_id).cancel_asked_at is None


def test_a_success_runs_again_when_it_is_named_and_its_old_answer_is_kept_on_disk(portal: Portal) -> None:
    job_id = portal.running()
    portal.end_program(job_id, output="The answer is: 4\n")
    portal.see(job_id, SchedulerState.COMPLETED)
    portal.turn(times=2)
    portal.resubmit(job_id)
    portal.turn(times=2)
    assert portal.record(job_id).result is None
    portal.crash()
    portal.turn()
    verdict = json.loads(portal.files(job_id, 1).verdict.read_text())
    assert (verdict["answer"], verdict["source"], verdict["next_attempt"]) == ("4", "status_file", 2)


# Asking twice, and in between


def test_asking_twice_is_asking_once(portal: Portal) -> None:
    job_id = failed(portal)
    assert portal.resubmit(job_id, memory_mib=512)
    assert not portal.resubmit(job_id, memory_mib=1024)
    portal.turn(times=3)
    assert numbers(portal, job_id) == [1, 2]
    assert portal.job(job_id).resources["memory_mib"] == 512


def test_a_second_click_after_the_new_attempt_was_opened_does_nothing(portal: Portal) -> None:
    job_id = failed(portal)
    assert portal.resubmission.ask(ADMINISTRATOR, job_id, after_attempt=1)
    portal.turn()
    assert not portal.resubmission.ask(ADMINISTRATOR, job_id, after_attempt=1)
    portal.turn()
    assert numbers(portal, job_id) == [1, 2]


def test_the_wish_stands_on_disk_before_anything_else(portal: Portal) -> None:
    job_id = failed(portal)
    portal.resubmit(job_id, memory_mib=512)
    wish = read_resubmit_wish(portal.directory(job_id))
    assert wish is not None
    assert (wish.after_attempt, wish.by, wish.resources["memory_mib"]) == (1, "administrator", 512)


def test_a_restart_carries_the_wish_out(portal: Portal) -> None:
    job_id = failed(portal)
    portal.resubmit(job_id)
    portal.crash()
    portal.turn(times=2)
    assert (portal.state(job_id), numbers(portal, job_id)) == (JobState.QUEUED, [1, 2])


def test_a_wish_survives_the_loss_of_the_database(portal: Portal) -> None:
    job_id = failed(portal)
    portal.turn()
    portal.resubmit(job_id, memory_mib=512, exclude_nodes=("node1",))
    portal.lose_database()
    reindex(portal)
    portal.turn(times=2)
    assert (portal.state(job_id), numbers(portal, job_id)) == (JobState.QUEUED, [1, 2])
    assert portal.job(job_id).resources["memory_mib"] == 512
    assert portal.attempt(job_id).excluded_nodes == ["node1"]


def test_an_attempt_that_was_asked_for_survives_the_loss_of_the_database(portal: Portal) -> None:
    """Before its folder was made, and after."""
    job_id = failed(portal)
    portal.resubmit(job_id, memory_mib=512, exclude_nodes=("node1",))
    portal.shelf.missing.add("slow_div")
    portal.turn()
    assert numbers(portal, job_id) == [1, 2]
    portal.shelf.missing.clear()
    for _ in range(2):
        portal.lose_database()
        reindex(portal)
        portal.turn(40, times=2)
        assert (portal.state(job_id), numbers(portal, job_id)) == (JobState.QUEUED, [1, 2])
        assert portal.job(job_id).resources["memory_mib"] == 512
        assert portal.attempt(job_id).excluded_nodes == ["node1"]
    assert portal.mails(job_id) == ["failed"], "what had been told, or was going to be"


def test_a_wish_that_was_carried_out_is_not_carried_out_again_after_the_database_is_lost(portal: Portal) -> None:
    job_id = failed(portal)
    portal.resubmit(job_id)
    portal.turn(times=2)
    portal.start_program(job_id)
    portal.end_program(job_id, exit_code=4)
    portal.see(job_id, SchedulerState.FAILED)
    portal.turn(times=2)
    assert portal.state(job_id) is JobState.FAILED
    portal.lose_database()
    reindex(portal)
    portal.turn(times=3)
    assert (portal.state(job_id), numbers(portal, job_id)) == (JobState.FAILED, [1, 2])


def test_a_scheduler_that_is_out_of_reach_delays_it_and_loses_nothing(portal: Portal) -> None:
    job_id = held(portal)
    portal.scheduler.is_out = True
    portal.resubmit(job_id)
    portal.turn(10, times=2)
    assert numbers(portal, job_id) == [1]
    portal.scheduler.is_out = False
    portal.turn(10)
    assert numbers(portal, job_id) == [1, 2]


def test_a_job_that_turned_out_to_have_succeeded_does_not_run_again(portal: Portal) -> None:
    job_id = held(portal)
    portal.scheduler.is_out = True
    portal.resubmit(job_id)
    portal.turn(10)
    portal.end_program(job_id, output="late\n")
    portal.turn(40)
    assert portal.state(job_id) is JobState.SUCCEEDED
    portal.scheduler.is_out = False
    portal.turn(10, times=2)
    assert (portal.state(job_id), numbers(portal, job_id)) == (JobState.SUCCEEDED, [1])
    assert "it has succeeded since" in portal.record(job_id).events[-1].detail


# Who may ask for what


def test_an_owner_may_and_the_holder_of_the_mailed_link_may_not(portal: Portal) -> None:
    job_id = failed(portal)
    with pytest.raises(ForbiddenError):
        portal.resubmission.ask(Viewer(viewed={job_id: 1}), job_id)
    with pytest.raises(NotFoundError):
        portal.resubmission.ask(Viewer(), job_id)
    assert portal.resubmission.ask(owner_viewer(portal, job_id), job_id)
    portal.turn()
    assert [event.by for event in portal.record(job_id).events if event.source == "wish"] == [ANN]


def test_an_owner_stays_within_what_the_application_allows(portal: Portal) -> None:
    job_id = failed(portal)
    viewer = owner_viewer(portal, job_id)
    with pytest.raises(InvalidInputError) as refused:
        portal.resubmission.ask(viewer, job_id, Changes(memory_mib=100_000, exclude_nodes=("node1",)))
    assert set(refused.value.field_errors) == {"memory_mib", "exclude_node"}
    assert "from 1 to" in refused.value.field_errors["memory_mib"]


def test_an_administrator_may_go_beyond_that_but_not_to_nonsense(portal: Portal) -> None:
    job_id = failed(portal)
    with pytest.raises(InvalidInputError, match="Memory: should be from 1 to"):
        portal.resubmit(job_id, memory_mib=10**12)
    assert portal.resubmit(job_id, memory_mib=100_000)


def test_the_portals_own_queue_says_that_it_leaves_no_node_out(portal: Portal) -> None:
    job_id = failed(portal)
    portal.resubmission.can_exclude_nodes = False
    with pytest.raises(InvalidInputError, match="cannot leave nodes out"):
        portal.resubmit(job_id, exclude_nodes=("node1",))


def test_a_job_that_has_not_ended_is_refused(portal: Portal) -> None:
    job_id = portal.running()
    with pytest.raises(ConflictError, match="has not ended: it is running"):
        portal.resubmit(job_id)
    with pytest.raises(ForbiddenError, match="Only an administrator"):
        portal.resubmission.ask(owner_viewer(portal, job_id), job_id, unfinished=True)


def test_a_job_whose_application_has_gone_is_refused(portal: Portal) -> None:
    job_id = failed(portal)
    portal.shelf.missing.add("slow_div")
    with pytest.raises(ConflictError, match="application"):
        portal.resubmit(job_id)


def test_an_owner_who_has_as_many_active_jobs_as_are_allowed_waits() -> None:
    with opened_portal(limits={"active_jobs_per_person": 1}) as portal:
        job_id = failed(portal)
        portal.submit()
        with pytest.raises(TooManyRequestsError):
            portal.resubmission.ask(owner_viewer(portal, job_id), job_id)
        assert portal.resubmit(job_id), "an administrator is not held up"


# Jobs that have not ended


def test_a_job_that_the_scheduler_has_is_never_run_again(portal: Portal) -> None:
    waiting, running = portal.queued(), portal.running()
    for job_id in (waiting, running):
        portal.resubmit(job_id, unfinished=True)
    portal.turn(10, times=2)
    for job_id in (waiting, running):
        assert numbers(portal, job_id) == [1]
        assert portal.job(job_id).resubmit_asked_at is None
        assert "it is alive in the scheduler" in portal.record(job_id).events[-1].detail


def test_nothing_happens_while_the_scheduler_does_not_answer(portal: Portal) -> None:
    job_id = portal.queued()
    portal.scheduler.is_out = True
    portal.resubmit(job_id, unfinished=True)
    portal.turn(100, times=3)
    assert (portal.state(job_id), numbers(portal, job_id)) == (JobState.QUEUED, [1])
    portal.scheduler.is_out = False
    portal.turn(10)
    assert numbers(portal, job_id) == [1]


def test_what_a_scheduler_without_accounting_has_forgotten_runs_again() -> None:
    with opened_portal(has_accounting=False) as portal:
        job_id = portal.queued()
        portal.scheduler.forget(portal.name(job_id))
        portal.turn_past_grace()
        assert portal.state(job_id) is JobState.QUEUED, "absence proves nothing there"
        portal.resubmit(job_id, unfinished=True)
        portal.turn(10, times=2)
        assert (portal.state(job_id), numbers(portal, job_id)) == (JobState.QUEUED, [1, 2])
        assert not portal.start_program(job_id, number=1), "a late start of the old attempt exits"
        assert portal.mails(job_id) == []


def test_a_program_whose_heart_beats_is_not_run_a_second_time() -> None:
    with opened_portal(has_accounting=False) as portal:
        job_id = portal.running()
        portal.scheduler.forget(portal.name(job_id))
        portal.turn_past_grace()
        portal.resubmit(job_id, unfinished=True)
        for _ in range(5):
            portal.beat(job_id)
            portal.turn(70)
        assert numbers(portal, job_id) == [1]
        portal.turn(70, times=2)
        assert numbers(portal, job_id) == [1, 2], "its heart has stopped"


def test_a_submission_that_nobody_can_look_up_goes_in_again_behind_the_claim(portal: Portal) -> None:
    job_id = portal.submit()
    name = portal.name(job_id)
    portal.scheduler.submit_answers[name] = [Lost(is_in=True)]
    portal.scheduler.find_answers[name] = Unknown("accounting does not answer")
    portal.turn(times=2)
    assert portal.state(job_id) is JobState.SUBMITTING
    portal.resubmit(job_id, unfinished=True)
    portal.turn(10, times=2)
    assert (portal.state(job_id), numbers(portal, job_id)) == (JobState.QUEUED, [1, 2])
    assert not portal.start_program(job_id, number=1, scheduler_id="101")


def test_one_that_was_never_handed_in_goes_in_as_it_is_with_what_was_asked_for(portal: Portal) -> None:
    job_id = portal.submit()
    portal.resubmit(job_id, unfinished=True, memory_mib=512)
    portal.turn()
    assert (portal.state(job_id), numbers(portal, job_id)) == (JobState.QUEUED, [1])
    assert portal.scheduler.specs[-1].memory_mib == 512


def test_one_that_ended_by_itself_meanwhile_is_left_alone_and_one_that_was_lost_runs_again(portal: Portal) -> None:
    ended = portal.running(application="held", x="1")
    lost = portal.running(application="held", x="2")
    portal.scheduler.is_out = True
    for job_id in (ended, lost):
        portal.resubmit(job_id, unfinished=True)
    portal.turn(10)
    portal.end_program(ended, exit_code=3)
    portal.scheduler.is_out = False
    portal.see(ended, SchedulerState.FAILED)
    portal.see(lost, SchedulerState.NODE_FAILURE, node="node1")
    portal.turn(10)
    portal.turn_past_grace()
    portal.turn(10)
    assert (portal.state(ended), numbers(portal, ended)) == (JobState.FAILED, [1])
    assert "it has ended by itself since" in portal.record(ended).events[-1].detail
    assert numbers(portal, lost) == [1, 2]


def test_a_cancellation_that_comes_later_wins(portal: Portal) -> None:
    job_id = portal.queued()
    portal.scheduler.is_out = True
    portal.resubmit(job_id, unfinished=True)
    portal.ask_cancel(job_id)
    portal.turn(10)
    assert portal.job(job_id).resubmit_asked_at is None
    assert "cancellation was asked for" in portal.record(job_id).events[-1].detail


def test_one_that_is_deleted_while_it_is_carried_out_stays_deleted(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = failed(portal)
    portal.resubmit(job_id)
    put_out = dispatch_resubmission._put_out_of_the_way

    def put_out_and_delete(*arguments: Any, **options: Any) -> bool:
        portal.jobs.ask_delete(ADMINISTRATOR, job_id)
        return put_out(*arguments, **options)

    monkeypatch.setattr(dispatch_resubmission, "_put_out_of_the_way", put_out_and_delete)
    portal.turn(times=3)
    assert portal.job_count() == 0
    assert portal.job_folders() == []


@pytest.mark.parametrize("moment", ["before", "meanwhile"])
def test_a_late_success_is_believed_and_the_job_does_not_run_again(
    portal: Portal, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Its node may have mailed it: whatever is opened after that would be told as well."""
    job_id = held(portal)
    portal.resubmit(job_id)
    if moment == "before":
        portal.end_program(job_id)
    else:

        def write(*arguments: Any) -> None:
            write_verdict(*arguments)
            portal.end_program(job_id)

        monkeypatch.setattr(dispatch_resubmission, "write_verdict", write)
    portal.turn(times=2)
    assert (portal.state(job_id), numbers(portal, job_id)) == (JobState.SUCCEEDED, [1])
    assert json.loads(portal.files(job_id).verdict.read_text())["next_attempt"] is None
    portal.turn(10)
    assert portal.job(job_id).resubmit_asked_at is None


def test_a_wish_that_came_to_nothing_does_not_come_back_from_the_files(portal: Portal) -> None:
    job_id = portal.running()
    portal.resubmit(job_id, unfinished=True)
    portal.see(job_id, SchedulerState.RUNNING)
    portal.turn(10)
    assert portal.job(job_id).resubmit_asked_at is None
    assert read_resubmit_wish(portal.directory(job_id)) is None


def test_a_cancellation_while_an_unfinished_job_is_replaced_wins(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = portal.queued()
    portal.resubmit(job_id, unfinished=True)
    replace = dispatch_resubmission._replace

    def replace_late(*arguments: Any, **options: Any) -> None:
        if portal.job(job_id).cancel_asked_at is None:
            portal.ask_cancel(job_id)
        replace(*arguments, **options)

    monkeypatch.setattr(dispatch_resubmission, "_replace", replace_late)
    portal.see(job_id, SchedulerState.NOT_FOUND)
    portal.turn(10)
    portal.turn_past_grace()
    portal.turn(10, times=2)
    assert numbers(portal, job_id) == [1]
    assert portal.job(job_id).cancel_asked_at is not None


# Many at once


def test_one_whose_directory_is_away_does_not_hold_up_the_others(portal: Portal) -> None:
    away, good = failed(portal), failed(portal)
    portal.directory(away).path.rename(portal.folder.root / "elsewhere")
    report = portal.resubmission.ask_many(ADMINISTRATOR, [(away, 1), (good, 1)])
    assert (report.asked, set(report.refused)) == ([good], {away})
    assert "the job does not run again" in report.refused[away].visitor_message
    assert portal.job(good).resubmit_asked_at is not None


def test_one_that_cannot_does_not_hold_up_the_others(portal: Portal) -> None:
    bad, good, again = portal.queued(), failed(portal), failed(portal)
    portal.resubmit(again)
    report = portal.resubmission.ask_many(
        ADMINISTRATOR, [(bad, None), (good, 1), (again, 1), ("bcdfghjk", None), (good, 1)]
    )
    assert (report.asked, report.already, set(report.refused)) == ([good], [again], {bad, "bcdfghjk"})


def test_a_dry_run_asks_for_nothing(portal: Portal) -> None:
    job_id = failed(portal)
    assert portal.resubmission.ask_many(ADMINISTRATOR, [(job_id, 1)], dry_run=True).asked == [job_id]
    assert portal.job(job_id).resubmit_asked_at is None
    assert read_resubmit_wish(portal.directory(job_id)) is None
