"""What the contract suite asks of every scheduler, asked of the simulated one, with the whole portal on top of it.

The suite in `tests/contract` runs real processes on real time; here both are simulated, so that its questions are put
once more, through the same verbs and to the same dispatcher.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from portal.dispatch.context import handle_of
from portal.errors import SchedulerError
from portal.jobs.acceptance import Submission
from portal.jobs.models import Attempt
from portal.jobs.states import FailureReason, JobState
from portal.jobs.store import JobRecord
from portal.schedulers.base import Absent, Found, Handle, JobSpec, SchedulerState, Submitted, Unknown
from tests.simulation.cluster import IN_QUEUE_SECONDS, LONGEST_ACCOUNTING_LAG_SECONDS
from tests.simulation.history import History
from tests.simulation.invariants import check
from tests.simulation.scheduler import SimulatedScheduler

pytestmark = [pytest.mark.daemon, pytest.mark.timeout(600)]

STRANGER = Handle("99999", "portal-other-bcdfghjk-1")
R = FailureReason


class Site:
    """A portal on the simulated scheduler, where nothing goes wrong but what the test asks for."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.world = history.world
        self.cluster = history.cluster
        self.scheduler = SimulatedScheduler(history.world, history.cluster)

    def submit(self, application: str = "resubmits") -> str:
        number = len(self.history.portal.accepted)
        job_id = self.history.portal.submit(
            Submission(application, {"x": "1"}, "ann@example.org", token=f"form-{number}")
        )
        assert job_id is not None
        return job_id

    def record(self, job_id: str) -> JobRecord:
        return self.history.portal.parts.jobs.record(job_id)

    def attempt(self, job_id: str) -> Attempt:
        return self.record(job_id).attempt

    def handle(self, job_id: str) -> Handle:
        handle = handle_of(self.attempt(job_id))
        assert handle is not None
        return handle

    def wait_for(self, job_id: str, *states: JobState) -> JobRecord:
        self.wait_until(lambda: self.record(job_id).job.state in states)
        return self.record(job_id)

    def wait_until(self, is_so: Callable[[], bool], seconds: float = 600) -> None:
        until = self.world.seconds + seconds
        while not is_so():
            assert self.world.seconds < until, "\n".join(self.world.trace[-40:])
            self.world.advance(1)

    def finish(self) -> None:
        """Let all come to rest: no promise was broken."""
        self.history._wait_until_quiet()
        check(self.history)
        assert self.world.violations == []


@contextmanager
def opened_site(*faults: str) -> Iterator[Site]:
    history = History(1)
    history.world.faults.enabled = set(faults)
    history.world.faults.certain = set(faults)
    with history._running():
        history.portal.start_dispatcher()
        yield Site(history)


def test_a_success_is_published_with_its_answer_and_one_mail() -> None:
    with opened_site() as site:
        record = site.wait_for(site.submit(), JobState.SUCCEEDED)
        assert record.result is not None
        assert record.result.answer == str(site.history.ledger.runs[0].answer)
        site.finish()
        assert len(site.history.mail.deliveries) == 1


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("program failed", R.PROGRAM_ERROR),
        ("out of memory", R.OUT_OF_MEMORY),
        ("time limit", R.TIME_LIMIT),
        ("preempted", R.PREEMPTED),
        ("node died", R.NODE_FAILURE),
        ("launch failed", R.LAUNCH_FAILED),
        ("submission refused", R.REJECTED),
        ("job can never run", R.REJECTED),
    ],
)
def test_each_end_is_told_by_its_name(fault: str, reason: FailureReason) -> None:
    with opened_site(fault) as site:
        record = site.wait_for(site.submit("holds"), JobState.FAILED)
        assert record.job.failure_reason is reason
        site.finish()


def test_a_signal_to_the_program_reaches_the_page() -> None:
    with opened_site("cancelled by an operator") as site:
        record = site.wait_for(site.submit(), JobState.CANCELLED)
        assert record.events[-1].by == "operator"
        site.finish()


def test_cancelling_what_waits_what_runs_and_what_has_ended() -> None:
    with opened_site() as site:
        running, ended = site.submit(), site.submit()
        site.wait_for(ended, JobState.SUCCEEDED)
        site.wait_for(running, JobState.SUCCEEDED)
        site.scheduler.cancel([site.handle(ended)])
        assert site.record(ended).job.state is JobState.SUCCEEDED
        running = site.submit()
        site.wait_for(running, JobState.RUNNING)
        assert site.history.portal.cancel(running, "ann@example.org")
        site.cluster.starts_nothing = True
        waiting = site.submit()
        site.wait_for(waiting, JobState.QUEUED)
        assert site.history.portal.cancel(waiting, "ann@example.org")
        site.wait_for(waiting, JobState.CANCELLED)
        # It may have been quicker than the wish.
        site.wait_for(running, JobState.CANCELLED, JobState.SUCCEEDED)
        assert not [run for run in site.history.ledger.runs if run.job_id == waiting]
        site.finish()


def test_unknown_ids_and_ids_of_another_name() -> None:
    with opened_site() as site:
        site.cluster.starts_nothing = True
        own = site.handle(site.wait_for(site.submit(), JobState.QUEUED).job.job_id)
        other = replace(own, name=STRANGER.name)
        seen = site.scheduler.observe([STRANGER, other, own])
        assert seen.keys() == {STRANGER, other, own}
        assert seen[own].state is SchedulerState.PENDING
        assert {seen[STRANGER].state, seen[other].state} == {SchedulerState.NOT_FOUND}
        site.scheduler.cancel([STRANGER, other])
        assert site.scheduler.observe([own])[own].state is SchedulerState.PENDING
        site.cluster.starts_nothing = False
        site.finish()


def test_a_dead_node_means_a_new_attempt_elsewhere_and_one_mail() -> None:
    with opened_site("node died") as site:
        job_id = site.submit()
        site.wait_until(lambda: site.record(job_id).job.attempt_number == 2)
        site.world.faults.enabled.clear()
        record = site.wait_for(job_id, JobState.SUCCEEDED)
        assert [attempt.failure_reason for attempt in record.attempts] == [R.NODE_FAILURE, None]
        assert record.attempts[0].node != record.attempts[1].node
        site.finish()
        assert len(site.history.mail.deliveries) == 1


def test_names_are_found_in_the_queue_and_then_in_accounting() -> None:
    with opened_site() as site:
        job_id = site.submit()
        handle = site.handle(site.wait_for(job_id, JobState.SUCCEEDED).job.job_id)
        assert site.scheduler.find([handle.name, "no-such-name"]) == {
            handle.name: Found((handle,)),
            "no-such-name": Absent(),
        }
        site.world.advance(IN_QUEUE_SECONDS + LONGEST_ACCOUNTING_LAG_SECONDS)
        assert site.scheduler.find([handle.name])[handle.name] == Found((handle,))
        assert site.scheduler.observe([handle])[handle].state is SchedulerState.COMPLETED
        site.cluster.accounting_is_out = True
        assert isinstance(site.scheduler.find([handle.name])[handle.name], Unknown)
        assert site.scheduler.observe([handle])[handle].state is SchedulerState.UNKNOWN


def test_an_outage_is_no_answer() -> None:
    with opened_site() as site:
        handle = site.handle(site.wait_for(site.submit(), JobState.QUEUED).job.job_id)
        site.cluster.controller_is_out = True
        for ask in (site.scheduler.observe, site.scheduler.cancel):
            with pytest.raises(SchedulerError):
                ask([handle])
        assert isinstance(site.scheduler.find([handle.name])[handle.name], Unknown)
        assert not site.scheduler.health().ok
        site.cluster.controller_is_out = False
        site.finish()


def test_an_id_that_is_given_out_again_belongs_to_the_new_name() -> None:
    with opened_site() as site:
        site.cluster.starts_nothing = True
        specs = [replace(_spec(site), name=name) for name in ("first", "second")]
        [first] = site.scheduler.submit(specs[:1])
        site.cluster.lose_last_seconds(30)
        [second] = site.scheduler.submit(specs[1:])
        assert isinstance(first, Submitted)
        assert isinstance(second, Submitted)
        assert first.handle.scheduler_id == second.handle.scheduler_id
        site.world.advance(LONGEST_ACCOUNTING_LAG_SECONDS)
        seen = site.scheduler.observe([first.handle, second.handle])
        assert seen[second.handle].state is SchedulerState.PENDING
        assert not seen[first.handle].state.is_alive


def _spec(site: Site) -> JobSpec:
    work = site.history.disk.portal_root / "work"
    return JobSpec("name", work / "job.sh", work, 1, 100, 1)


def test_two_hundred_at_once_and_a_dispatcher_that_is_killed_among_them() -> None:
    with opened_site() as site:
        job_ids = [site.submit() for _ in range(200)]
        site.wait_until(lambda: len(site.history.ledger.runs) >= 5)
        process, dispatcher = site.history.portal.dispatchers[0]
        process.is_dead = True
        site.history.portal._bury(process, dispatcher)
        site.wait_until(lambda: not site.history.portal.has_open_jobs(), 1200)
        site.finish()
        assert {site.record(job_id).job.state for job_id in job_ids} == {JobState.SUCCEEDED}
        assert len({run.scheduler_id for run in site.history.ledger.runs}) == len(site.history.ledger.runs) == 200
