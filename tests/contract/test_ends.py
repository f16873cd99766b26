"""What the portal makes of a job's end is the same on every scheduler: evidence, files, database and mail agree."""

import re
import signal
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from email import message_from_bytes, policy
from pathlib import Path

import pytest

from portal.dispatch.context import handle_of
from portal.jobs.states import FailureReason, JobState
from portal.schedulers.base import Handle, SchedulerState
from portal.schedulers.local_tables import QueuedJob
from tests.contract.evidence import markers
from tests.contract.sites import LOCAL_SLOTS, Site, SlurmSite, starts
from tests.drmaa.cell import USES_CELL
from tests.slurm_cluster import USES_SLURM
from tests.waiting import wait_until

pytestmark = pytest.mark.daemon

KINDS = ["local", *(pytest.param(kind, marks=USES_SLURM) for kind in ("slurm", "slurm-ssh", "slurm-ssh-apart"))]
STRANGER = Handle("999999", "portal-nobody-tcfnctbq-1")

DRMAA = pytest.param("drmaa", marks=USES_CELL)

every_kind = pytest.mark.parametrize("site", KINDS, indirect=True)
every_kind_and_drmaa = pytest.mark.parametrize("site", [*KINDS, DRMAA], indirect=True)


@every_kind_and_drmaa
def test_success_errors_and_signals(site: Site) -> None:
    good, bad, dead = (site.submit(what) for what in ("succeed", "exit_7", "die"))
    with site.dispatching():
        succeeded = site.wait_for_state(good, JobState.SUCCEEDED)
        failed = site.wait_for_state(bad, JobState.FAILED)
        died = site.wait_for_state(dead, JobState.FAILED)
        site.wait_for_mails(3)
    assert (site.directory(good).path / "output.txt").read_text() == "The answer is: 4\n"
    assert succeeded.attempt.node is not None
    assert [markers(site, job_id) for job_id in (good, bad, dead)] == [["SUCCESS"], ["ERROR"], ["ERROR"]]
    assert (failed.job.failure_reason, failed.attempt.exit_code) == (FailureReason.PROGRAM_ERROR, 7)
    assert (died.job.failure_reason, died.attempt.signal) == (FailureReason.PROGRAM_ERROR, signal.SIGSEGV)
    assert site.witness.starts() == starts(site, [good, bad, dead])


@every_kind_and_drmaa
def test_cancelling_what_waits_and_what_runs(site: Site) -> None:
    running = [site.submit("wait") for _ in range(LOCAL_SLOTS if site.kind == "local" else 1)]
    with site.dispatching():
        for job_id in running:
            site.wait_for_start(job_id)
            site.wait_for_state(job_id, JobState.RUNNING)
        if site.kind != "local":  # there all slots are taken
            site.stop_nodes()
        waiting = site.submit()
        site.wait_for_state(waiting, JobState.QUEUED)
        for job_id in (waiting, *running):
            site.cancel(job_id)
        for job_id in (waiting, *running):
            site.wait_for_state(job_id, JobState.CANCELLED)
            assert markers(site, job_id) == ["ERROR"]
        site.wait_for_mails(1 + len(running))
    assert site.witness.starts() == starts(site, running)


@every_kind
def test_a_dead_node_means_a_new_attempt_elsewhere_and_one_mail(site: Site) -> None:
    job_id = site.submit("wait_on_first")
    with site.dispatching():
        site.wait_for_start(job_id)
        site.wait_for_state(job_id, JobState.RUNNING)
        site.kill_node_of(job_id)
        record = site.wait_for_state(job_id, JobState.SUCCEEDED, 90)
        site.wait_for_mails(1)
    assert [(attempt.state, attempt.failure_reason) for attempt in record.attempts] == [
        (JobState.FAILED, FailureReason.NODE_FAILURE),
        (JobState.SUCCEEDED, None),
    ]
    with site.scheduler() as scheduler:
        if scheduler.capabilities.can_exclude_nodes:
            assert record.attempts[0].node != record.attempts[1].node
    assert markers(site, job_id) == ["SUCCESS"]
    assert site.witness.starts() == Counter({site.work(job_id, number): 1 for number in (1, 2)})


@pytest.mark.parametrize("site", [KINDS[-1]], indirect=True)
def test_a_cluster_apart_keeps_what_is_too_much_and_the_visitor_is_told(site: Site) -> None:
    job_id = site.submit("fill")
    with site.dispatching():
        record = site.wait_for_state(job_id, JobState.SUCCEEDED)
        site.wait_for_mails(1)
    checked = site.check()
    assert re.search(r"^files +ok +job directories go to .*, results up to 1 MiB come back$", checked, re.MULTILINE), (
        checked
    )
    said = "One file (1.9 MiB) stayed on the cluster, since at most 1 MiB of a job's results are brought here: too_big"
    assert record.result is not None
    assert said in (record.result.warning or "")
    assert "Left there, too: files or folders that cannot be read there (2)." in (record.result.warning or "")
    body = message_from_bytes(site.mails()[0].read_bytes(), policy=policy.default).get_body(("plain",))
    assert body is not None
    assert said in " ".join(body.get_content().split())
    work = site.directory(job_id).attempt(1).work
    assert (work / "small").stat().st_size == 1000
    assert not (work / "too_big").exists()
    assert (Path(site.work(job_id)) / "too_big").exists()


@pytest.mark.parametrize("site", ["local"], indirect=True)
def test_the_time_limit_of_the_embedded_scheduler(site: Site) -> None:
    site.stop_nodes()
    job_id = site.submit("wait")
    with site.dispatching():
        site.wait_for_state(job_id, JobState.QUEUED)
        with site.parts.database.writing() as session:
            # SQLite keeps the fraction.
            session.query(QueuedJob).update({"time_limit_minutes": 0.03})
        site.start_nodes()
        assert_ended_at_its_time_limit(site, job_id)


@pytest.mark.timeout(300)
def test_the_time_limit_of_slurm(slow_sites: list[Site]) -> None:
    """The one slow test of the suite: Slurm's shortest limit is a minute, and is looked at twice in one."""
    job_ids = [site.submit("wait") for site in slow_sites]
    with ExitStack() as stack:
        for site in slow_sites:
            stack.enter_context(site.dispatching())
        for site, job_id in zip(slow_sites, job_ids, strict=True):
            assert_ended_at_its_time_limit(site, job_id)


def assert_ended_at_its_time_limit(site: Site, job_id: str) -> None:
    record = site.wait_for_state(job_id, JobState.FAILED, 150)
    site.wait_for_mails(1)
    assert record.job.failure_reason is FailureReason.TIME_LIMIT
    assert markers(site, job_id) == ["ERROR"]
    assert site.witness.starts() == starts(site, [job_id])


@every_kind_and_drmaa
def test_unknown_ids_and_ids_of_another_name(site: Site) -> None:
    job_id = site.submit("wait")
    with site.dispatching():
        site.wait_for_start(job_id)
        own = handle_of(site.wait_for_state(job_id, JobState.RUNNING).attempt)
        assert own is not None
        other = replace(own, name="portal-other-bcdfghjk-1")
        with site.scheduler() as scheduler:
            seen = scheduler.observe([STRANGER, other, own])
            assert seen.keys() == {STRANGER, other, own}
            assert seen[own].state is SchedulerState.RUNNING
            assert {seen[STRANGER].state, seen[other].state} == {SchedulerState.NOT_FOUND}
            scheduler.cancel([STRANGER, other])
            assert scheduler.observe([own])[own].state is SchedulerState.RUNNING
        site.let_go()
        site.wait_for_state(job_id, JobState.SUCCEEDED)


@pytest.mark.timeout(600)  # longer than all that it waits for: the other workers' tests share the machine
@every_kind_and_drmaa
def test_two_hundred_at_once_and_a_dispatcher_that_is_killed_among_them(site: Site) -> None:
    job_ids = [site.submit() for _ in range(200)]
    site.start_dispatcher()
    wait_until(lambda: len(site.witness.lines()) >= 5, 60, "the first jobs")
    site.kill_dispatcher()
    with site.dispatching():
        site.wait_for_successes(200, 300)
        site.wait_for_mails(200)
    assert site.witness.starts() == starts(site, job_ids)
    assert len(set(site.scheduler_ids())) == 200


@pytest.mark.parametrize("site", KINDS[1:], indirect=True)
def test_the_script_that_slurm_has_is_the_one_of_the_attempt(site: SlurmSite) -> None:
    job_id = site.submit("wait")
    with site.dispatching():
        site.wait_for_start(job_id)
        attempt = site.wait_for_state(job_id, JobState.RUNNING).attempt
        copy = Path(site.folder / "copy.sh")
        done = site.cluster.run(
            "scontrol", "write", "batch_script", str(attempt.scheduler_id), str(copy), account="root"
        )
        assert done.returncode == 0, done.stderr
        assert copy.read_bytes() == site.directory(job_id).attempt(1).job_script.read_bytes()
        site.let_go()
        site.wait_for_state(job_id, JobState.SUCCEEDED)
