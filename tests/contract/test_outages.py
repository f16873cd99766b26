"""While a part of the cluster is away no job changes, submissions are accepted, and everything catches up after."""

from pathlib import Path

import pytest

from portal.jobs.states import JobState
from tests.contract.evidence import what_is_known
from tests.contract.sites import ApartSite, Site, SlurmSite, SshSite, starts, submit_by_hand
from tests.cut_wire import Wire
from tests.slurm_cluster import USES_SLURM
from tests.waiting import wait_until

pytestmark = [pytest.mark.daemon, *USES_SLURM]

OUTAGES = [
    ("slurm", "ctld"),
    ("slurm", "dbd"),
    ("slurm", "munge"),
    ("slurm-ssh", "ctld"),
    ("slurm-ssh", "dbd"),
    ("slurm-ssh", "munge"),
    ("slurm-ssh", "sshd"),
    ("slurm-ssh-apart", "sshd"),
]

# 60 scripts' names are more than that; what opens a connection is less.
_LESS_THAN_THE_REQUEST_BYTES = 8000


@pytest.mark.parametrize(("site", "daemon"), OUTAGES, indirect=["site"])
def test_an_outage_changes_nothing_and_everything_catches_up(site: SlurmSite, daemon: str) -> None:
    running = site.submit("wait")
    with site.dispatching():
        site.wait_for_start(running)
        before = what_is_known(site.wait_for_state(running, JobState.RUNNING))
        assert not site.is_silent()

        site.cluster.stop_daemon(daemon)
        if daemon == "sshd":
            # What is stopped is the listener: the connection that is open would live on.
            site.kill_dispatcher()
            site.start_dispatcher()
        if daemon != "dbd":
            site.wait_for_silence()
        accepted = site.submit()
        if daemon == "dbd":
            # The queue answers, and that is all that it takes.
            site.wait_for_state(accepted, JobState.SUCCEEDED)
        else:
            site.let_go()
            wait_until((Path(site.work(running)) / "SUCCESS").exists, 30, "the program's end")
            wait_until(lambda: site.log().count("does not answer") >= 2, 40, "some more looks in vain")
            assert what_is_known(site.record(running)) == before
            assert site.record(accepted).job.state in (JobState.ACCEPTED, JobState.SUBMITTING)

        site.cluster.start_daemon(daemon)
        site.let_go()
        for job_id in (running, accepted):
            site.wait_for_state(job_id, JobState.SUCCEEDED, 90)
        wait_until(lambda: not site.is_silent(), 10, "the page to be glad again")
        site.wait_for_mails(2)
    assert site.witness.starts() == starts(site, [running, accepted])
    assert len(site.record(accepted).attempts) == 1


def test_a_connection_that_is_cut_in_the_middle_of_a_submission(wired_site: SshSite, wire: Wire) -> None:
    site = wired_site
    job_ids = [site.submit() for _ in range(60)]
    wire.silence_after(_LESS_THAN_THE_REQUEST_BYTES)
    with site.dispatching():
        wait_until(lambda: wire.is_silent and _in_queue(site) >= 3, 60, "the first ones in the queue")
        wire.cut()
        site.wait_for_successes(60, 120)
        site.wait_for_mails(60)
    assert "a submission is in doubt" in site.log()
    assert site.witness.starts() == starts(site, job_ids)


def test_a_cluster_apart_whose_connection_is_cut_again_and_again(apart_site: ApartSite, wire: Wire) -> None:
    site = apart_site
    job_ids = [site.submit() for _ in range(40)]
    with site.dispatching():
        for number in range(1, 6):
            # Each time somewhere else: while job directories go over, while they are submitted, while results come.
            wire.break_after(30_000 * number)
            wait_until(lambda: wire.is_broken, 60, "the connection to break")
        wire.break_after(None)
        site.wait_for_successes(40, 120)
        site.wait_for_mails(40)
    assert site.witness.starts() == starts(site, job_ids)
    for job_id in job_ids:
        assert (site.directory(job_id).path / "output.txt").read_text() == "The answer is: 4\n"


def _in_queue(site: SlurmSite) -> int:
    return len(site.cluster.run("squeue", "-h", "-t", "all", "-o", "%i").stdout.split())


@pytest.mark.parametrize("site", ["slurm"], indirect=True)
def test_a_script_that_is_submitted_by_hand_is_the_job(site: SlurmSite) -> None:
    """Slurm was away, somebody lost patience and typed `sbatch job.sh`: that is the one start there is."""
    job_id = _refused_once(site)
    by_hand = submit_by_hand(site.cluster, site.directory(job_id).attempt(1).job_script)
    site.wait_for_start(job_id)
    with site.dispatching():
        wait_until(lambda: site.record(job_id).job.state is JobState.RUNNING, 60, "the portal to see it")
        site.let_go()
        record = site.wait_for_state(job_id, JobState.SUCCEEDED, 90)
        site.wait_for_mails(1)
    assert [attempt.scheduler_id for attempt in record.attempts] == [by_hand]
    assert site.witness.starts() == starts(site, [job_id])


def _refused_once(site: Site) -> str:
    """A job whose script is written and which Slurm does not have; no dispatcher is at work."""
    assert isinstance(site, SlurmSite)
    site.cluster.stop_daemon("ctld")
    job_id = site.submit("wait")
    site.start_dispatcher()
    wait_until(lambda: "slurm controller" in (site.record(job_id).attempt.reason or ""), 40, "Slurm's refusal")
    site.kill_dispatcher()
    site.cluster.start_daemon("ctld")
    return job_id
