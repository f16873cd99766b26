"""Submitting to a real Slurm, batch by batch, against its floors, in one run: `python -m benchmarks.slurm [--jobs N]`.

Brings up a cluster of its own (root, Debian 12) whose nodes are drained, so that submission alone is measured. The
floors are one `sbatch` after the other on the login node, and one `ssh … sbatch` each, as people do it.
"""

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.embedded import measure
from portal.clock import SystemClock
from portal.jobs.directory import PORTAL_FOLDER_MODE, AttemptDirectory, make_folder
from portal.jobs.ids import new_job_id
from portal.jobs.node_files import current_helper, install_node_files
from portal.schedulers.base import JobSpec, Submitted
from portal.schedulers.commands import LocalRunner, Runner
from portal.schedulers.helper import Helper
from portal.schedulers.slurm_scheduler import SlurmScheduler
from portal.schedulers.ssh import SshConnection, SshRunner, SshTarget
from tests.slurm_cluster import JOBS_ACCOUNT, SlurmCluster, own_cluster

_AS_JOBS_ACCOUNT = ["setpriv", f"--reuid={JOBS_ACCOUNT}", f"--regid={JOBS_ACCOUNT}", "--init-groups", "--"]


@dataclass(frozen=True)
class Way:
    """A way to submit, and the seconds that it took."""

    name: str
    seconds: float


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100)
    count = parser.parse_args().jobs
    with own_cluster("benchmark", "--nodes", "1") as cluster:
        os.environ["SLURM_CONF"] = cluster.environment["SLURM_CONF"]
        cluster.run("scontrol", "update", "nodename=ALL", "state=drain", "reason=benchmark", account="root")
        install_node_files(cluster.jobs_dir, [])
        ways = _measure_all(cluster, count)
    floor = ways[-1].seconds
    print(f"{count} jobs")
    print(f"{'':44}{'per job':>10}{'ratio':>8}")
    for way in ways:
        print(f"{way.name:44}{1000 * way.seconds / count:>7.1f} ms{way.seconds / floor:>8.2f}")


def _measure_all(cluster: SlurmCluster, count: int) -> list[Way]:
    helper = ["/usr/bin/python3", "-I", str(current_helper(cluster.jobs_dir))]
    target = SshTarget("127.0.0.1", cluster.ssh_port, JOBS_ACCOUNT, cluster.helper_key, cluster.known_hosts, 10)
    ssh = ["ssh", "-F", str(cluster.ssh_config), "people"]
    return [
        _portal("the portal, on this machine", cluster, LocalRunner([*_AS_JOBS_ACCOUNT, *helper]), count),
        _portal("the portal, over SSH", cluster, SshRunner(SshConnection(target), "helper"), count),
        _one_by_one("one `ssh ... sbatch` after the other", cluster, lambda spec: [*ssh, *_sbatch(spec)], count),
        _one_by_one("one `sbatch` after the other", cluster, lambda spec: [*_AS_JOBS_ACCOUNT, *_sbatch(spec)], count),
    ]


def _portal(name: str, cluster: SlurmCluster, runner: Runner, count: int) -> Way:
    scheduler = SlurmScheduler(Helper(runner, cluster.jobs_dir, 60), SystemClock())
    scheduler.health()
    specs = [_spec(cluster, scheduler) for _ in range(count)]
    seconds = measure(lambda: _check([isinstance(answer, Submitted) for answer in scheduler.submit(specs)]))
    scheduler.close()
    cluster.cancel_all()
    return Way(name, seconds)


def _one_by_one(name: str, cluster: SlurmCluster, command: Callable[[JobSpec], list[str]], count: int) -> Way:
    scheduler = SlurmScheduler(Helper(LocalRunner([]), cluster.jobs_dir, 60), SystemClock())
    commands = [command(_spec(cluster, scheduler)) for _ in range(count)]
    seconds = measure(lambda: _check([cluster.run(*command, account="root").returncode == 0 for command in commands]))
    cluster.cancel_all()
    return Way(name, seconds)


def _check(submitted: list[bool]) -> None:
    if not all(submitted):
        raise SystemExit(f"only {sum(submitted)} of {len(submitted)} were submitted")


def _sbatch(spec: JobSpec) -> list[str]:
    return ["sbatch", "--parsable", f"--chdir={spec.working_dir}", str(spec.script)]


def _spec(cluster: SlurmCluster, scheduler: SlurmScheduler) -> JobSpec:
    job_id = new_job_id()
    folder: Path = cluster.jobs_dir / f"job-{job_id}"
    make_folder(folder, PORTAL_FOLDER_MODE)
    attempt = AttemptDirectory(folder / "attempts" / "1")
    attempt.make()
    spec = JobSpec(f"portal-bench-{job_id}-1", attempt.job_script, attempt.work, 5, memory_mib=50, cpus=1)
    attempt.job_script.write_text("\n".join(["#!/bin/sh", *scheduler.directives(spec), ":"]) + "\n")
    attempt.job_script.chmod(0o750)
    return spec


if __name__ == "__main__":
    main()
