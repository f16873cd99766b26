"""What grows for ever unless somebody clears it away, and what must stay all the same."""

import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from portal.dispatch.housekeeping import KEPT, keep_house
from portal.jobs.node_files import NODE_FOLDER
from portal.people.sessions import LIFETIME, BrowserSession, remember_session
from portal.schedulers.base import SchedulerState
from portal.schedulers.local import LocalScheduler
from portal.schedulers.local_tables import EndedJob
from tests.portal_parts import Portal, opened_portal


@pytest.fixture
def portal() -> Iterator[Portal]:
    with opened_portal() as portal:
        yield portal


def versions(portal: Portal) -> set[str]:
    return {path.name for path in (portal.folder.root / NODE_FOLDER).iterdir() if not path.is_symlink()}


def add_version(portal: Portal, name: str, age: timedelta) -> Path:
    folder = portal.folder.root / NODE_FOLDER / name
    folder.mkdir()
    (folder / "wrapper.pyz").touch()
    moment = (portal.clock.now_utc() - age).timestamp()
    os.utime(folder, (moment, moment))
    return folder


def test_versions_that_no_job_needs_go_after_a_while(portal: Portal) -> None:
    [current] = versions(portal)
    job_id, ended = portal.running(), portal.running()
    for name, job in (("0.1-needed", job_id), ("0.1-ended", ended)):
        script = portal.files(job).job_script
        script.write_text(script.read_text().replace(current, name))
    portal.end_program(ended)
    portal.see(ended, SchedulerState.COMPLETED)
    portal.turn()
    for name in ("0.1-needed", "0.1-ended", "0.1-unused", ".0.1-cut-off.x"):
        add_version(portal, name, KEPT + timedelta(days=1))
    add_version(portal, "0.2-new", timedelta(days=1))
    moment = (portal.clock.now_utc() - 2 * KEPT).timestamp()
    os.utime(portal.folder.root / NODE_FOLDER / current, (moment, moment))
    keep_house(portal.dispatch)
    assert versions(portal) == {current, "0.1-needed", "0.2-new"}


def test_where_a_script_cannot_be_read_no_version_goes(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    portal.running()
    add_version(portal, "0.1-unused", KEPT + timedelta(days=1))

    def refuse(*_args: object, **_more: object) -> str:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", refuse)
        with pytest.raises(OSError, match="Input/output error"):
            keep_house(portal.dispatch)
    assert "0.1-unused" in versions(portal)


def test_sessions_that_have_expired_go(portal: Portal) -> None:
    now = portal.clock.now_utc()
    with portal.database.writing() as session:
        remember_session(session, "expired", now - LIFETIME)
        remember_session(session, "live", now - LIFETIME + timedelta(seconds=1))
    keep_house(portal.dispatch)
    with portal.database.reading() as session:
        assert session.scalars(select(BrowserSession.session_id)).all() == ["live"]


def in_history(portal: Portal, name: str, ended_at: datetime, number: int) -> None:
    with portal.database.writing() as session:
        session.add(
            EndedJob(
                queue_id=number,
                name=name,
                script="s",
                working_dir="w",
                time_limit_minutes=1,
                queued_at=ended_at,
                ended_at=ended_at,
                state=SchedulerState.COMPLETED,
            )
        )


def test_the_history_of_the_embedded_scheduler_keeps_what_is_new_or_still_asked_for(portal: Portal) -> None:
    now = portal.clock.now_utc()
    name = portal.name(portal.running())
    in_history(portal, name, now - 2 * KEPT, 1)
    in_history(portal, "old", now - 2 * KEPT, 2)
    in_history(portal, "new", now - KEPT + timedelta(days=1), 3)
    scheduler = LocalScheduler(portal.database, portal.clock)
    assert scheduler.forget_ended(now - KEPT, {name}) == 1
    with portal.database.reading() as session:
        assert set(session.scalars(select(EndedJob.name))) == {name, "new"}


def test_the_dispatcher_does_it_once_a_day(portal: Portal) -> None:
    portal.turn()
    add_version(portal, "0.1-unused", KEPT + timedelta(days=1))
    portal.turn(3600, times=3)
    assert "0.1-unused" in versions(portal)
    portal.turn(86_400)
    assert "0.1-unused" not in versions(portal)
