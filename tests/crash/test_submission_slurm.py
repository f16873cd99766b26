"""Answers that are lost, and a controller that forgets: with a real Slurm each attempt starts its program once."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from portal.jobs.states import FailureReason, JobState
from tests.crash.hooks import Order, Step
from tests.crash.overtaking import overtake
from tests.crash.run import LIMIT_SECONDS
from tests.crash.slurm_run import SlurmCrashRun, SlurmWorkshop
from tests.slurm_cluster import USES_SLURM, SlurmCluster
from tests.waiting import wait_until

pytestmark = [pytest.mark.daemon, *USES_SLURM]

SUBMIT = Step("dispatcher", "scheduler", "submit", 1)


@contextmanager
def one_run(workshop: SlurmWorkshop, order: Order | None = None) -> Iterator[SlurmCrashRun]:
    """A job that was accepted; whatever is started for it ends."""
    with workshop.runs([order]) as runs, runs[0].killing_what_is_left():
        yield runs[0]


def send_to_controller(cluster: SlurmCluster, number: signal.Signals) -> None:
    """A signal to slurmctld, and nothing else."""
    os.kill(int((cluster.home / "ctld" / "slurmctld.pid").read_text()), number)


def wait_for_doubt(run: SlurmCrashRun) -> None:
    """Return when the call was given up, and nobody knows what has come of it."""
    wait_until(lambda: "a submission is in doubt" in run.log(), LIMIT_SECONDS, "the call's time-out")


def test_of_two_dispatchers_both_hand_it_in_and_it_starts_once(
    slurm: SlurmCluster, slurm_workshop: SlurmWorkshop
) -> None:
    """The first was about to call sbatch, and does so long after the second: what comes late finds the claim taken."""
    with one_run(slurm_workshop, Order(SUBMIT, "before", signal.SIGSTOP)) as run:
        code = overtake(run, run.folder / "data" / "portal.db.dispatcher.lock", run.is_handed_in)
        assert code == 1, run.log()
        run.wait_for_the_end()
        run.check(submissions=2)
        assert len(run.handed_over()) == 1


def test_a_time_out_with_the_job_in(slurm: SlurmCluster, slurm_workshop: SlurmWorkshop) -> None:
    """slurmctld stands still while sbatch calls it, and takes the job in when nobody listens any more."""
    with one_run(slurm_workshop) as run:
        send_to_controller(slurm, signal.SIGSTOP)
        try:
            run.prepare()
            run.start("dispatcher")
            wait_for_doubt(run)
        finally:
            send_to_controller(slurm, signal.SIGCONT)
        run.wait_for_the_end()
        run.check()


def test_a_time_out_with_the_job_not_in(slurm: SlurmCluster, slurm_workshop: SlurmWorkshop) -> None:
    """slurmctld dies before it has read the call: the name is unknown, and the job goes in once more."""
    with one_run(slurm_workshop) as run:
        send_to_controller(slurm, signal.SIGSTOP)
        try:
            run.prepare()
            run.start("dispatcher")
            wait_for_doubt(run)
        finally:
            slurm.stop_daemon("ctld", signal.SIGKILL)
            slurm.start_daemon("ctld")
        run.wait_for_the_end()
        run.check()


def test_a_name_that_only_accounting_knows_is_not_handed_in_again(
    slurm: SlurmCluster, slurm_workshop: SlurmWorkshop
) -> None:
    """The answer was lost with its dispatcher, the job ran to its end, and the controller has forgotten it."""
    with one_run(slurm_workshop, Order(SUBMIT, "after")) as run:
        run.site.let_go()
        run.prepare()
        first = run.start("dispatcher")
        wait_until(lambda: run.nursery.ended(first) is not None, LIMIT_SECONDS, "the dispatcher's end")
        wait_until((Path(run.site.work(run.job_id)) / "SUCCESS").exists, LIMIT_SECONDS, "the program's end")
        wait_until(lambda: _ended_in_accounting(run), LIMIT_SECONDS, "the end in accounting")
        slurm.stop_daemon("ctld")
        for file in (slurm.home / "ctld").glob("job_state*"):
            file.unlink()
        slurm.start_daemon("ctld")
        run.start("dispatcher")
        run.wait_for_the_end()
        run.check()


def _ended_in_accounting(run: SlurmCrashRun) -> bool:
    name = run.site.record(run.job_id).attempt.scheduler_name
    done = run.site.cluster.run("sacct", "-X", "-n", "-P", "-S", "now-1hours", f"--name={name}", "--format=State")
    return done.stdout.split() == ["COMPLETED"]


def test_a_controller_that_lost_its_last_seconds_and_gives_the_id_to_another(
    slurm: SlurmCluster, slurm_workshop: SlurmWorkshop, tmp_path: Path
) -> None:
    """The stranger's job under the old id is not the portal's: the attempt is lost, and another one runs."""
    with one_run(slurm_workshop) as run:
        slurm.run("scontrol", "update", "nodename=ALL", "state=drain", "reason=test", account="root")
        saved = tmp_path / "ctld"
        slurm.stop_daemon("ctld")
        _copy(slurm.home / "ctld", saved)
        slurm.start_daemon("ctld")
        run.prepare()
        run.start("dispatcher")
        run.site.wait_for_state(run.job_id, JobState.QUEUED)
        lost_id = run.site.record(run.job_id).attempt.scheduler_id

        slurm.stop_daemon("ctld", signal.SIGKILL)
        shutil.rmtree(slurm.home / "ctld")
        _copy(saved, slurm.home / "ctld")
        slurm.start_daemon("ctld")
        stranger = slurm.submit("sleep 300")
        assert stranger == lost_id
        # It may have forgotten that they are drained, and then refuses to resume them.
        slurm.run("scontrol", "update", "nodename=ALL", "state=resume", account="root")
        run.wait_for_the_end()

        record = run.site.record(run.job_id)
        assert record.job.state is JobState.SUCCEEDED
        assert [(one.number, one.failure_reason) for one in record.attempts] == [(1, FailureReason.LOST), (2, None)]
        assert run.witness.starts() == {run.site.work(run.job_id, 2): 1}
        assert len(run.handed_over()) == 1
        assert slurm.state(stranger) in ("RUNNING", "PENDING")


def _copy(folder: Path, target: Path) -> None:
    """With owners and modes."""
    subprocess.run(["cp", "-a", str(folder), str(target)], check=True)
