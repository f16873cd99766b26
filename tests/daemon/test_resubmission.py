"""A job runs again by command on a real portal: processes, files, and a witness that the program itself writes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from portal.jobs.states import JobState
from tests.compute_clients import ClientFamily
from tests.portal_runs import PortalRun
from tests.waiting import wait_until

pytestmark = [pytest.mark.daemon, pytest.mark.timeout(180)]

FAILS_UNTIL_REPAIRED = 'test -e "${witness%/*}/repaired" || exit 3\necho fine\n'
OUTLIVES_ITS_END = """
if [ -e "${witness%/*}/zombie" ]; then echo second >> "$witness"; echo "the second"; exit 0; fi
touch "${witness%/*}/zombie"
echo "the first"
exit 3
"""


@pytest.fixture
def clients(tmp_path: Path) -> Iterator[ClientFamily]:
    family = ClientFamily(tmp_path)
    yield family
    family.end_all()


def run_again(portal: PortalRun, *arguments: str) -> str:
    """`portal resubmit`, as an administrator types it, with the settings of this portal; what it printed."""
    result = portal.command("resubmit", *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_job_that_failed_is_run_again_by_command_and_succeeds(tmp_path: Path, clients: ClientFamily) -> None:
    portal = PortalRun(tmp_path, FAILS_UNTIL_REPAIRED)
    clients.start(slots=2)
    with portal.dispatching():
        bad, other = portal.submit(), portal.submit(2)
        for job_id in (bad, other):
            portal.wait_for_state(job_id, JobState.FAILED)
        (tmp_path / "repaired").touch()
        assert "1 job asked to run again" in run_again(portal, bad, "--memory", "300M")
        record = portal.wait_for_state(bad, JobState.SUCCEEDED)
        assert "2 jobs" not in run_again(portal, "--failure", "program_error", "--yes")
        portal.wait_for_state(other, JobState.SUCCEEDED)
        wait_until(lambda: len(portal.mails()) == 4, 30, "a mail for each outcome")
    assert [attempt.state for attempt in record.attempts] == [JobState.FAILED, JobState.SUCCEEDED]
    assert record.job.resources["memory_mib"] == 300
    folders = [portal.attempt_folder(job_id, number) for job_id in (bad, other) for number in (1, 2)]
    assert portal.witness.starts() == dict.fromkeys(folders, 1), "each attempt started once"


def test_an_old_attempt_that_is_started_late_neither_runs_nor_touches_the_newer_one(
    tmp_path: Path, clients: ClientFamily
) -> None:
    portal = PortalRun(tmp_path, OUTLIVES_ITS_END)
    clients.start()
    with portal.dispatching():
        job_id = portal.submit()
        portal.wait_for_state(job_id, JobState.FAILED)
        run_again(portal, job_id)
        portal.wait_for_state(job_id, JobState.SUCCEEDED)
        portal.start_by_hand(job_id, 1)
        # A zombie that still writes does so in its own folder.
        first = Path(portal.attempt_folder(job_id, 1))
        (first / "output.txt").write_text("the first, once more")
        (first / "SUCCESS").touch()
    folder = portal.parts.folder.job(job_id).path
    assert (folder / "output.txt").read_text() == "the second\n"
    assert portal.witness.starts() == {portal.attempt_folder(job_id, number): 1 for number in (1, 2)}
    assert portal.record(job_id).attempt.number == 2


def test_a_wish_that_is_made_while_no_dispatcher_runs_is_carried_out_by_the_next(
    tmp_path: Path, clients: ClientFamily
) -> None:
    portal = PortalRun(tmp_path, FAILS_UNTIL_REPAIRED)
    clients.start()
    with portal.dispatching():
        job_id = portal.submit()
        portal.wait_for_state(job_id, JobState.FAILED)
    (tmp_path / "repaired").touch()
    run_again(portal, job_id)
    run_again(portal, job_id)
    with portal.dispatching():
        record = portal.wait_for_state(job_id, JobState.SUCCEEDED)
    assert len(record.attempts) == 2
