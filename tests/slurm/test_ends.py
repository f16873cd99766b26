"""Each way in which a real Slurm ends a job, or lets it wait, is one plain sentence with Slurm's raw words beneath.

What the portal makes of ends that every scheduler has is in tests/contract; the time limit, too. Each partition here
has a fate: its node is the only one on which that happens, so that one cluster does for all of them.
"""

from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from portal.jobs.states import FailureReason, JobState
from tests.slurm.portal_site import PortalSite, open_folder
from tests.slurm_cluster import SlurmCluster, can_limit_memory, own_cluster
from tests.waiting import wait_until

# One worker, and so one cluster.
pytestmark = [pytest.mark.daemon, pytest.mark.xdist_group("slurm-ends")]

PARTITIONS = {
    "steady": "node1",  # nothing happens to this one
    "strict": "node1",
    "bare": "node1",  # as if there were no Python on it
    "low": "node2",  # where jobs of `short` take the place of those of others
    "fragile": "node3,node5",  # the first of them dies
    "crowded": "node4",  # somebody's job has all the room: what comes waits
    "asleep": "cloud1",  # it is to be woken up for a job, and does not wake up
}
CONF = """
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
SuspendTime=6000
SuspendProgram=/bin/true
ResumeProgram=/bin/true
ResumeTimeout=2
NodeName=cloud1 NodeAddr=127.0.0.1 Port=1 CPUs=4 RealMemory=4000 State=CLOUD
""" + "".join(f"PartitionName={name} Nodes={node} State=UP\n" for name, node in PARTITIONS.items())
PYTHON = """#!/bin/sh
[ "$SLURM_JOB_PARTITION" != bare ] || exec /no/such/python3 "$@"
exec /usr/bin/python3 "$@"
"""
HELD = ", and an administrator decides whether it runs again"
NOT_YOURS = "Nothing is wrong with your inputs."


@pytest.fixture(scope="module")
def site() -> Iterator[PortalSite]:
    """A portal whose applications are named after the partition that they ask for."""
    options = ["--nodes", "5", "--no-ssh", *(["--cgroup"] if can_limit_memory() else [])]
    with ExitStack() as stack:
        cluster = stack.enter_context(own_cluster("ends", *options, extra_conf=CONF))
        folder = stack.enter_context(open_folder(cluster))
        python = folder / "python3"
        python.write_text(PYTHON)
        python.chmod(0o755)
        applications = {name: f'partition = "{name}"\nmemory_mib = 60' for name in PARTITIONS}
        site = PortalSite(folder, cluster, applications, {"node_python": str(python)})
        stack.enter_context(closing(site))
        stack.enter_context(site.dispatching())
        site.send_in("asleep")  # which takes a while
        cluster.submit("sleep 600", "--partition=crowded", "--exclusive")
        yield site


def slurm_says(site: PortalSite, job_id: str, before: str, after: str = "") -> str:
    """The line beneath the sentence, with Slurm's id in the middle."""
    return f"Slurm says: {before}, job {site.scheduler_id(job_id)}{after}"


def check_end(site: PortalSite, job_id: str, state: JobState, reason: FailureReason | None = None) -> None:
    job = site.record(job_id).job
    assert (job.state, job.failure_reason) == (state, reason)


def test_more_memory_than_it_asked_for(site: PortalSite) -> None:
    if not can_limit_memory():
        pytest.skip("OUT_OF_MEMORY needs the memory controller of cgroup v1, which this machine does not have")
    whole, strict = site.send_in("steady", "need_much"), site.send_in("strict", "need_much_in_part")
    in_part = site.send_in("steady", "need_much_in_part")
    for job_id, exit_code in ((whole, 137), (strict, 0)):
        site.wait_for_page(
            job_id,
            "The program needed more than the 60 MiB of memory that it was given.",
            slurm_says(site, job_id, f"OUT_OF_MEMORY, exit code {exit_code}, node1"),
            "Larger inputs need more memory.",
        )
        check_end(site, job_id, JobState.FAILED, FailureReason.OUT_OF_MEMORY)
    site.wait_for_page(in_part, "4", "Part of the program ran out of memory: look at the results with care.")
    check_end(site, in_part, JobState.SUCCEEDED)


def test_it_had_to_make_room_for_a_job_of_higher_rank(site: PortalSite) -> None:
    job_id = site.send_in("low")
    site.wait_for_start(job_id)
    site.cluster.submit("true", "--partition=short", "--nodelist=node2", "--exclusive")
    says = slurm_says(site, job_id, "PREEMPTED, signal 15, node2")
    site.wait_for_page(job_id, f"It had to make room for other work{HELD}.", says, NOT_YOURS)
    check_end(site, job_id, JobState.FAILED, FailureReason.PREEMPTED)


def test_its_node_died(site: PortalSite) -> None:
    job_id = site.send_in("fragile")
    site.wait_for_start(job_id)
    site.cluster.kill_node("node3", now=True)
    says = slurm_says(site, job_id, "NODE_FAIL, node3")
    site.wait_for_page(job_id, f"The computer that it was given went away{HELD}.", says, NOT_YOURS)
    check_end(site, job_id, JobState.FAILED, FailureReason.NODE_FAILURE)


def test_an_administrator_runs_it_again_elsewhere(site: PortalSite) -> None:
    job_id = site.sent["fragile"]
    done = site.portal("resubmit", job_id, "--exclude-node", "node3", "--memory", "50M")
    assert done.returncode == 0, done.stderr
    site.wait_for_start(job_id, 2)
    wait_until(lambda: site.record(job_id).attempt.node == "node5", 30, "the new attempt on node5")
    says = site.cluster.run("scontrol", "show", "job", site.scheduler_id(job_id)).stdout
    assert "ExcNodeList=node3" in says
    assert "MinMemoryNode=50M" in says
    assert [attempt.failure_reason for attempt in site.record(job_id).attempts] == [FailureReason.NODE_FAILURE, None]
    site.cancel_as_owner(job_id)
    site.wait_for_page(job_id, "Cancelled by you.")


def test_there_is_no_python_on_its_node(site: PortalSite) -> None:
    job_id = site.send_in("bare")
    says = slurm_says(site, job_id, "FAILED, exit code 127, node1")
    site.wait_for_page(job_id, f"It ended before the program could be started{HELD}.", says, NOT_YOURS)
    check_end(site, job_id, JobState.FAILED, FailureReason.LAUNCH_FAILED)
    assert site.work(job_id) not in site.witness.starts()


def test_it_was_still_waiting_at_its_deadline(site: PortalSite) -> None:
    job_id = site.send_in("crowded")
    site.operate("scontrol", "update", f"jobid={site.scheduler_id(job_id)}", "deadline=now+2")
    site.wait_for_page(job_id, "The cluster ended it at its deadline.", slurm_says(site, job_id, "DEADLINE"))
    check_end(site, job_id, JobState.FAILED, FailureReason.TIME_LIMIT)


def test_it_waits_for_a_job_that_never_ended_as_it_should(site: PortalSite) -> None:
    job_id = site.send_in("crowded")
    other = site.cluster.submit("true", "--hold")
    site.operate("scontrol", "update", f"jobid={site.scheduler_id(job_id)}", f"dependency=afterok:{other}")
    site.wait_for_page(job_id, "It waits for another job (Dependency).")
    site.operate("scancel", other)
    reason = "it waits for another job that will never end as it should (DependencyNeverSatisfied)"
    says = slurm_says(site, job_id, "PENDING", f", {reason}")
    site.wait_for_page(job_id, f"It can never run on this cluster: {reason}.", says, NOT_YOURS)
    check_end(site, job_id, JobState.FAILED, FailureReason.REJECTED)
    wait_until(lambda: site.cluster.state(site.scheduler_id(job_id)) == "CANCELLED", 20, "Slurm to be rid of it")


def test_it_is_held_and_released(site: PortalSite) -> None:
    job_id = site.send_in("crowded")
    site.operate("scontrol", "hold", site.scheduler_id(job_id))
    held = "It is held by an administrator of the cluster (JobHeldAdmin)."
    site.wait_for_page(job_id, held)
    check_end(site, job_id, JobState.QUEUED)
    site.operate("scontrol", "release", site.scheduler_id(job_id))
    wait_until(lambda: held not in site.page(job_id), 20, "the page to say something else")
    check_end(site, job_id, JobState.QUEUED)


def test_who_cancelled_it(site: PortalSite) -> None:
    by_owner, by_operator, while_it_waited = site.send_in("steady"), site.send_in("steady"), site.send_in("crowded")
    for job_id in (by_owner, by_operator):
        site.wait_for_start(job_id)
    site.cancel_as_owner(by_owner)
    site.operate("scancel", site.scheduler_id(by_operator), site.scheduler_id(while_it_waited))
    site.wait_for_page(by_owner, "Cancelled by you.", slurm_says(site, by_owner, "CANCELLED, signal 15, node1"))
    for job_id, facts in ((by_operator, "CANCELLED, signal 15, node1"), (while_it_waited, "CANCELLED")):
        page = site.wait_for_page(job_id, "Cancelled by an operator of the cluster.")
        says = slurm_says(site, job_id, facts)
        # Accounting, which knows who it was, may come to know after the page does.
        assert {says, f"{says}, cancelled by uid 0"} & set(page), page
    for job_id in (by_owner, by_operator, while_it_waited):
        check_end(site, job_id, JobState.CANCELLED)


def test_its_node_did_not_boot(site: PortalSite) -> None:
    """Slurm has a word for it, BOOT_FAIL; 22.05 says NODE_FAIL even so."""
    job_id = site.sent["asleep"]
    says = slurm_says(site, job_id, "NODE_FAIL, cloud1")
    site.wait_for_page(job_id, f"The computer that it was given went away{HELD}.", says, NOT_YOURS)
    check_end(site, job_id, JobState.FAILED, FailureReason.NODE_FAILURE)
    assert site.work(job_id) not in site.witness.starts()


def test_without_cgroups_too_much_memory_is_inferred_and_said_to_be(slurm: SlurmCluster) -> None:
    with open_folder(slurm) as folder, closing(PortalSite(folder, slurm)) as site, site.dispatching():
        job_id = site.send_in("app", "need_much")
        page = site.wait_for_page(
            job_id,
            "The program was killed (signal 9) and left no word; perhaps it needed more than the 60 MiB of memory that "
            "it was given, but nobody recorded why.",
        )
        assert slurm_says(site, job_id, f"FAILED, signal 9, {site.record(job_id).attempt.node}") in page
        check_end(site, job_id, JobState.FAILED, FailureReason.LOST)
        assert NOT_YOURS not in page
