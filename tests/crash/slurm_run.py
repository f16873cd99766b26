"""The same on a real Slurm: the dispatcher runs as `portal`, jobs as `portal-jobs`, and the dispatcher is killed.

The steps of the web server and of the wrapper are those of every scheduler; what is different is what the dispatcher
does around `sbatch`. Each run has a portal and a jobs folder of its own; several share the cluster.
"""

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from portal.dispatch.publication import markers_are_right
from portal.jobs.states import JobState
from tests.contract.sites import AS_PORTAL, SlurmSite
from tests.crash.hooks import Order, Step
from tests.crash.nursery import Nursery
from tests.crash.points import Found, Recording, all_points
from tests.crash.run import CrashRun
from tests.slurm_cluster import JOBS_ACCOUNT, SlurmCluster
from tests.waiting import wait_until


class CrashSite(SlurmSite):
    """A portal with one accepted job and a jobs folder of its own."""

    def _place_jobs(self, folder: Path) -> Path:
        jobs_dir = folder / "jobs"
        jobs_dir.mkdir()
        shutil.chown(jobs_dir, "portal", JOBS_ACCOUNT)
        jobs_dir.chmod(0o2750)
        return jobs_dir


class SlurmCrashRun(CrashRun):
    """One run: from an accepted job to the end, with Slurm in the place of the client."""

    def __init__(self, site: CrashSite, nursery: Nursery, order: Order | None) -> None:
        super().__init__(site.folder, site.folder, nursery, order)
        self.site = site
        self.witness = site.witness
        self.job_id = site.submit("wait")
        self.told.append(self.job_id)
        self.database_file = site.folder / "data" / "portal.db"

    def prepare(self) -> None:
        self._write_order()

    def _run_until_over(self) -> None:
        self.start("dispatcher")
        self.wait_for_the_end()

    def _go_on(self) -> None:
        if self._ask("SELECT 1 FROM jobs WHERE state = 'running'"):
            self.site.let_go()

    def check(self, submissions: int = 1) -> None:
        """AssertionError that says which promise was broken. In the main thread: it changes the account.

        It was in Slurm so often; whatever of that came too late found the claim taken.
        """
        record = self.site.record(self.job_id)
        assert record.job.state is JobState.SUCCEEDED
        assert [attempt.number for attempt in record.attempts] == [1]
        assert self.witness.starts() == Counter({self.site.work(self.job_id): 1}), self.witness.starts()
        wait_until(lambda: len(self.submissions()) >= submissions, 30, "accounting, which lags, to know of it")
        in_slurm = self.submissions()
        assert len(in_slurm) == submissions, f"in Slurm as {in_slurm}"
        assert record.attempt.scheduler_id in in_slurm
        directory = self.site.directory(self.job_id)
        assert markers_are_right(directory, 1, succeeded=True)
        assert (directory.path / "output.txt").read_text() == "The answer is: 4\n"
        mails = self._ask("SELECT outcome, message_id FROM mail_outbox WHERE sent_at IS NOT NULL")
        assert [mail[0] for mail in mails] == ["succeeded"]
        assert set(self.handed_over()) == {mails[0][1]}
        assert len(self.handed_over()) <= 2
        assert len(self.site.mails()) == 1

    def submissions(self) -> list[str]:
        """Every job that Slurm's accounting ever had under this name."""
        name = self.site.record(self.job_id).attempt.scheduler_name
        done = self.site.cluster.run("sacct", "-X", "-n", "-P", "-S", "now-2hours", f"--name={name}", "--format=JobID")
        assert done.returncode == 0, done.stderr
        return done.stdout.split()


class SlurmWorkshop:
    """Runs on one cluster."""

    def __init__(self, cluster: SlurmCluster) -> None:
        self._cluster = cluster
        self._folder = Path(tempfile.mkdtemp(prefix="crash-", dir=cluster.home))
        self._folder.chmod(0o755)
        (self._folder / "templates").mkdir()
        self._count = 0
        self._nursery = Nursery(self._folder, (str(AS_PORTAL),), {"HOME": "/"})

    def record(self) -> Recording:
        """The dispatcher's steps in two undisturbed runs."""
        first, second = (self._one(None) for _ in range(2))
        return Recording(tuple(step for step in first if step in second), tuple(sorted({*first} ^ {*second})))

    def _one(self, order: Order | None) -> list[Step]:
        with self.runs([order]) as runs:
            for run in runs:
                run.go()
                run.check()
            return runs[0].steps()["dispatcher"]

    @contextmanager
    def runs(self, orders: Sequence[Order | None]) -> Iterator[list[SlurmCrashRun]]:
        """A run for each order, with its job accepted; nothing is left of them."""
        runs = []
        try:
            for order in orders:
                self._count += 1
                folder = self._folder / str(self._count)
                folder.mkdir()
                runs.append(SlurmCrashRun(CrashSite(folder, self._cluster), self._nursery, order))
            yield runs
        finally:
            for run in runs:
                run.site.close()
                shutil.rmtree(run.folder)

    def kill_at_all(self, orders: Sequence[Order], at_once: int) -> list[Found]:
        """Each order with what came of it."""
        found = []
        for start in range(0, len(orders), at_once):
            with self.runs(orders[start : start + at_once]) as runs, ThreadPoolExecutor(at_once) as pool:
                problems = list(pool.map(_go, runs))
                found += [_found(run, problem) for run, problem in zip(runs, problems, strict=True)]
        return found

    def close(self) -> None:
        """Leave nothing behind."""
        self._nursery.close()
        shutil.rmtree(self._folder)


def fixed_sample(recording: Recording) -> list[Order]:
    """Before and after each step between the intent and the scheduler's id in the database, and around the outcome."""
    names = {str(order): order for order in all_points(recording)}
    return [names[name] for name in SAMPLE]


_ATTEMPT = "jobs/job-ID/attempts/1"
SAMPLE = (
    "before dispatcher: commit dispatch.submission._commit_intents",
    "after dispatcher: commit dispatch.submission._commit_intents",
    "before dispatcher: scheduler submit",
    "after dispatcher: scheduler submit",
    f"before dispatcher: rename {_ATTEMPT}/.submission.json.*.tmp -> {_ATTEMPT}/submission.json #2",
    "before dispatcher: commit dispatch.answers.record_submitted",
    "after dispatcher: commit dispatch.answers.record_submitted",
    "before dispatcher: open jobs/job-ID/SUCCESS",
    "before dispatcher: commit dispatch.publication.publish_end",
    "after dispatcher: commit dispatch.publication.publish_end",
    "before dispatcher: mail send",
    "after dispatcher: mail send",
    "after dispatcher: commit mail.ledger._update",
)


def _go(run: SlurmCrashRun) -> str:
    try:
        run.go()
    except AssertionError as error:
        return str(error)
    return ""


def _found(run: SlurmCrashRun, problem: str) -> Found:
    assert run.order is not None
    try:
        if not problem:
            run.check()
    except AssertionError as error:
        problem = f"{run.order}: {error}\n{run.facts()}\n{run.log()[-4000:]}"
    return Found(run.order, run.was_reached, problem)
