"""What a dispatcher says that it found when it took over: counted, and not guessed."""

from collections.abc import Iterator

import pytest
from sqlalchemy import func, select

from portal.dispatch.adoption import ADOPTION_SECONDS
from portal.dispatch.report import KEPT_REPORTS, LONGEST
from portal.jobs.models import DispatcherReport, Job
from portal.jobs.states import JobState
from portal.schedulers.base import SchedulerState
from tests.portal_parts import Portal, opened_portal

S = SchedulerState


@pytest.fixture
def portal() -> Iterator[Portal]:
    with opened_portal() as portal:
        yield portal


def report(portal: Portal) -> DispatcherReport:
    """The newest one."""
    with portal.database.reading() as session:
        found = session.scalars(select(DispatcherReport).order_by(DispatcherReport.row_id.desc()).limit(1)).one()
    assert found.epoch == portal.dispatch.leadership.epoch
    return found


def test_a_first_start_found_nothing(portal: Portal) -> None:
    portal.turn()
    found = report(portal)
    assert (found.mended, found.adopted, found.resubmitted, found.lost, found.unreadable) == (0, 0, 0, 0, 0)
    assert found.detail == "0 jobs adopted (0 in the scheduler, 0 found on disk), 0 resubmitted, 0 lost"


def test_jobs_count_once_it_is_known_what_became_of_them(portal: Portal) -> None:
    alive = [portal.running(), portal.queued()]
    on_dead_node, forgotten, done = portal.running(), portal.running(), portal.running(application="held")
    waiting = portal.submit()
    portal.end_program(done)
    portal.see(done, S.COMPLETED)
    portal.see(on_dead_node, S.NODE_FAILURE, node="node1")
    portal.scheduler.forget(portal.name(forgotten))
    with portal.database.writing() as session:
        session.get_one(Job, forgotten).application = "held"
    portal.crash()
    portal.turn()
    found = report(portal)
    assert (found.adopted, found.lost) == (2, 0)
    assert "1 had ended, 1 waiting to go in, 2 still looked for" in found.detail
    portal.turn_past_grace()
    portal.turn(times=2)
    found = report(portal)
    assert (found.adopted, found.resubmitted, found.lost) == (2, 1, 1)
    assert found.detail == (
        "2 jobs adopted (2 in the scheduler, 0 found on disk), 1 resubmitted, 1 lost, 1 had ended, 1 waiting to go in"
    )
    assert [portal.state(job_id) for job_id in alive] == [JobState.RUNNING, JobState.QUEUED]
    assert portal.state(waiting) is JobState.QUEUED


def test_directories_without_a_row_and_what_cannot_be_read_count(portal: Portal) -> None:
    known, broken = portal.submit(), portal.submit()
    portal.lose_database()
    for job_id in (known, broken):
        portal.directory(job_id).config.exists()
        portal.make_old(job_id, ADOPTION_SECONDS + 60)
    portal.directory(broken).config.write_text("[settings\n")
    portal.make_old(broken, ADOPTION_SECONDS + 60)
    portal.turn()
    found = report(portal)
    assert (found.adopted, found.unreadable) == (1, 1)
    assert "(0 in the scheduler, 1 found on disk)" in found.detail


def test_files_that_had_to_be_mended_count(portal: Portal) -> None:
    job_id = portal.running()
    (portal.directory(job_id).path / "ERROR").touch()
    portal.crash()
    portal.turn()
    assert report(portal).mended == 1
    assert "1 with files mended" in report(portal).detail


def test_while_the_scheduler_is_away_nothing_is_called_found(portal: Portal) -> None:
    portal.running()
    portal.crash()
    portal.scheduler.is_out = True
    portal.turn(times=3)
    assert report(portal).adopted == 0
    assert report(portal).detail.endswith("1 still looked for")
    portal.scheduler.is_out = False
    portal.turn(times=2)
    assert report(portal).adopted == 1


def test_a_report_that_is_closed_is_not_written_again(portal: Portal) -> None:
    job_id = portal.running()
    portal.crash()
    portal.turn()
    before = report(portal).at
    portal.see(job_id, S.NODE_FAILURE)
    portal.turn(LONGEST.total_seconds(), times=3)
    assert report(portal).at == before
    assert report(portal).resubmitted == 0


@pytest.mark.thorough
def test_only_the_newest_are_kept(portal: Portal) -> None:
    for _ in range(KEPT_REPORTS + 3):
        portal.crash()
        portal.turn()
    with portal.database.reading() as session:
        assert session.scalar(select(func.count()).select_from(DispatcherReport)) == KEPT_REPORTS
