"""`portal reindex`: a database that is lost, or an older copy, is brought up to the job directories."""

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import inspect, select

from portal.applications.values import Upload
from portal.dispatch.adoption import AdoptionReport
from portal.dispatch.leadership import Leadership
from portal.dispatch.reindexing import Reindexing
from portal.jobs.acceptance import Submission
from portal.jobs.access import Viewer
from portal.jobs.models import Attempt, Job, JobEvent, JobInput, JobResult, MailOutbox
from portal.jobs.states import FINAL_STATES, FailureReason, JobState
from portal.mail.outbox import mail_domain
from portal.people.sessions import BrowserSession, session_id_of
from portal.schedulers.base import Rejected, SchedulerState
from tests.portal_parts import Portal, opened_portal

S = SchedulerState
ANY_AGE = -1e9

MAY_DIFFER = {
    # Counts changes of which the files tell only some.
    Job: {"version"},
    # The dispatcher's notes on what it is waiting for; they begin anew.
    Attempt: {"expected_start_at", "end_seen_at", "next_try_at"},
    JobInput: set(),
    JobResult: set(),
    # When it was owed is told by the program's end instead of the dispatcher's look; tries are not written down, nor
    # with which others it went out.
    MailOutbox: {"mail_id", "created_at", "next_try_at", "tries", "last_error", "digest_id"},
}
"""Columns that files do not tell. Everything else is the same, times to the second."""


@pytest.fixture
def portal() -> Iterator[Portal]:
    with opened_portal() as portal:
        yield portal


def reindex(portal: Portal) -> AdoptionReport:
    """As the command does it, with no dispatcher at work; one begins afterwards."""
    portal.dispatch.leadership.release()
    report = reindexing(portal).run()
    portal.take_over()
    return report


def reindexing(portal: Portal) -> Reindexing:
    leadership = Leadership(portal.database, portal.clock)
    domain = mail_domain(portal.settings)
    return Reindexing(portal.database, portal.folder, portal.adoption, leadership, portal.scheduler, domain)


def accepted(portal: Portal) -> str:
    return portal.submit()


def with_all_inputs(portal: Portal) -> str:
    inputs = {"x": "-n $(date)", "sequence": ">one\nACGT\n", "query": Upload("my query.fa", b"ACGT")}
    submission = Submission(
        "any_inputs", inputs, "Ann@Example.org", token="t" * 32, session_id=session_id_of("a browser")
    )
    return portal.jobs.submit(submission).job_id


def queued(portal: Portal) -> str:
    return portal.queued()


def running(portal: Portal) -> str:
    return portal.running()


def succeeded(portal: Portal) -> str:
    job_id = portal.running()
    portal.end_program(job_id, output="The answer is: 4\n")
    portal.see(job_id, S.COMPLETED, node="node1")
    portal.turn()
    return job_id


def program_error(portal: Portal) -> str:
    job_id = portal.running()
    portal.end_program(job_id, 3)
    portal.see(job_id, S.FAILED, node="node1")
    portal.turn_past_grace()
    return job_id


def failed_by(state: SchedulerState) -> Callable[[Portal], str]:
    def fail(portal: Portal) -> str:
        job_id = portal.running(application="held")
        portal.see(job_id, state, state.name, node="node1")
        portal.turn_past_grace()
        return job_id

    return fail


def lost(portal: Portal) -> str:
    job_id = portal.running(application="held")
    portal.scheduler.forget(portal.name(job_id))
    portal.turn_past_grace()
    portal.turn(times=2)
    return job_id


def rejected(portal: Portal) -> str:
    job_id = portal.submit()
    portal.scheduler.submit_answers[portal.name(job_id)] = [Rejected("no such partition")]
    portal.turn()
    return job_id


def cancelled(portal: Portal) -> str:
    job_id = portal.running()
    portal.ask_cancel(job_id)
    portal.see(job_id, S.CANCELLED, node="node1")
    portal.turn_past_grace()
    return job_id


def cancelled_at_once(portal: Portal) -> str:
    job_id = portal.submit()
    portal.ask_cancel(job_id)
    portal.turn()
    return job_id


def resubmitted(portal: Portal) -> str:
    """Attempt 1 was on a node that died, attempt 2 succeeded."""
    job_id = on_second_attempt(portal)
    portal.turn()
    portal.start_program(job_id)
    portal.see(job_id, S.RUNNING, node="node2")
    portal.turn()
    portal.end_program(job_id)
    portal.see(job_id, S.COMPLETED, node="node2")
    portal.turn()
    return job_id


def on_second_attempt(portal: Portal) -> str:
    job_id = portal.running()
    portal.see(job_id, S.NODE_FAILURE, node="node1")
    portal.turn_past_grace()
    portal.turn()
    return job_id


def corrected(portal: Portal) -> str:
    """A node was thought dead, its visitor was told, and it came back."""
    job_id = failed_by(S.NODE_FAILURE)(portal)
    portal.sender.send_due()
    portal.end_program(job_id)
    portal.turn(31)
    return job_id


MADE: dict[str, tuple[Callable[[Portal], str], JobState, FailureReason | None]] = {
    "succeeded": (succeeded, JobState.SUCCEEDED, None),
    "program error": (program_error, JobState.FAILED, FailureReason.PROGRAM_ERROR),
    "time limit": (failed_by(S.TIME_LIMIT), JobState.FAILED, FailureReason.TIME_LIMIT),
    "out of memory": (failed_by(S.OUT_OF_MEMORY), JobState.FAILED, FailureReason.OUT_OF_MEMORY),
    "node failure": (failed_by(S.NODE_FAILURE), JobState.FAILED, FailureReason.NODE_FAILURE),
    "preempted": (failed_by(S.PREEMPTED), JobState.FAILED, FailureReason.PREEMPTED),
    "lost": (lost, JobState.FAILED, FailureReason.LOST),
    "rejected": (rejected, JobState.FAILED, FailureReason.REJECTED),
    "cancelled": (cancelled, JobState.CANCELLED, None),
    "cancelled at once": (cancelled_at_once, JobState.CANCELLED, None),
    "resubmitted": (resubmitted, JobState.SUCCEEDED, None),
    "corrected": (corrected, JobState.SUCCEEDED, None),
    "running": (running, JobState.RUNNING, None),
    "on second attempt": (on_second_attempt, JobState.QUEUED, None),
    "queued": (queued, JobState.QUEUED, None),
    "accepted": (accepted, JobState.ACCEPTED, None),
    "with all inputs": (with_all_inputs, JobState.ACCEPTED, None),
}


def make_all(portal: Portal) -> dict[str, str]:
    """A job in every state, by what became of it; the mail of all but one has gone out."""
    ids = {}
    for word, (make, state, reason) in MADE.items():
        if word == "accepted":
            portal.turn()  # what came before is settled; these last ones stay as they are
            portal.sender.send_due()
            owing = succeeded(portal)
        ids[word] = make(portal)
        job = portal.job(ids[word])
        assert (job.state, job.failure_reason) == (state, reason), word
    return ids | {"owed its mail": owing}


def rows(portal: Portal, model: Any, job_id: str) -> list[dict[str, Any]]:
    """The rows of a job, times in whole seconds."""
    with portal.database.reading() as session:
        found = session.scalars(select(model).where(model.job_id == job_id)).all()
    columns = [column.key for column in inspect(model).column_attrs if column.key not in MAY_DIFFER.get(model, set())]
    plain = [{name: _to_the_second(getattr(row, name)) for name in columns} for row in found]
    return sorted(plain, key=lambda row: json.dumps(row, default=str, sort_keys=True))


def _to_the_second(value: Any) -> Any:
    return value.replace(microsecond=0) if isinstance(value, datetime) else value


def everything(portal: Portal, job_id: str) -> dict[str, list[dict[str, Any]]]:
    return {model.__tablename__: rows(portal, model, job_id) for model in MAY_DIFFER}


def history(portal: Portal, job_id: str) -> list[JobEvent]:
    return list(portal.record(job_id).events)


def is_part_of(some: list[JobState], all_of_them: list[JobState]) -> bool:
    rest = iter(all_of_them)
    return all(state in rest for state in some)


@pytest.mark.thorough
def test_an_empty_database_is_built_again_row_by_row(portal: Portal) -> None:
    ids = make_all(portal)
    before = {word: everything(portal, job_id) for word, job_id in ids.items()}
    told = {word: history(portal, job_id) for word, job_id in ids.items()}
    sent, in_scheduler = len(portal.mail.messages), portal.scheduler.submitted_names()
    portal.lose_database()
    report = reindex(portal)
    assert report == AdoptionReport(adopted=len(ids))
    for word, job_id in ids.items():
        if portal.state(job_id) in FINAL_STATES or portal.state(job_id) is JobState.ACCEPTED:
            assert everything(portal, job_id) == before[word], word
    waiting = {ids["accepted"], ids["with all inputs"]}
    for job_id in waiting:
        portal.scheduler.submit_answers[portal.name(job_id)] = []
    portal.turn(times=2)
    portal.sender.send_due()
    alive = [word for word, job_id in ids.items() if not portal.state(job_id).is_final and job_id not in waiting]
    assert sorted(alive) == ["on second attempt", "queued", "running"]
    for word in alive:
        # What the scheduler has is looked up by its name, and is as it was.
        assert everything(portal, ids[word]) == before[word], word
    assert len(portal.mail.messages) == sent + 1, "the one that was owed"
    again = portal.scheduler.submitted_names()[len(in_scheduler) :]
    assert sorted(again) == sorted(portal.name(job_id) for job_id in waiting), "nothing goes in twice"
    for word, job_id in ids.items():
        if job_id not in waiting:
            states = [event.to_state for event in told[word]]
            restored = history(portal, job_id)
            assert is_part_of([one.to_state for one in restored if one.from_state is not one.to_state], states), word
            assert (restored[0].to_state, restored[-1].to_state) == (states[0], states[-1]), word
            if portal.state(job_id).is_final:
                end = (restored[-1].source, restored[-1].detail, restored[-1].by)
                assert end == (told[word][-1].source, told[word][-1].detail, told[word][-1].by), word
    with portal.database.reading() as session:
        assert session.get(BrowserSession, session_id_of("a browser")) is not None


@pytest.mark.thorough
def test_reindexing_twice_changes_nothing(portal: Portal) -> None:
    ids = make_all(portal)
    before = {word: (everything(portal, job_id), len(history(portal, job_id))) for word, job_id in ids.items()}
    assert reindex(portal) == AdoptionReport()
    assert {word: (everything(portal, i), len(history(portal, i))) for word, i in ids.items()} == before
    portal.lose_database()
    reindex(portal)
    after = {word: (everything(portal, job_id), len(history(portal, job_id))) for word, job_id in ids.items()}
    assert reindex(portal) == AdoptionReport()
    assert {word: (everything(portal, i), len(history(portal, i))) for word, i in ids.items()} == after


# A database that was restored from an older copy


def restore(portal: Portal, copy: Path) -> None:
    portal.close()
    for file in portal.folder_path.glob("portal.db*"):
        file.unlink()
    shutil.copyfile(copy, portal.folder_path / "portal.db")
    portal.open_database()
    portal.take_over()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tmp_path / "copy.db"


def test_what_happened_since_the_copy_was_made_is_taken_up(portal: Portal, copy: Path) -> None:
    states = {
        "was accepted, has succeeded": portal.submit(),
        "was running, has failed": portal.running(),
        "was running, is on its second attempt": portal.running(),
        "runs as before": portal.running(),
    }
    older = succeeded(portal)
    portal.sender.send_due()
    portal.database.copy_to(copy)
    first, failed, second, _ = states.values()
    portal.turn()
    portal.start_program(first)
    portal.end_program(first, output="The answer is: 4\n")
    portal.see(first, S.COMPLETED)
    portal.end_program(failed, 3)
    portal.see(failed, S.FAILED)
    portal.see(second, S.NODE_FAILURE, node="node1")
    portal.turn_past_grace()
    portal.turn(times=2)
    portal.sender.send_due()
    since = succeeded(portal)
    portal.sender.send_due()
    ids = [*states.values(), older, since]
    before = {job_id: everything(portal, job_id) for job_id in ids}
    sent, handed_in = len(portal.mail.messages), portal.scheduler.submitted_names()
    restore(portal, copy)
    report = reindex(portal)
    assert report == AdoptionReport(adopted=1, renewed=3)
    portal.turn(times=3)
    portal.sender.send_due()
    for job_id in ids:
        assert everything(portal, job_id) == before[job_id]
    assert len(portal.mail.messages) == sent, "nobody gets a mail twice"
    assert portal.scheduler.submitted_names() == handed_in, "nothing goes in twice"
    assert [event.to_state for event in history(portal, failed)] == [
        JobState.ACCEPTED,
        JobState.SUBMITTING,
        JobState.QUEUED,
        JobState.RUNNING,
        JobState.FAILED,
    ]


def test_a_correction_since_the_copy_is_taken_up(portal: Portal, copy: Path) -> None:
    job_id = failed_by(S.NODE_FAILURE)(portal)
    portal.sender.send_due()
    portal.database.copy_to(copy)
    portal.end_program(job_id)
    portal.turn(31)
    portal.sender.send_due()
    before = everything(portal, job_id)
    assert portal.state(job_id) is JobState.SUCCEEDED
    restore(portal, copy)
    assert reindex(portal) == AdoptionReport(renewed=1)
    assert everything(portal, job_id) == before


def test_wishes_since_the_copy_are_heard(portal: Portal, copy: Path) -> None:
    to_cancel, to_delete, to_run_again = portal.running(), succeeded(portal), succeeded(portal)
    portal.database.copy_to(copy)
    portal.resubmit(to_run_again)
    portal.ask_cancel(to_cancel)
    portal.jobs.ask_delete(Viewer(is_administrator=True), to_delete)
    restore(portal, copy)
    assert reindex(portal) == AdoptionReport(renewed=3)
    assert portal.job(to_run_again).resubmit_asked_at is not None
    portal.turn()
    assert [handle.name for handle in portal.scheduler.cancelled] == [portal.name(to_cancel)]
    assert portal.job_count() == 2
    assert portal.record(to_run_again).job.attempt_number == 2


def test_a_portal_that_has_another_name_since_mails_nobody_again(portal: Portal) -> None:
    job_id = succeeded(portal)
    portal.sender.send_due()
    [before] = portal.record(job_id).mails
    portal.lose_database()
    portal.adoption._mail_domain = "new.example.org"
    assert reindex(portal) == AdoptionReport(adopted=1)
    [after] = portal.record(job_id).mails
    assert after.sent_at is not None
    assert after.message_id == before.message_id


def test_a_job_that_was_deleted_since_the_copy_is_forgotten(portal: Portal, copy: Path) -> None:
    kept, gone = succeeded(portal), succeeded(portal)
    portal.database.copy_to(copy)
    portal.jobs.ask_delete(Viewer(is_administrator=True), gone)
    portal.turn()
    restore(portal, copy)
    assert reindex(portal) == AdoptionReport(forgotten=1)
    assert [record.job.job_id for record in portal.jobs.newest(10)] == [kept]


def test_what_waited_in_a_queue_of_another_folder_goes_in_again_as_the_same_attempt(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy was restored elsewhere: the embedded scheduler's queue names scripts in the folder that it came from."""
    job_id = portal.queued()
    name = portal.name(job_id)
    portal.scheduler.forget(name)
    monkeypatch.setattr(portal.scheduler, "forget_elsewhere", lambda _folder: [name])
    reindex(portal)
    assert portal.state(job_id) is JobState.SUBMITTING
    portal.turn(60, times=2)
    assert (portal.state(job_id), portal.name(job_id)) == (JobState.QUEUED, name)
    assert portal.scheduler.submitted_names() == [name, name]


def test_beside_a_dispatcher_known_jobs_are_left_to_it(portal: Portal) -> None:
    job_id = portal.running()
    shutil.rmtree(portal.directory(job_id).path)
    report = reindexing(portal).run()
    assert (report.compared, report) == (False, AdoptionReport())
    assert portal.state(job_id) is JobState.RUNNING


def test_no_dispatcher_begins_while_it_compares(portal: Portal) -> None:
    portal.dispatch.leadership.release()
    with Leadership(portal.database, portal.clock).keeping_others_out() as is_alone:
        assert is_alone
        with Leadership(portal.database, portal.clock).keeping_others_out() as other:
            assert not other
    portal.take_over()


def test_each_directory_that_cannot_be_read_is_one_line_and_stops_nothing(portal: Portal) -> None:
    unreadable = {succeeded(portal): "config.ini", succeeded(portal): "verdict", succeeded(portal): "names"}
    whole = succeeded(portal)
    for job_id, what in unreadable.items():
        directory = portal.directory(job_id)
        if what == "config.ini":
            directory.config.write_text("[settings\n")
        elif what == "verdict":
            record = json.loads(directory.attempt(1).verdict.read_text())
            directory.attempt(1).verdict.write_text(json.dumps(record | {"state": "running"}))
        else:
            shutil.copyfile(portal.directory(whole).config, directory.config)
    portal.lose_database()
    report = reindex(portal)
    assert (report.adopted, report.unreadable) == (1, 3)
    assert sorted(line.split(": ")[0] for line in report.problems) == sorted(
        str(portal.directory(job_id).path) for job_id in unreadable
    )
    assert any("names another job" in line for line in report.problems)
    assert any("does not tell of an end" in line for line in report.problems)
    assert portal.state(whole) is JobState.SUCCEEDED
