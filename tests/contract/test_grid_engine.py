"""A whole portal on a real Grid Engine, where the daemons go away, and where exit codes have meanings of their own."""

import signal
from pathlib import Path

import pytest

from portal.errors import ConflictError
from portal.jobs.states import FailureReason, JobState
from tests.contract.evidence import markers, what_is_known
from tests.contract.sites import DrmaaSite, starts
from tests.drmaa.cell import USES_CELL
from tests.waiting import wait_until

pytestmark = [pytest.mark.daemon, *USES_CELL, pytest.mark.parametrize("site", ["drmaa"], indirect=True)]

# A restarted execd looks after the jobs of its predecessor each minute.
OLD_JOBS_SECONDS = 150


def test_exit_codes_are_the_programs_own(site: DrmaaSite) -> None:
    """By 99 Grid Engine would run a script again, and by 100 keep it in the queue for ever."""
    job_ids = {code: site.submit(f"exit_{code}") for code in (3, 99, 100)}
    good = site.submit()
    with site.dispatching():
        for code, job_id in job_ids.items():
            record = site.wait_for_state(job_id, JobState.FAILED)
            assert (record.job.failure_reason, record.attempt.exit_code) == (FailureReason.PROGRAM_ERROR, code)
        assert site.wait_for_state(good, JobState.SUCCEEDED).attempt.exit_code == 0
        site.wait_for_mails(4)
        wait_until(lambda: not site.cell.queue(), 30, "an empty queue")
    assert site.witness.starts() == starts(site, [*job_ids.values(), good])


def test_cancelling_what_is_held_and_what_has_finished(site: DrmaaSite) -> None:
    site.stop_nodes()
    held = site.submit()
    with site.dispatching():
        scheduler_id = site.wait_for_state(held, JobState.QUEUED).attempt.scheduler_id
        assert scheduler_id is not None
        assert site.cell.run("qhold", scheduler_id).returncode == 0
        site.start_nodes()
        finished = site.submit()
        site.wait_for_state(finished, JobState.SUCCEEDED)
        wait_until(lambda: "hqw" in site.cell.queue().values(), 30, "the hold")
        assert site.record(held).job.state is JobState.QUEUED
        site.cancel(held)
        with pytest.raises(ConflictError, match="already ended"):
            site.cancel(finished)
        site.wait_for_state(held, JobState.CANCELLED, 90)
        site.wait_for_mails(2)
    assert site.record(finished).job.state is JobState.SUCCEEDED
    assert [markers(site, job_id) for job_id in (held, finished)] == [["ERROR"], ["SUCCESS"]]
    assert site.witness.starts() == starts(site, [finished])


def test_an_execd_that_is_killed_while_a_job_runs(site: DrmaaSite) -> None:
    """The job goes on, and Grid Engine calls it running until the host is back."""
    running = site.submit("wait")
    with site.dispatching():
        site.wait_for_start(running)
        site.wait_for_state(running, JobState.RUNNING)
        site.cell.stop_daemon("execd", signal.SIGKILL)
        site.let_go()
        wait_until((Path(site.work(running)) / "SUCCESS").exists, 30, "the program's end")
        assert site.record(running).job.state is JobState.RUNNING
        assert not site.is_silent()
        site.cell.start_daemon("execd")
        # One that was handed to the dead execd would be handed in again after five minutes only (seen with 8.1.9).
        later = site.submit()
        for job_id in (running, later):
            site.wait_for_state(job_id, JobState.SUCCEEDED, OLD_JOBS_SECONDS)
        site.wait_for_mails(2)
    assert site.witness.starts() == starts(site, [running, later])


def test_a_qmaster_that_is_away_changes_nothing_and_everything_catches_up(site: DrmaaSite) -> None:
    running = site.submit("wait")
    with site.dispatching():
        site.wait_for_start(running)
        before = what_is_known(site.wait_for_state(running, JobState.RUNNING))
        site.cell.stop_daemon("qmaster")
        site.wait_for_silence()
        accepted = site.submit()
        site.let_go()
        wait_until((Path(site.work(running)) / "SUCCESS").exists, 30, "the program's end")
        wait_until(lambda: site.log().count("does not answer") >= 2, 40, "some more looks in vain")
        assert what_is_known(site.record(running)) == before
        assert site.record(accepted).job.state in (JobState.ACCEPTED, JobState.SUBMITTING)

        site.cell.start_daemon("qmaster")
        # An execd that lives through a qmaster's absence may not report for minutes (seen with 8.1.9); a new one does.
        site.cell.stop_daemon("execd")
        site.cell.start_daemon("execd")
        for job_id in (running, accepted):
            site.wait_for_state(job_id, JobState.SUCCEEDED, OLD_JOBS_SECONDS)
        wait_until(lambda: not site.is_silent(), 10, "the page to be glad again")
        site.wait_for_mails(2)
    assert site.witness.starts() == starts(site, [running, accepted])
    assert len(site.record(accepted).attempts) == 1
