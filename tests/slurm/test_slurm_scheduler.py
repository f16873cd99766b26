"""The Slurm backends against a real Slurm: on this machine as another account, and over SSH by a restricted key."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from portal.errors import SchedulerError
from portal.jobs.directory import PORTAL_FOLDER_MODE, AttemptDirectory, make_folder
from portal.jobs.ids import new_job_id
from portal.jobs.node_files import current_helper, install_node_files
from portal.schedulers.base import (
    Absent,
    Deferred,
    Found,
    Handle,
    InDoubt,
    JobSpec,
    Observation,
    Rejected,
    SchedulerState,
    Submitted,
    Unknown,
)
from portal.schedulers.commands import LocalRunner, Runner
from portal.schedulers.helper import Helper
from portal.schedulers.slurm_scheduler import SlurmScheduler
from portal.schedulers.ssh import SshConnection, SshRunner, SshTarget
from tests.fake_clock import FakeClock
from tests.slurm_cluster import JOBS_ACCOUNT, SlurmCluster, own_cluster
from tests.waiting import wait_until

pytestmark = pytest.mark.daemon

AS_JOBS_ACCOUNT = ["setpriv", f"--reuid={JOBS_ACCOUNT}", f"--regid={JOBS_ACCOUNT}", "--init-groups", "--"]
STRANGER = Handle("999999", "portal-nobody-tcfnctbq-1")


class Bench:
    """A backend on a cluster, and scripts for it that lie where the portal's would."""

    def __init__(self, cluster: SlurmCluster, runner: Runner, call_seconds: float = 30) -> None:
        self.cluster = cluster
        self.clock = FakeClock()
        self.scheduler = SlurmScheduler(Helper(runner, cluster.jobs_dir, call_seconds), self.clock)
        install_node_files(cluster.jobs_dir, [])

    def spec(self, script: str, **fields: object) -> JobSpec:
        job_id = new_job_id()
        folder = self.cluster.jobs_dir / f"job-{job_id}"
        make_folder(folder, PORTAL_FOLDER_MODE)
        attempt = AttemptDirectory(folder / "attempts" / "1")
        attempt.make()
        spec = replace(
            JobSpec(f"portal-test-{job_id}-1", attempt.job_script, attempt.work, 5, memory_mib=50, cpus=1),
            **fields,  # type: ignore[arg-type]
        )
        lines = ["#!/bin/sh", *self.scheduler.directives(spec), script]
        attempt.job_script.write_text("\n".join(lines) + "\n")
        attempt.job_script.chmod(0o750)
        return spec

    def submit(self, script: str, **fields: object) -> Handle:
        [answer] = self.scheduler.submit([self.spec(script, **fields)])
        assert isinstance(answer, Submitted), answer
        return answer.handle

    def see(self, handle: Handle) -> Observation:
        return self.scheduler.observe([handle])[handle]

    def wait_for(self, handle: Handle, state: SchedulerState, seconds: float = 30) -> Observation:
        wait_until(lambda: self.see(handle).state is state, seconds, f"job {handle.scheduler_id} {state}")
        return self.see(handle)

    def is_refused(self, ask: Callable[[], object]) -> bool:
        try:
            ask()
        except SchedulerError:
            return True
        return False


@contextmanager
def opened(cluster: SlurmCluster, kind: str) -> Iterator[Bench]:
    bench = Bench(cluster, local_runner(cluster) if kind == "slurm" else ssh_runner(cluster))
    yield bench
    bench.scheduler.close()


def local_runner(cluster: SlurmCluster) -> Runner:
    # A real site has it in /etc/slurm; the dispatcher's own SLURM_CONF is handed on.
    os.environ["SLURM_CONF"] = cluster.environment["SLURM_CONF"]
    return LocalRunner([*AS_JOBS_ACCOUNT, "/usr/bin/python3", "-I", str(current_helper(cluster.jobs_dir))])


def ssh_runner(cluster: SlurmCluster) -> Runner:
    target = SshTarget("127.0.0.1", cluster.ssh_port, JOBS_ACCOUNT, cluster.helper_key, cluster.known_hosts, 10)
    return SshRunner(SshConnection(target), "the key has a forced command")


@pytest.fixture(params=["slurm", "slurm-ssh"])
def bench(slurm: SlurmCluster, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("SLURM_CONF", "")
    with opened(slurm, request.param) as bench:
        yield bench


def test_ends_of_every_kind_and_a_bad_one_among_good_ones(bench: Bench) -> None:
    scripts = {
        "success": bench.spec("pwd; env; exit 0"),
        "exit code": bench.spec("exit 7"),
        "signal": bench.spec("kill -9 $$"),
        "no such partition": bench.spec("true", partition="nowhere"),
        "no such account": bench.spec("true", account="nobody"),
        "too much memory": bench.spec("true", memory_mib=9_000_000),
        "too long for the partition": bench.spec("true", partition="short", time_limit_minutes=600),
        "such a resource": bench.spec("true", gres="gpu:1"),
        "short": bench.spec("true", partition="short"),
    }
    answers = dict(zip(scripts, bench.scheduler.submit(list(scripts.values())), strict=True))
    good = {name: answer.handle for name, answer in answers.items() if isinstance(answer, Submitted)}
    assert set(good) == {"success", "exit code", "signal", "short"}
    assert {type(answer) for name, answer in answers.items() if name not in good} == {Rejected}
    assert answers["no such partition"] == Rejected(
        "invalid partition specified: nowhere; Invalid partition name specified"
    )
    for name, handle in good.items():
        assert handle.name == scripts[name].name
    seen = bench.wait_for(good["success"], SchedulerState.COMPLETED)
    assert (seen.raw_state, seen.exit_code, seen.signal) == ("COMPLETED", 0, None)
    assert seen.node is not None
    assert seen.started_at is not None
    assert seen.ended_at is not None
    failed = bench.wait_for(good["exit code"], SchedulerState.FAILED)
    assert (failed.exit_code, failed.signal, failed.reason) == (7, None, None)
    killed = bench.wait_for(good["signal"], SchedulerState.FAILED)
    assert (killed.exit_code, killed.signal) == (None, 9)
    work = scripts["success"].working_dir
    written = (work / "scheduler.out").read_text().splitlines()
    assert written[0] == str(work)
    assert f"SLURM_JOB_ID={good['success'].scheduler_id}" in written
    assert not [line for line in written if line.startswith(("SBATCH_", "TZ="))]


def test_cancelling_what_runs_what_waits_and_nothing_else(bench: Bench) -> None:
    running = bench.submit("sleep 300")
    bench.wait_for(running, SchedulerState.RUNNING)
    waiting = bench.submit("sleep 300", cpus=4, exclude_nodes=("node2", "node3"))
    wait_until(lambda: "Resources" in (bench.see(waiting).reason or ""), 30, "a reason to wait")
    assert bench.see(waiting).reason == "it waits for free nodes (Resources)"
    bench.scheduler.cancel([replace(running, name="portal-other-job-1"), STRANGER])
    assert bench.see(running).state is SchedulerState.RUNNING
    assert bench.see(replace(running, name="portal-other-job-1")).state is SchedulerState.NOT_FOUND
    bench.scheduler.cancel([running, STRANGER, waiting])
    for handle in (running, waiting):
        seen = bench.wait_for(handle, SchedulerState.CANCELLED)
        assert (seen.raw_state, seen.exit_code) == ("CANCELLED", None)
    wait_until(lambda: (bench.see(running).cancelled_by or "").startswith("uid "), 30, "who cancelled it")
    bench.scheduler.cancel([running, waiting])
    assert bench.see(STRANGER) == Observation(SchedulerState.NOT_FOUND)


def test_what_an_operator_does_is_seen(bench: Bench) -> None:
    held = bench.submit("sleep 300", cpus=4, exclude_nodes=("node2", "node3"))
    other = bench.submit("sleep 300", cpus=4, exclude_nodes=("node2", "node3"))
    bench.wait_for(held, SchedulerState.RUNNING)
    bench.cluster.run("scontrol", "hold", other.scheduler_id, account="root")
    seen = bench.wait_for(other, SchedulerState.HELD)
    assert seen.reason == "it is held by an administrator of the cluster (JobHeldAdmin)"
    bench.cluster.run("scontrol", "suspend", held.scheduler_id, account="root")
    bench.wait_for(held, SchedulerState.SUSPENDED)
    requeued = bench.cluster.run("scontrol", "requeue", held.scheduler_id, account="root")
    assert "Requested operation is presently disabled" in requeued.stderr  # by --no-requeue
    bench.cluster.run("scontrol", "resume", held.scheduler_id, account="root")
    bench.wait_for(held, SchedulerState.RUNNING)
    bench.cluster.run("scancel", held.scheduler_id, account="root")
    bench.wait_for(held, SchedulerState.CANCELLED)
    wait_until(lambda: bench.see(held).cancelled_by == "uid 0", 30, "who cancelled it")


def test_two_hundred_at_once(bench: Bench) -> None:
    specs = [bench.spec("sleep 300") for _ in range(200)]
    answers = bench.scheduler.submit(specs)
    handles = [answer.handle for answer in answers if isinstance(answer, Submitted)]
    assert [handle.name for handle in handles] == [spec.name for spec in specs]
    assert len({handle.scheduler_id for handle in handles}) == 200
    assert bench.scheduler.find([spec.name for spec in specs]) == {handle.name: Found((handle,)) for handle in handles}
    alive = bench.scheduler.observe(handles)
    assert all(seen.state.is_alive for seen in alive.values())
    health = bench.scheduler.health()
    assert health.ok
    assert (health.running or 0) + (health.waiting or 0) == 200
    bench.scheduler.cancel(handles)
    wait_until(
        lambda: {seen.state for seen in bench.scheduler.observe(handles).values()} == {SchedulerState.CANCELLED},
        60,
        "200 cancelled jobs",
    )


@pytest.mark.parametrize("bench", ["slurm"], indirect=True)
def test_without_a_controller_nothing_is_known_and_nothing_lost(bench: Bench) -> None:
    handle = bench.submit("sleep 300")
    bench.wait_for(handle, SchedulerState.RUNNING)
    bench.cluster.stop_daemon("ctld")
    [answer] = bench.scheduler.submit([bench.spec("true")])
    assert answer == Deferred("Unable to contact slurm controller (connect failure)")
    assert bench.is_refused(lambda: bench.scheduler.observe([handle]))
    assert bench.is_refused(lambda: bench.scheduler.cancel([handle]))
    assert bench.scheduler.find(["portal-test-nobody-1"]).keys() == {"portal-test-nobody-1"}
    assert isinstance(bench.scheduler.find(["portal-test-nobody-1"])["portal-test-nobody-1"], Unknown)
    assert not bench.scheduler.health().ok
    bench.cluster.start_daemon("ctld")
    assert bench.wait_for(handle, SchedulerState.RUNNING).raw_state == "RUNNING"
    assert bench.scheduler.health().ok


def test_without_slurmdbd_the_queue_still_answers_and_absence_is_unknown(bench: Bench) -> None:
    handle = bench.submit("sleep 300")
    bench.wait_for(handle, SchedulerState.RUNNING)
    bench.cluster.stop_daemon("dbd")
    seen = bench.scheduler.observe([handle, STRANGER])
    assert seen[handle].state is SchedulerState.RUNNING
    assert seen[STRANGER].state is SchedulerState.UNKNOWN
    found = bench.scheduler.find([handle.name, STRANGER.name])
    assert found[handle.name] == Found((handle,))
    assert isinstance(found[STRANGER.name], Unknown)
    bench.submit("true")
    assert bench.scheduler.health().ok
    bench.cluster.start_daemon("dbd")
    wait_until(lambda: isinstance(bench.scheduler.find([STRANGER.name])[STRANGER.name], Absent), 30, "accounting")


def test_without_munge_a_submission_is_in_doubt(bench: Bench) -> None:
    handle = bench.submit("sleep 300")
    # A launch that is lost with munge leaves the job "completing" until slurmctld asks again, up to a minute later.
    wait_until(lambda: bench.see(handle).state is SchedulerState.RUNNING, 30, "its start")
    bench.cluster.stop_daemon("munge")
    spec = bench.spec("true")
    [answer] = bench.scheduler.submit([spec])
    assert isinstance(answer, InDoubt)
    assert bench.is_refused(lambda: bench.scheduler.observe([handle]))
    assert isinstance(bench.scheduler.find([spec.name])[spec.name], Unknown)
    assert not bench.scheduler.health().ok
    bench.cluster.start_daemon("munge")
    wait_until(lambda: isinstance(bench.scheduler.find([spec.name])[spec.name], Absent), 30, "an answer")
    assert bench.see(handle).state.is_alive


def test_scripts_of_others_and_helpers_of_other_folders_are_refused(bench: Bench, tmp_path: Path) -> None:
    spec = bench.spec("true")
    spec.script.unlink()
    spec.script.symlink_to("/etc/hostname")
    [answer] = bench.scheduler.submit([spec])
    assert isinstance(answer, Deferred)
    assert "refused" in answer.reason
    assert bench.scheduler.find([spec.name]) == {spec.name: Absent()}


def forget_everything(cluster: SlurmCluster) -> None:
    """slurmctld loses its state, as after the loss of its disk: it gives the ids anew."""
    cluster.stop_daemon("ctld")
    for file in (cluster.home / "ctld").glob("job_state*"):
        file.unlink()
    cluster.start_daemon("ctld")


def test_what_left_the_queue_is_in_accounting_and_ids_are_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIN_JOB_AGE", "2")
    monkeypatch.setenv("SLURM_CONF", "")
    with own_cluster("left-the-queue", "--nodes", "1", "--no-ssh") as cluster, opened(cluster, "slurm") as bench:
        old = bench.submit("exit 7")
        lost = bench.submit("sleep 300")
        bench.wait_for(lost, SchedulerState.RUNNING)
        gone = ["squeue", "-h", "-t", "all", "-o", "%i"]
        wait_until(lambda: cluster.run(*gone).stdout.split() == [lost.scheduler_id], 90, "the end of MinJobAge")
        seen = bench.wait_for(old, SchedulerState.FAILED)
        assert (seen.exit_code, seen.node) == (7, "node1")
        assert bench.scheduler.find([old.name]) == {old.name: Found((old,))}

        forget_everything(cluster)
        # The node may still have the lost job, and would refuse another one of that id: the new ones wait.
        drained = cluster.run("scontrol", "update", "nodename=ALL", "state=drain", "reason=test", account="root")
        assert drained.returncode == 0, drained.stderr
        new = bench.submit("sleep 300")
        while new.scheduler_id != lost.scheduler_id:
            new = bench.submit("sleep 300")
        assert bench.see(new).state.is_alive
        assert bench.see(old).exit_code == 7
        # The queue has another job under its id, and the controller has closed its books of this one.
        assert bench.wait_for(lost, SchedulerState.NOT_FOUND).reason == "the controller lost it"
        bench.scheduler.cancel([lost])
        assert bench.see(new).state.is_alive


def test_a_cluster_without_accounting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", "")
    with (
        own_cluster("no-accounting", "--nodes", "1", "--no-ssh", "--no-accounting") as cluster,
        opened(cluster, "slurm") as bench,
    ):
        handle = bench.submit("exit 7")
        assert bench.wait_for(handle, SchedulerState.FAILED).exit_code == 7
        assert bench.see(STRANGER).state is SchedulerState.NOT_FOUND
        assert not bench.scheduler.capabilities.has_accounting
        found = bench.scheduler.find([handle.name, STRANGER.name])
        assert found[handle.name] == Found((handle,))
        assert isinstance(found[STRANGER.name], Unknown)
