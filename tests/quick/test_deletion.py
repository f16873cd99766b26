"""Jobs that are deleted, by hand or because their time is over: all of them goes, and they never come back."""

import os
import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from portal.database import Base
from portal.dispatch import deletion as deletion_module
from portal.dispatch.deletion import RETRY_SECONDS
from portal.errors import ConflictError, ForbiddenError, NotFoundError, StorageError
from portal.jobs import changes
from portal.jobs.access import Viewer
from portal.jobs.keys import Purpose
from portal.jobs.models import Job
from portal.jobs.removal import remove_put_away
from portal.jobs.states import JobState
from portal.schedulers.base import SchedulerState
from tests.portal_parts import ANN, Portal, opened_portal

S = SchedulerState
ADMINISTRATOR = Viewer(is_administrator=True)


@pytest.fixture
def portal() -> Iterator[Portal]:
    with opened_portal() as portal:
        yield portal


def ended(portal: Portal, **more: Any) -> str:
    """A job that has succeeded, and whose mail went out; its id."""
    job_id = portal.running(**more)
    portal.end_program(job_id, output="The answer is: 4\n")
    portal.see(job_id, S.COMPLETED)
    portal.turn()
    assert portal.state(job_id) is JobState.SUCCEEDED
    portal.sender.send_due()
    return job_id


def rows_about(portal: Portal, job_id: str) -> list[str]:
    """The tables that know the job."""
    tables = [table for table in Base.metadata.sorted_tables if "job_id" in table.columns]
    with portal.database.reading() as session:
        return [
            table.name for table in tables if session.execute(select(table).where(table.c.job_id == job_id)).first()
        ]


def test_all_of_it_goes(portal: Portal) -> None:
    kept, job_id = ended(portal), ended(portal)
    assert rows_about(portal, job_id)
    portal.jobs.ask_delete(ADMINISTRATOR, job_id)
    portal.turn()
    assert rows_about(portal, job_id) == []
    assert portal.job_folders() == [f"job-{kept}", f"user-{ANN}"]
    assert [path.name for path in (portal.folder.root / f"user-{ANN}").iterdir()] == [f"job-{kept}"]
    assert portal.state(kept) is JobState.SUCCEEDED


def test_it_cannot_be_found_from_the_moment_of_the_wish(portal: Portal) -> None:
    job_id = ended(portal)
    portal.jobs.ask_delete(ADMINISTRATOR, job_id)
    with pytest.raises(NotFoundError):
        portal.record(job_id)
    assert portal.jobs.newest(10) == []
    with pytest.raises(NotFoundError):
        portal.jobs.ask_delete(ADMINISTRATOR, job_id)


def test_one_that_goes_on_is_refused_and_says_what_to_do(portal: Portal) -> None:
    for job_id in (portal.submit(), portal.queued(), portal.running()):
        with pytest.raises(ConflictError, match="cancel it first"):
            portal.jobs.ask_delete(ADMINISTRATOR, job_id)
        assert not portal.directory(job_id).changes.exists()
    portal.turn()
    assert portal.job_count() == 3


def test_who_may_only_look_may_not_delete(portal: Portal) -> None:
    job_id = ended(portal)
    owner_key = portal.keys.key(Purpose.OWNER, job_id, 1)
    with pytest.raises(ForbiddenError):
        portal.jobs.ask_delete(Viewer(viewed={job_id: 1}), job_id)
    with pytest.raises(NotFoundError):
        portal.jobs.ask_delete(Viewer(session_id="somebody's"), job_id)
    portal.jobs.ask_delete(Viewer(owner_key=owner_key), job_id)
    portal.turn()
    assert portal.job_count() == 0


def test_where_the_wish_cannot_be_written_down_nothing_is_deleted(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = ended(portal)

    def full(*_args: object, **_more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("portal.jobs.changes.write_durably", full)
    with pytest.raises(StorageError, match="was not deleted"):
        portal.jobs.ask_delete(ADMINISTRATOR, job_id)
    assert portal.state(job_id) is JobState.SUCCEEDED


def test_a_deletion_that_is_refused_because_the_job_runs_again_leaves_nothing_on_disk(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a database that is built from the files one day would carry it out."""
    job_id = ended(portal)
    portal.resubmit(job_id)
    write = changes.note_delete_wish

    def write_late(*arguments: Any) -> None:
        write(*arguments)
        portal.turn()

    monkeypatch.setattr(changes, "note_delete_wish", write_late)
    with pytest.raises(ConflictError):
        portal.jobs.ask_delete(ADMINISTRATOR, job_id)
    assert not changes.read_changes(portal.directory(job_id)).get("delete_asked_at")
    assert not portal.state(job_id).is_final


@pytest.mark.thorough
@pytest.mark.parametrize("step", ["put_away", "unlink_for_owner", "rows", "files"])
def test_a_crash_in_the_middle_goes_on_after_the_restart(
    portal: Portal, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    job_id = ended(portal)
    portal.jobs.ask_delete(ADMINISTRATOR, job_id)

    def die(*_args: object, **_more: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if step == "rows":
            patch.setattr(deletion_module, "delete", die)
        elif step == "files":
            patch.setattr(deletion_module, "remove_put_away", die)
        else:
            patch.setattr(portal.folder, step, die)
        with pytest.raises(KeyboardInterrupt):
            portal.turn()
    portal.crash()
    portal.turn()
    assert portal.job_folders() == []
    assert portal.job_count() == 0


@pytest.mark.parametrize("begun", [False, True])
def test_one_that_is_being_deleted_does_not_come_back_from_the_files(portal: Portal, begun: bool) -> None:
    job_id = ended(portal)
    portal.jobs.ask_delete(ADMINISTRATOR, job_id)
    if begun:
        portal.folder.put_away(job_id)
    portal.lose_database()
    portal.adoption.adopt_orphans(-1e9)
    assert portal.jobs.newest(10) == []
    portal.turn()
    assert portal.job_folders() == []
    assert portal.job_count() == 0


def test_a_jobs_folder_that_is_away_is_not_one_from_which_all_has_gone(portal: Portal) -> None:
    job_id = ended(portal)
    portal.jobs.ask_delete(ADMINISTRATOR, job_id)
    away = portal.folder.root.with_name("away")
    portal.folder.root.rename(away)
    portal.turn()
    assert portal.job_count() == 1
    away.rename(portal.folder.root)
    portal.turn(RETRY_SECONDS)
    assert portal.job_count() == 0
    assert portal.job_folders() == []


def test_a_directory_that_cannot_be_removed_is_tried_again_and_holds_up_no_other(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, other = ended(portal), ended(portal)
    original = remove_put_away
    refused = []

    def refuse(path: Path, *more: Any) -> None:
        if stuck in path.name:
            refused.append(path)
            raise PermissionError(13, "Permission denied", str(path))
        original(path, *more)

    for job_id in (stuck, other):
        portal.jobs.ask_delete(ADMINISTRATOR, job_id)
    with monkeypatch.context() as patch:
        patch.setattr(deletion_module, "remove_put_away", refuse)
        portal.turn(times=5)
    assert len(refused) == 1
    assert portal.job_folders() == [f".deleted-{stuck}"]
    portal.turn(RETRY_SECONDS)
    assert portal.job_folders() == []


def test_what_takes_too_long_goes_on_in_the_next_turn(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = ended(portal)
    for number in range(20):
        (portal.files(job_id).work / f"file{number}").touch()
    portal.jobs.ask_delete(ADMINISTRATOR, job_id)
    monkeypatch.setattr(deletion_module, "REMOVAL_SECONDS", -1)
    portal.turn()
    assert portal.job_folders() == [f".deleted-{job_id}"]
    monkeypatch.undo()
    portal.turn()
    assert portal.job_folders() == []


def test_what_another_account_wrote_is_deleted_as_that_account(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = ended(portal)
    work = portal.folder.root / f".deleted-{job_id}" / "attempts" / "1" / "work"
    asked: list[Path] = []

    def as_jobs(folders: Sequence[Path]) -> None:
        asked.extend(folders)
        for folder in folders:
            for file in folder.iterdir():
                file.unlink()

    original = os.unlink

    def unlink(name: Any, *args: Any, **more: Any) -> None:
        if name == "output.txt" and more.get("dir_fd") is not None and not asked:
            raise PermissionError(13, "Permission denied", name)
        original(name, *args, **more)

    object.__setattr__(portal.dispatch.nodes, "empty_as_jobs", as_jobs)
    portal.jobs.ask_delete(ADMINISTRATOR, job_id)
    with monkeypatch.context() as patch:
        patch.setattr("os.unlink", unlink)
        portal.turn()
    assert asked == [work]
    assert portal.job_folders() == []


# Retention


def days_later(portal: Portal, days: float) -> None:
    portal.clock.advance(timedelta(days=days).total_seconds())
    portal.turn(times=2)


def test_a_job_is_kept_for_as_long_as_its_application_says(portal: Portal) -> None:
    job_id = ended(portal)
    kept_until = portal.job(job_id).kept_until
    assert kept_until is not None
    assert timedelta(days=89) < kept_until - portal.clock.now_utc() <= timedelta(days=90)
    days_later(portal, 89.9)
    assert portal.state(job_id) is JobState.SUCCEEDED
    days_later(portal, 0.2)
    assert portal.job_count() == 0
    assert portal.job_folders() == []


def test_one_that_is_to_run_again_is_not_expired(portal: Portal) -> None:
    job_id = ended(portal)
    portal.scheduler.is_out = True
    portal.resubmit(job_id)
    portal.clock.advance(timedelta(days=91).total_seconds())
    assert portal.jobs.expired() == []


def test_one_whose_directory_cannot_be_written_does_not_keep_the_others(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = ended(portal), ended(portal)
    portal.clock.advance(timedelta(days=91).total_seconds())
    expired = portal.jobs.expired()
    write = changes.note_delete_wish

    def refuse_first(directory: Any, *rest: Any) -> None:
        if directory.path == portal.directory(first).path:
            raise OSError(13, "Permission denied")
        write(directory, *rest)

    monkeypatch.setattr(changes, "note_delete_wish", refuse_first)
    assert portal.jobs.delete_expired(expired, by="administrator") == 1
    assert portal.job(first).delete_asked_at is None
    with pytest.raises(NotFoundError):
        portal.job(second)


def test_one_that_ran_again_since_it_was_listed_is_kept(portal: Portal) -> None:
    job_id = ended(portal)
    portal.clock.advance(timedelta(days=91).total_seconds())
    expired = portal.jobs.expired()
    with portal.database.writing() as session:
        session.execute(update(Job).values(kept_until=portal.clock.now_utc() + timedelta(days=90)))
    assert portal.jobs.delete_expired(expired, by="administrator") == 0
    assert portal.job(job_id).delete_asked_at is None


def test_the_mail_tells_the_date(portal: Portal) -> None:
    job_id = ended(portal)
    kept_until = portal.job(job_id).kept_until
    assert kept_until is not None
    [message] = portal.mail.messages
    body = message.get_body(("plain",))
    assert body is not None
    assert f"Kept until:  {kept_until:%Y-%m-%d}, then it is deleted with its files" in body.get_content()


def test_where_nothing_is_purged_no_date_is_told_and_nothing_goes() -> None:
    with opened_portal(limits={"purge_expired": False}) as portal:
        job_id = ended(portal)
        assert not re.search("Kept until", portal.mail.messages[0].as_string())
        days_later(portal, 365)
        assert portal.state(job_id) is JobState.SUCCEEDED
        assert [job.job_id for job in portal.jobs.expired()] == [job_id]


def test_one_that_goes_on_is_kept_however_old_it_is(portal: Portal) -> None:
    job_id = portal.running()
    days_later(portal, 365)
    assert portal.state(job_id) is JobState.RUNNING


def test_a_job_whose_application_has_gone_is_kept_until_it_is_back_and_its_days_are_over(portal: Portal) -> None:
    job_id = portal.running()
    portal.shelf.missing.add("slow_div")
    portal.end_program(job_id)
    portal.see(job_id, S.COMPLETED)
    portal.turn()
    days_later(portal, 365)
    assert portal.job(job_id).kept_until is None
    portal.shelf.missing.clear()
    days_later(portal, 1)
    assert portal.job(job_id).kept_until is not None
    days_later(portal, 91)
    assert portal.job_count() == 0


def test_the_date_survives_the_loss_of_the_database(portal: Portal) -> None:
    job_id = ended(portal)
    before = portal.job(job_id).kept_until
    assert before is not None
    portal.lose_database()
    portal.adoption.adopt_orphans(-1e9)
    assert portal.job(job_id).kept_until == before.replace(microsecond=0)


def test_a_row_without_a_directory_can_be_deleted(portal: Portal) -> None:
    job_id = ended(portal)
    portal.directory(job_id).path.rename(portal.folder_path / "elsewhere")
    with portal.database.writing() as session:
        session.execute(update(Job).values(kept_until=portal.clock.now_utc()))
    days_later(portal, 1)
    assert portal.job_count() == 0
