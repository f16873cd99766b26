"""`make chaos MINUTES=10 [SEED=…] [JOBS_PER_SECOND=…]`: the run itself. Needs root and Debian's Slurm, as the tests do.

Jobs go in and faults happen for so many minutes; then everything is started, and the run waits, for so long at most,
until all jobs are final and all mail has left. The table at the end is counted from what programs, mail server and
job directories say, not only from the portal's tables. Exit 1 where a promise was broken.
"""

import argparse
import queue
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TextIO

from tests.chaos.plan import TARGETS, Fault, Submission, plan_faults, plan_submissions
from tests.chaos.site import ChaosSite
from tests.chaos.table import as_text, count, is_good
from tests.slurm_cluster import SlurmCluster, own_cluster

SETTLE_SECONDS = 420
"""What the last part may take, from the last fault on."""
PROCESSES = ("smtp", "web", "dispatcher")
_SENDERS = 4
_RETRY_SECONDS = 0.5
_LOOK_SECONDS = 3


class FaultLog:
    """What happened when, in a file."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._began = time.monotonic()
        self._lock = threading.Lock()

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.monotonic() - self._began

    def note(self, words: str) -> None:
        """One line, with the time."""
        with self._lock:
            now = datetime.now(UTC).strftime("%H:%M:%S.%f")[:-3]
            print(f"{now} {self.seconds:7.1f} s  {words}", file=self._file, flush=True)


class Saboteur:
    """Carries out the plan, each target in a thread of its own, and starts what ended by itself, as systemd would."""

    def __init__(self, site: ChaosSite, cluster: SlurmCluster, log: FaultLog, stop: threading.Event) -> None:
        self._site = site
        self._cluster = cluster
        self._log = log
        self._stop = stop
        self._down: set[str] = set()
        self.faults = 0
        self.failures: list[str] = []

    def carry_out(self, faults: list[Fault], until_seconds: float) -> None:
        """Return when the last target is up again."""
        by_target = [[fault for fault in faults if fault.target == target.name] for target in TARGETS]
        threads = [threading.Thread(target=self._all_of, args=(mine,)) for mine in by_target]
        for thread in threads:
            thread.start()
        try:
            while self._log.seconds < until_seconds or any(thread.is_alive() for thread in threads):
                time.sleep(_LOOK_SECONDS)
                self._keep_up()
        except BaseException:
            self._stop.set()
            raise
        finally:
            for thread in threads:
                thread.join()

    def _all_of(self, faults: list[Fault]) -> None:
        for fault in faults:
            if self._stop.wait(max(0.0, fault.at_seconds - self._log.seconds)):
                return
            name = f"{fault.target} {fault.node}".strip()
            self._down.add(fault.target)
            self._try(f"kill {name}{' and say so' if fault.slurm_is_told else ''}", partial(self._kill, fault))
            self.faults += 1
            self._stop.wait(fault.outage_seconds)
            self._try(f"start {name}", partial(self._start, fault))
            self._down.discard(fault.target)

    def _try(self, name: str, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:  # a step that fails must not end the run: the last part starts everything
            self.failures.append(name)
            self._log.note(f"{name}: FAILED {type(error).__name__}: {str(error)[-500:]}")
        else:
            self._log.note(name)

    def _kill(self, fault: Fault) -> None:
        if fault.target in PROCESSES:
            self._site.kill_process(fault.target)
        elif fault.target == "node":
            self._cluster.kill_node(fault.node, now=fault.slurm_is_told)
        else:
            self._cluster.stop_daemon(fault.target, signal.SIGKILL)

    def _start(self, fault: Fault) -> None:
        if fault.target in PROCESSES:
            self._site.start_process(fault.target)
        elif fault.target == "node":
            self._cluster.revive_node(fault.node)
        else:
            self._cluster.start_daemon(fault.target)

    def _keep_up(self) -> None:
        resume_drained(self._cluster, self._log)
        for name in PROCESSES:
            if name not in self._down and self._site.has_ended(name):
                self._log.note(f"{name} had ended by itself, and is started")
                self._site.start_process(name)


class Visitors:
    """Send jobs in at their times, each again and again until the web server has said that it is accepted."""

    def __init__(self, site: ChaosSite, log: FaultLog, submissions: list[Submission], stop: threading.Event) -> None:
        self._site = site
        self._log = log
        self._stop = stop
        self._waiting: queue.SimpleQueue[Submission | None] = queue.SimpleQueue()
        for submission in submissions:
            self._waiting.put(submission)
        for _ in range(_SENDERS):
            self._waiting.put(None)
        self.accepted: dict[str, Submission] = {}
        self.refused: list[str] = []
        self.repeats = 0
        self._threads = [threading.Thread(target=self._send_all) for _ in range(_SENDERS)]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Return once all jobs are in."""
        for thread in self._threads:
            thread.join()

    def _send_all(self) -> None:
        while (submission := self._waiting.get()) is not None:
            self._stop.wait(max(0.0, submission.at_seconds - self._log.seconds))
            if self._stop.is_set():
                return
            self._send(submission)

    def _send(self, submission: Submission) -> None:
        try:
            while (job_id := self._site.send_in(submission)) is None:
                self.repeats += 1
                if self._stop.wait(_RETRY_SECONDS):
                    return
        except AssertionError as error:
            self.refused.append(submission.key)
            self._log.note(f"{submission.key}: {error}")
            return
        if job_id in self.accepted:
            self._log.note(f"{submission.key}: was given job {job_id}, which is another's")
            self.refused.append(submission.key)
        self.accepted[job_id] = submission


def resume_drained(cluster: SlurmCluster, log: FaultLog) -> None:
    """What an administrator does: a slurmctld that has lost its last seconds may start a job on a node once more,
    and then drains the node ("Duplicate jobid"), which nothing but a word of somebody's ends."""
    nodes = cluster.run("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T", account="root", seconds=60)
    for name, state in (line.split() for line in nodes.stdout.splitlines() if len(line.split()) == 2):
        if state.startswith("drain"):
            done = cluster.run("scontrol", "update", f"nodename={name}", "state=resume", account="root", seconds=60)
            log.note(f"{name} was {state}, and is resumed" if done.returncode == 0 else f"{name} stays {state}")


def settle(site: ChaosSite, cluster: SlurmCluster, visitors: Visitors, log: FaultLog) -> str:
    """Start everything and wait; what is missing at the end, in words, or nothing."""
    for name in PROCESSES:
        site.start_process(name)
    cluster.up("--no-install")
    log.note("everything is up")
    visitors.join()
    deadline_seconds = time.monotonic() + SETTLE_SECONDS
    missing = said = "everything"
    while missing and time.monotonic() < deadline_seconds:
        for name in PROCESSES:
            site.start_process(name)
        resume_drained(cluster, log)
        missing = site.is_settled(list(visitors.accepted))
        if missing != said:
            log.note(f"still to come: {missing or 'nothing'}")
            said = missing
        time.sleep(_LOOK_SECONDS)
    return missing


def run(seconds: float, seed: int, jobs_per_second: float) -> int:
    """One run; the exit code."""
    keep = Path(tempfile.mkdtemp(prefix=f"portal-chaos-{seed}-"))
    faults, submissions = plan_faults(seed, seconds), plan_submissions(seed, seconds, jobs_per_second)
    print(f"seed {seed}: {len(submissions)} jobs and {len(faults)} faults in {seconds / 60:g} minutes", flush=True)
    print(f"log of faults: {keep}/faults.log", flush=True)
    with ExitStack() as stack:
        file = stack.enter_context((keep / "faults.log").open("w"))
        cluster = stack.enter_context(own_cluster("chaos", "--nodes", "3", slurmd_timeout_seconds=10))
        folder = Path(tempfile.mkdtemp(prefix="site-", dir=cluster.home))
        site = ChaosSite(folder, cluster)
        stack.callback(lambda: _keep_logs(folder, cluster, keep))
        stack.callback(site.close)
        for name in PROCESSES:
            site.start_process(name)
        log = FaultLog(file)
        log.note(f"seed {seed}, {seconds:g} seconds, {jobs_per_second:g} jobs a second")
        stop = threading.Event()
        visitors = Visitors(site, log, submissions, stop)
        visitors.start()
        stack.callback(visitors.join)
        stack.callback(stop.set)  # before all else at the end: nothing is started again after it was taken down
        saboteur = Saboteur(site, cluster, log, stop)
        saboteur.carry_out(faults, seconds)
        missing = settle(site, cluster, visitors, log)
        lines = count(site.facts(visitors.accepted))
        print(as_text(lines))
        print(
            f"{saboteur.faults} faults ({len(saboteur.failures)} could not be carried out whole), "
            f"{visitors.repeats} submissions sent again, {log.seconds:.0f} s in all"
        )
        good = is_good(lines) and not visitors.refused and not missing
        if visitors.refused:
            print(f"refused: {' '.join(visitors.refused[:20])}")
        if missing:
            print(f"after {SETTLE_SECONDS} s still to come: {missing}")
        print("all promises were kept" if good else f"BROKEN: see {keep}, and run again with SEED={seed}", flush=True)
        if not good:
            _keep_evidence(site, keep)
        return 0 if good else 1


def _keep_logs(folder: Path, cluster: SlurmCluster, keep: Path) -> None:
    for log in (*folder.glob("*.log"), cluster.home / "log" / "slurmctld.log"):
        if log.exists():
            shutil.copy(log, keep)


def _keep_evidence(site: ChaosSite, keep: Path) -> None:
    """The database and the job directories, for whoever looks for the mistake."""
    shutil.copytree(site.folder / "data", keep / "data", symlinks=True, ignore=shutil.ignore_patterns("*.sock"))
    shutil.copytree(site.jobs_dir, keep / "jobs", symlinks=True)
    shutil.copytree(site.mail_folder, keep / "received")
    shutil.copy(site.witness.path, keep / "witness")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="make chaos")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--jobs-per-second", type=float, default=1.0)
    chosen = parser.parse_args()
    sys.exit(run(60 * chosen.minutes, chosen.seed, chosen.jobs_per_second))


if __name__ == "__main__":
    main()
