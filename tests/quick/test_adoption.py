"""Directories without a row: adopted once and whole, or swept, or left alone; and a database that is lost."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import portal.jobs.acceptance as acceptance_module
from portal.applications.values import Upload
from portal.database import Database
from portal.dispatch.adoption import ADOPTION_SECONDS, SWEEP_SECONDS, AdoptionReport
from portal.errors import StorageError
from portal.jobs.acceptance import Submission
from portal.jobs.directory import JobsFolder
from portal.jobs.models import MailOutbox
from portal.jobs.rows import insert_job
from portal.jobs.states import FailureReason, JobState
from portal.jobs.store import JobRecord
from portal.people.sessions import is_live, session_id_of
from portal.schedulers.base import SchedulerState
from tests.portal_parts import ANN, GRACE_SECONDS, Portal, make_service, opened_portal

S = SchedulerState
SESSION = session_id_of("a key")
SEQUENCE = ">one\nACGT\n"


class Killed(BaseException):
    """The web process ends at this instruction."""


@pytest.fixture
def portal() -> Iterator[Portal]:
    with opened_portal() as portal:
        yield portal


def adopt(portal: Portal, older_than_seconds: float = ADOPTION_SECONDS) -> AdoptionReport:
    return portal.adoption.adopt_orphans(older_than_seconds)


def submission(**more: Any) -> Submission:
    inputs = {"x": "-n $(date)", "sequence": SEQUENCE, "query": Upload("my query.fa", b"ACGT")}
    return Submission("any_inputs", inputs, "Ann@Example.org", token="t" * 32, session_id=SESSION, **more)


def orphan(portal: Portal, monkeypatch: pytest.MonkeyPatch, sent: Submission | None = None) -> str:
    """What a web process leaves that is killed between `config.ini` and its commit; the id."""

    def die(*_args: object, **_more: object) -> None:
        raise Killed

    before = set(portal.folder.job_ids())
    with monkeypatch.context() as patch:
        patch.setattr(acceptance_module, "insert_job", die)
        with pytest.raises(Killed):
            portal.jobs.submit(sent or submission())
    [job_id] = set(portal.folder.job_ids()) - before
    portal.make_old(job_id, seconds=0)
    return job_id


# A web process that died


def test_a_whole_directory_is_left_alone_for_ten_minutes(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = orphan(portal, monkeypatch)
    portal.make_old(job_id, seconds=ADOPTION_SECONDS - 1)
    assert adopt(portal) == AdoptionReport()
    assert portal.job_count() == 0
    portal.clock.advance(1)
    assert adopt(portal) == AdoptionReport(adopted=1)
    assert adopt(portal) == AdoptionReport()
    assert portal.job_count() == 1


def test_reindexing_does_not_wait(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    orphan(portal, monkeypatch)
    assert adopt(portal, older_than_seconds=0) == AdoptionReport(adopted=1)


def test_it_is_the_same_job_as_if_nobody_had_died(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = orphan(portal, monkeypatch)
    adopt(portal, older_than_seconds=0)
    record = portal.record(job_id)
    job = record.job
    assert (job.email, job.owner, job.token, job.session_id) == ("Ann@example.org", ANN, "t" * 32, SESSION)
    assert (job.state, job.created_at, job.application) == (JobState.ACCEPTED, portal.clock.now_utc(), "any_inputs")
    assert [(row.name, row.kind, row.text, row.filename) for row in record.inputs] == [
        ("x", "text", "-n $(date)", None),
        ("sequence", "longtext", "inputs/sequence", None),
        ("query", "file", "inputs/query", "my query.fa"),
    ]
    with portal.database.reading() as session:
        assert is_live(session, SESSION, portal.clock.now_utc()), "the browser that sent it in sees it again"
    assert portal.changes(job_id) == [(None, "accepted", "directory", ANN)]
    assert (portal.folder.root / f"user-{ANN}" / f"job-{job_id}").is_symlink()
    portal.turn()
    assert portal.state(job_id) is JobState.QUEUED


def test_the_dispatcher_adopts_in_its_turn(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = orphan(portal, monkeypatch)
    portal.turn()
    portal.turn(ADOPTION_SECONDS, times=2)
    assert portal.state(job_id) is JobState.QUEUED


def test_a_web_process_that_was_killed_for_good_left_one_job(portal: Portal) -> None:
    """A real process, ended by `_exit` where it would commit."""
    child = os.fork()
    if child == 0:
        database = Database(portal.settings.portal.database_url)
        folder = JobsFolder(portal.folder.root)
        setattr(acceptance_module, "insert_job", lambda *_args, **_more: os._exit(9))  # noqa: B010  # not its export
        catalog: Any = portal.shelf
        make_service(database, folder, catalog, portal.keys, portal.clock, "http://here").submit(submission())
        os._exit(1)
    _, wait_status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(wait_status) == 9
    [job_id] = portal.folder.job_ids()
    assert portal.job_count() == 0
    portal.make_old(job_id, seconds=ADOPTION_SECONDS)
    portal.turn(times=2)
    assert portal.jobs.submit(submission()).job_id == job_id
    assert portal.job_count() == 1


def test_the_form_sent_again_before_adoption_is_the_job_and_the_orphan_is_swept(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = orphan(portal, monkeypatch)
    kept = portal.jobs.submit(submission())
    assert kept.job_id != job_id
    portal.make_old(job_id, seconds=ADOPTION_SECONDS)
    assert adopt(portal) == AdoptionReport(swept=1)
    assert portal.job_folders() == [f"job-{kept.job_id}", f"user-{ANN}"]
    assert [path.name for path in (portal.folder.root / f"user-{ANN}").iterdir()] == [f"job-{kept.job_id}"]
    assert portal.job_count() == 1


def test_the_form_sent_again_after_adoption_is_the_adopted_job(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = orphan(portal, monkeypatch)
    adopt(portal, older_than_seconds=0)
    again = portal.jobs.submit(submission())
    assert (again.job_id, again.repeated) == (job_id, True)
    assert portal.job_count() == 1


def test_a_web_process_that_is_slower_than_adoption_answers_with_its_job(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = insert_job

    def adopt_first(*args: Any, **more: Any) -> Any:
        monkeypatch.undo()
        return original(*args, **more)

    def instance_after_adoption(_folder: JobsFolder) -> str:
        adopt(portal, older_than_seconds=-1e9)
        return portal_instance

    portal_instance = portal.folder.instance()
    monkeypatch.setattr(acceptance_module, "insert_job", adopt_first)
    calls: list[int] = []

    def instance(folder: JobsFolder) -> str:
        calls.append(1)
        return instance_after_adoption(folder) if len(calls) == 1 else portal_instance

    monkeypatch.setattr(JobsFolder, "instance", instance)
    accepted = portal.jobs.submit(submission())
    assert not accepted.repeated
    assert portal.changes(accepted.job_id)[0][2] == "directory"
    assert portal.job_count() == 1


# What never became a job


def test_a_directory_without_a_config_is_swept_after_a_day(portal: Portal) -> None:
    directory = portal.folder.claim_new_job()
    (directory.path / "inputs").mkdir()
    portal.make_old(directory.job_id, seconds=SWEEP_SECONDS - 1)
    assert adopt(portal) == AdoptionReport()
    assert adopt(portal, older_than_seconds=0) == AdoptionReport()
    portal.clock.advance(1)
    assert adopt(portal) == AdoptionReport(swept=1)
    assert portal.job_folders() == []


def break_config(portal: Portal, job_id: str) -> None:
    portal.directory(job_id).config.write_text("[settings\nnot an ini")


def empty_config(portal: Portal, job_id: str) -> None:
    portal.directory(job_id).config.write_text("")


def config_of_another_job(portal: Portal, job_id: str) -> None:
    config = portal.directory(job_id).config
    config.write_text(config.read_text().replace(job_id, "bcdfghjk"))


def config_that_is_not_utf8(portal: Portal, job_id: str) -> None:
    portal.directory(job_id).config.write_bytes(b"[settings]\nemail = \xff\n")


def config_that_is_a_link(portal: Portal, job_id: str) -> None:
    config = portal.directory(job_id).config
    moved = config.rename(portal.folder_path / "elsewhere.ini")
    config.symlink_to(moved)


def config_of_somebody_else(portal: Portal, job_id: str) -> None:
    os.chown(portal.directory(job_id).config, 12345, -1)


def directory_of_somebody_else(portal: Portal, job_id: str) -> None:
    os.chown(portal.directory(job_id).path, 12345, -1)


def verdict_without_sense(portal: Portal, job_id: str) -> None:
    portal.files(job_id, 1).make()
    portal.files(job_id, 1).verdict.write_text('{"state": "splendid"}')


def verdict_of_something_that_goes_on(portal: Portal, job_id: str) -> None:
    portal.files(job_id, 1).make()
    portal.files(job_id, 1).verdict.write_text('{"state": "running"}')


def submission_without_sense(portal: Portal, job_id: str) -> None:
    portal.files(job_id, 1).make()
    portal.files(job_id, 1).submission.write_text('{"intent_at": "yesterday Z"}')


BROKEN = [
    break_config,
    empty_config,
    config_of_another_job,
    config_that_is_not_utf8,
    config_that_is_a_link,
    verdict_without_sense,
    verdict_of_something_that_goes_on,
    submission_without_sense,
]
FOREIGN = [config_of_somebody_else, directory_of_somebody_else]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.mark.parametrize(
    "spoil", [*BROKEN, *(pytest.param(foreign, marks=needs_root) for foreign in FOREIGN)], ids=lambda f: f.__name__
)
def test_what_cannot_be_trusted_or_understood_is_counted_and_left_alone(
    portal: Portal, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Portal, str], None]
) -> None:
    spoilt = orphan(portal, monkeypatch)
    whole = orphan(portal, monkeypatch, Submission("slow_div", {"x": "8", "y": "2"}, ANN))
    spoil(portal, spoilt)
    files = sorted(portal.directory(spoilt).path.rglob("*"))
    assert adopt(portal, older_than_seconds=-1e9) == AdoptionReport(adopted=1, unreadable=1)
    assert portal.state(whole) is JobState.ACCEPTED
    assert portal.job_count() == 1
    assert sorted(portal.directory(spoilt).path.rglob("*")) == files


def test_a_link_to_a_directory_is_no_job(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = orphan(portal, monkeypatch)
    moved = portal.directory(job_id).path.rename(portal.folder_path / "elsewhere")
    portal.directory(job_id).path.symlink_to(moved)
    assert adopt(portal, older_than_seconds=0) == AdoptionReport()
    assert portal.directory(job_id).path.is_symlink()


def test_what_is_being_deleted_is_not_adopted(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = orphan(portal, monkeypatch)
    portal.directory(job_id).path.rename(portal.folder.root / f".deleted-{job_id}")
    assert adopt(portal, older_than_seconds=0) == AdoptionReport()
    assert portal.job_count() == 0


def test_one_that_stands_in_anothers_way_is_left_alone(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files claim the scheduler's name of another job's attempt."""
    other = portal.queued()
    job_id = orphan(portal, monkeypatch)
    portal.files(job_id, 1).make()
    shutil.copy(portal.files(other).submission, portal.files(job_id, 1).submission)
    assert adopt(portal, older_than_seconds=0) == AdoptionReport(unreadable=1)
    assert portal.directory(job_id).config.exists()


def test_a_database_that_is_away_is_no_fault_of_a_directory(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    orphan(portal, monkeypatch)

    def away(_database: Database) -> Any:
        raise StorageError("away")

    with monkeypatch.context() as patch:
        patch.setattr(Database, "writing", away)
        with pytest.raises(StorageError):
            adopt(portal, older_than_seconds=0)
    assert adopt(portal, older_than_seconds=0) == AdoptionReport(adopted=1)


def test_an_application_that_is_missing_does_not_keep_a_job_from_being_adopted(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = orphan(portal, monkeypatch)
    portal.shelf.missing.add("any_inputs")
    assert adopt(portal, older_than_seconds=0) == AdoptionReport(adopted=1)
    assert portal.state(job_id) is JobState.ACCEPTED


# The whole database is lost


def all_kinds(portal: Portal) -> dict[str, str]:
    """One job of each kind; their ids by what became of them."""
    jobs = {name: portal.running() for name in ("succeeded", "failed")}
    portal.end_program(jobs["succeeded"], output="The answer is: 4\n")
    portal.end_program(jobs["failed"], exit_code=3)
    portal.see(jobs["succeeded"], S.COMPLETED, node="node1")
    portal.see(jobs["failed"], S.FAILED, node="node1", exit_code=3)
    jobs["corrected"] = portal.running(application="held")
    portal.see(jobs["corrected"], S.NODE_FAILURE, node="node1")
    portal.turn_past_grace()
    portal.end_program(jobs["corrected"])
    portal.turn(GRACE_SECONDS)
    jobs["cancelled"] = portal.submit()
    portal.ask_cancel(jobs["cancelled"])
    jobs["second attempt"] = portal.running()
    portal.see(jobs["second attempt"], S.NODE_FAILURE, node="node1")
    portal.turn_past_grace()
    portal.turn()
    portal.sender.send_due()
    portal.sender.send_due()
    jobs["running"] = portal.running()
    jobs["queued"] = portal.queued()
    return jobs


def shown(record: JobRecord) -> dict[str, Any]:
    """What people see of a job, but for its history."""
    job, result = record.job, record.result
    return {
        "job": [job.state, job.failure_reason, job.attempt_number, job.email, job.owner, job.token, job.application],
        "created_at": job.created_at,
        "started_at": job.started_at and job.started_at.replace(microsecond=0),
        "ended_at": job.ended_at and job.ended_at.replace(microsecond=0),
        "cancelled_by": job.cancel_asked_by,
        "inputs": [(row.name, row.kind, row.text, row.number, row.filename) for row in record.inputs],
        "attempts": [
            [
                attempt.number,
                attempt.state,
                attempt.failure_reason,
                attempt.scheduler_name,
                attempt.scheduler_id,
                attempt.node,
                attempt.exit_code,
                attempt.reason,
                attempt.excluded_nodes,
                attempt.counts,
            ]
            for attempt in record.attempts
        ],
        "result": result and [result.answer, result.warning, result.wall_seconds, result.peak_memory_mib],
    }


def all_adopted(portal: Portal) -> None:
    assert adopt(portal, older_than_seconds=-1e9).unreadable == 0


@pytest.mark.thorough
def test_all_jobs_come_back_with_attempts_states_and_answers(portal: Portal) -> None:
    jobs = all_kinds(portal)
    before = {name: shown(portal.record(job_id)) for name, job_id in jobs.items()}
    assert [before[name]["job"][0].value for name in jobs] == [
        "succeeded",
        "failed",
        "succeeded",
        "cancelled",
        "queued",
        "running",
        "queued",
    ]
    portal.lose_database()
    all_adopted(portal)
    final = ("succeeded", "failed", "corrected", "cancelled")
    assert {name: shown(portal.record(jobs[name])) for name in final} == {name: before[name] for name in final}
    portal.turn(times=3)
    after = {name: shown(portal.record(job_id)) for name, job_id in jobs.items()}
    assert after == before


@pytest.mark.thorough
def test_all_jobs_come_back_without_new_mail(portal: Portal) -> None:
    all_kinds(portal)
    sent = portal.mail.ids()
    with portal.database.reading() as session:
        assert [row.digest_id for row in session.query(MailOutbox).all()] == sent * 5
    portal.lose_database()
    all_adopted(portal)
    portal.turn(times=3)
    portal.sender.send_due()
    assert portal.mail.ids() == sent
    with portal.database.reading() as session:
        assert all(row.sent_at for row in session.query(MailOutbox).all())


def test_a_mail_that_had_not_gone_out_goes_out(portal: Portal) -> None:
    job_id = portal.running()
    portal.end_program(job_id)
    portal.see(job_id, S.COMPLETED)
    portal.turn()
    portal.lose_database()
    all_adopted(portal)
    portal.sender.send_due()
    assert [job_id in str(message["Subject"]) for message in portal.mail.messages] == [True]


def test_one_whose_submission_was_in_doubt_is_looked_up_and_never_runs_twice(portal: Portal) -> None:
    in_scheduler, ran_and_forgotten = portal.queued(), portal.running()
    portal.end_program(ran_and_forgotten, output="The answer is: 4\n")
    portal.scheduler.forget(portal.name(ran_and_forgotten))
    handed_in = len(portal.scheduler.specs)
    portal.lose_database()
    all_adopted(portal)
    assert portal.state(in_scheduler) is portal.state(ran_and_forgotten) is JobState.SUBMITTING
    assert portal.changes(in_scheduler)[-1][:3] == ("accepted", "submitting", "directory")
    portal.turn(120, times=3)
    assert portal.state(in_scheduler) is JobState.QUEUED
    assert portal.state(ran_and_forgotten) is JobState.SUCCEEDED
    assert len(portal.scheduler.specs) == handed_in


def test_an_attempt_that_was_promised_is_opened(portal: Portal) -> None:
    """The node failed, another attempt was opened in the database, and that was lost before anything else."""
    job_id = portal.running()
    portal.see(job_id, S.NODE_FAILURE, node="node1")
    portal.turn_past_grace()
    before = shown(portal.record(job_id))
    assert before["job"][2] == 2
    assert not portal.files(job_id, 2).path.exists()
    portal.lose_database()
    all_adopted(portal)
    assert shown(portal.record(job_id)) == before
    assert portal.mails(job_id) == []
    portal.turn()
    assert portal.state(job_id) is JobState.QUEUED


def test_a_wish_that_was_promised_to_be_heard_is_heard(portal: Portal) -> None:
    job_id = portal.submit()
    portal.ask_cancel(job_id)
    portal.lose_database()
    all_adopted(portal)
    portal.turn()
    assert portal.state(job_id) is JobState.CANCELLED
    assert portal.job(job_id).cancel_asked_by == ANN


def test_an_older_attempt_without_a_verdict_counts_no_more(portal: Portal) -> None:
    job_id = portal.running()
    portal.see(job_id, S.NODE_FAILURE)
    portal.turn_past_grace()
    portal.turn()
    portal.files(job_id, 1).verdict.unlink()
    portal.lose_database()
    all_adopted(portal)
    first, second = portal.record(job_id).attempts
    assert (first.state, first.failure_reason) == (JobState.FAILED, FailureReason.LOST)
    assert second.state is JobState.SUBMITTING


def test_the_files_of_adopted_jobs_can_be_written_again(portal: Portal) -> None:
    job_id = portal.running()
    portal.clock.advance(60)
    portal.lose_database()
    all_adopted(portal)
    portal.turn(times=2)
    assert portal.state(job_id) is JobState.RUNNING
    portal.end_program(job_id)
    portal.see(job_id, S.COMPLETED)
    portal.turn()
    assert json.loads(portal.files(job_id).verdict.read_text())["epoch"] == portal.dispatch.leadership.epoch
