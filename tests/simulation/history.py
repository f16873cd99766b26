"""One history: a portal, its visitors and its cluster, while everything goes wrong, and then until all is quiet."""

import os
import shutil
import smtplib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import structlog

from portal.dispatch.dispatcher import RECONCILE_EVERY_SECONDS
from portal.jobs import directory as directories
from portal.jobs.acceptance import Submission
from portal.jobs.ids import ALPHABET, LENGTH
from portal.node import mail as node_mail
from portal.node import wrapper
from tests.simulation.cluster import Cluster, ClusterJob
from tests.simulation.disk import Disk
from tests.simulation.invariants import check
from tests.simulation.mail import MailServer, NodeSmtp
from tests.simulation.nodes import Ledger, WrapperRun
from tests.simulation.portal import APPLICATIONS, REFUSALS, SimulatedPortal, machine
from tests.simulation.world import World

STORMY_SECONDS = 240.0
"""How long things go wrong."""
QUIET_STEP_SECONDS = 8.0
LONGEST_QUIET_SECONDS = 4 * 3600.0
"""After which whatever is not at rest counts as stuck."""
SETTLING_SECONDS = 70.0
"""Once all is at rest: long enough for a late correction, and for what it would set off."""
_OWNERS = ("ann@example.org", "bob@example.org")


@dataclass(frozen=True)
class Outcome:
    """What came of one history."""

    seed: int
    violations: list[str]
    trace: list[str]
    digest: str
    faults: Counter[str]
    jobs: int
    simulated_seconds: float


class History:
    """All that one seed makes."""

    def __init__(self, seed: int) -> None:
        self.world = world = World(seed)
        root = machine().root
        portal_root = root / "jobs"
        lags = "files lag behind" in world.faults.enabled
        node_root = root / "nodes" if lags else portal_root
        for folder in {portal_root, node_root}:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        (portal_root / ".instance").write_text("simula\n")
        self.disk = Disk(world, portal_root, node_root)
        self.ledger = Ledger()
        self.cluster = Cluster(world, self._make_run)
        self.mail = MailServer(world)
        sent_by = "node" if world.luck("settings").random() < 0.25 else "portal"
        self.portal = SimulatedPortal(world, self.cluster, self.disk, self.mail, sent_by)
        self.forms: dict[str, Submission] = {}
        """By token: what visitors sent in."""
        self.wishes: set[str] = set()
        """Jobs whose cancellation was recorded."""
        self._planned_until = 0.0

    def _make_run(self, cluster: Cluster, job: ClusterJob, node: str, is_the_jobs: bool) -> WrapperRun:
        return WrapperRun(self.world, self.disk, self.ledger, cluster, job, node, is_the_jobs)

    def run(self) -> None:
        """Play it, and check every promise at its end."""
        with self._running():
            self._plan()
            self.portal.start_dispatcher()
            self._weather_the_storm()
            self._calm()
            self._wait_until_quiet()
            check(self)

    @contextmanager
    def _running(self) -> Iterator[None]:
        """The real code works in this world, and nowhere else."""
        world = self.world
        with ExitStack() as stack:
            stack.enter_context(self.disk.watched())
            stack.enter_context(machine().committing(self.portal.commit))
            for where, name, value in (
                (wrapper, "utc_now_text", self._utc_now_text),
                (node_mail, "utc_now_text", self._utc_now_text),
                (wrapper, "_peak_memory_mib", lambda: 12.5),
                (wrapper, "_say", lambda _message: None),
                (directories, "new_job_id", self._new_job_id),
                (smtplib, "SMTP", NodeSmtp),
            ):
                stack.enter_context(mock.patch.object(where, name, value))
            NodeSmtp.server = self.mail
            stack.enter_context(_logging_to(world))
            try:
                yield
            finally:
                self.portal.close()

    def _utc_now_text(self) -> str:
        return self.world.now_utc().isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def _new_job_id(self) -> str:
        return "".join(self.world.luck("job ids").choice(ALPHABET) for _ in range(LENGTH))

    # While things go wrong

    def _plan(self) -> None:
        world, faults, luck = self.world, self.world.faults, self.world.luck("plan")
        for number in range(luck.choice((1, 1, 2, 3))):
            owner, application = luck.choice(_OWNERS), luck.choice(list(APPLICATIONS))
            form = Submission(application, {"x": str(number)}, owner, token=f"form-{number}")
            self.forms[form.token] = form
            visits_in = world.between("form", 0, 60)
            world.after(visits_in, "form", partial(self._visit, form))
            self._planned_until = max(self._planned_until, visits_in)
        for kind, start, end in (
            ("scheduler outage", self._scheduler_out(True), self._scheduler_out(False)),
            ("accounting outage", self._accounting_out(True), self._accounting_out(False)),
            ("mail server out", self._mail_out(True), self._mail_out(False)),
            ("disk full", self._disk_refuses(REFUSALS[0]), self._disk_refuses(None)),
            ("disk read-only", self._disk_refuses(REFUSALS[1]), self._disk_refuses(None)),
        ):
            if faults.strikes(kind):
                begins = world.between(kind, 0, STORMY_SECONDS * 0.6)
                world.after(begins, kind, self._saying(kind, start))
                world.after(begins + world.between(kind, 5, 90), kind, self._saying(f"end of {kind}", end))
                self._planned_until = max(self._planned_until, begins)
        if faults.strikes("portal stopped in order"):
            world.after(world.between("stop", 5, 120), "stop", self.portal.stop_in_order)
        if faults.strikes("lock lost"):
            world.after(world.between("lock", 5, 120), "lock", self._lose_lock)

    def _saying(self, what: str, action: Callable[[], None]) -> Callable[[], None]:
        def act() -> None:
            self.world.say(what)
            action()

        return act

    def _scheduler_out(self, is_out: bool) -> Callable[[], None]:
        return lambda: setattr(self.cluster, "controller_is_out", is_out)

    def _accounting_out(self, is_out: bool) -> Callable[[], None]:
        return lambda: setattr(self.cluster, "accounting_is_out", is_out)

    def _mail_out(self, is_out: bool) -> Callable[[], None]:
        return lambda: setattr(self.mail, "is_out", is_out)

    def _disk_refuses(self, number: int | None) -> Callable[[], None]:
        def act() -> None:
            self.disk.refusal = number
            self.disk.database_refuses_too = self.world.luck("disk").random() < 0.5

        return act

    def _lose_lock(self) -> None:
        """The lock goes while its holder is between two turns; another dispatcher takes over."""
        self.world.say("the lock is lost")
        for _, dispatcher in self.portal.dispatchers:
            dispatcher._dispatch.leadership.release()
        self.portal.start_dispatcher()

    def _visit(self, form: Submission) -> None:
        """A visitor sends a form in, again where they saw an error, and may wish for its end."""
        world = self.world
        before = set(self.portal.folder.job_ids())
        job_id = self.portal.submit(form)
        self._stamp(before)
        if job_id is None:
            if world.luck("visitor").random() < 0.8:
                world.after(world.between("again", 5, 40), "form again", lambda: self._visit(form))
            return
        if world.faults.strikes("form sent twice"):
            world.after(world.between("again", 0, 40), "form again", lambda: self._send_again(form))
        if world.faults.strikes("cancellation wished"):
            world.after(world.between("cancel", 0, 90), "cancel", lambda: self._cancel(job_id, form.email))

    def _send_again(self, form: Submission) -> None:
        self.portal.submit(form)

    def _cancel(self, job_id: str, by: str) -> None:
        if self.portal.cancel(job_id, by):
            self.wishes.add(job_id)

    def _stamp(self, before: set[str]) -> None:
        """What was just made bears this world's time: adoption goes by it."""
        moment = self.world.now_utc().timestamp()
        for job_id in set(self.portal.folder.job_ids()) - before:
            directory = self.portal.folder.job(job_id)
            for path in (directory.config, directory.path):
                if path.exists():
                    os.utime(path, (moment, moment))

    def _weather_the_storm(self) -> None:
        """Until all that was planned has happened and the jobs have ended, or for so long."""
        world = self.world
        while world.seconds < STORMY_SECONDS:
            world.advance(QUIET_STEP_SECONDS)
            if world.seconds > self._planned_until and not self._unrest():
                return

    # Until all is quiet

    def _calm(self) -> None:
        self.world.say("from here on nothing more goes wrong")
        self.world.faults.are_on = False
        self.cluster.controller_is_out = self.cluster.accounting_is_out = self.mail.is_out = False
        self.disk.refusal = None
        for process, _ in self.portal.dispatchers:
            process.dies_at = process.pauses_at = None
        self.portal.turn_seconds = QUIET_STEP_SECONDS

    def _wait_until_quiet(self) -> None:
        world, began = self.world, self.world.seconds
        quiet_seconds = 0.0
        while quiet_seconds < SETTLING_SECONDS:
            if world.seconds - began > LONGEST_QUIET_SECONDS:
                world.violate(f"not at rest after {LONGEST_QUIET_SECONDS:.0f} s: {self._unrest()}")
                return
            unrest = self._unrest()
            quiet_seconds = 0.0 if unrest else quiet_seconds + QUIET_STEP_SECONDS
            is_patient = unrest in ("mail", "orphans")
            self.portal.turn_seconds = 60.0 if is_patient else QUIET_STEP_SECONDS
            world.advance(60.0 if is_patient else QUIET_STEP_SECONDS)
        if world.faults.counts["process stood still"]:
            # What somebody did who had been overtaken is mended when the dispatcher looks again.
            self.portal.looks_again, self.portal.turn_seconds = True, RECONCILE_EVERY_SECONDS / 2
            world.advance(1.6 * RECONCILE_EVERY_SECONDS)

    def _unrest(self) -> str:
        """What is still going on, in a word; empty where all is at rest."""
        if any(run.is_alive for job in self.cluster.jobs for run in job.runs):
            return "runs"
        if self.portal.has_open_jobs():
            return "jobs"
        if self.portal.owes_mail():
            return "mail"
        return "orphans" if self.portal.has_orphans() else ""


@contextmanager
def _logging_to(world: World) -> Iterator[None]:
    """The log goes into the trace; what the portal did not expect breaks a promise."""

    def note(_logger: Any, _method: str, event: Any) -> Any:
        if event.get("exc_info"):
            import traceback

            world.violate(f"an unexpected error: {event['event']}: {traceback.format_exc(limit=-4)}")
        raise structlog.DropEvent

    structlog.configure(
        processors=[note], wrapper_class=structlog.make_filtering_bound_logger(40), cache_logger_on_first_use=False
    )
    try:
        yield
    finally:
        structlog.reset_defaults()


def play(seed: int) -> Outcome:
    """The history of this seed."""
    history = History(seed)
    history.run()
    world = history.world
    return Outcome(
        seed,
        world.violations,
        world.trace,
        world.digest(),
        world.faults.counts,
        len(history.portal.accepted),
        world.seconds,
    )
