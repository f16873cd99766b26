"""The embedded scheduler's promises to the dispatcher, with a clock that the test turns and no client process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import delete, select

from portal.database import Database
from portal.errors import SchedulerError
from portal.schedulers.base import (
    Absent,
    Found,
    Handle,
    Health,
    InDoubt,
    JobSpec,
    Observation,
    SchedulerState,
    Submitted,
    Unknown,
)
from portal.schedulers.local import LEASE_SECONDS, LocalScheduler, end_job, put_back, take_next
from portal.schedulers.local_tables import ClientLease, EndedJob, QueuedJob, RunningJob
from portal.schedulers.work import TERM_SECONDS, WRAPPER_SECONDS, Cause, End, Work, end_of
from tests.waiting import wait_until
from tests.web_portal import HandClock
from tests.wrapper_attempts import REPOSITORY, is_alive

NOT_FOUND = Observation(SchedulerState.NOT_FOUND)


class Bench:
    """A queue, and what a compute client would do to it."""

    def __init__(self, folder: Path) -> None:
        self.database = Database(f"sqlite:///{folder / 'portal.db'}")
        self.database.upgrade()
        self.clock = HandClock()
        self.scheduler = LocalScheduler(self.database, self.clock)

    def submit(self, *names: str) -> list[Handle]:
        answers = self.scheduler.submit([spec(name) for name in names])
        assert all(isinstance(answer, Submitted) for answer in answers)
        return [answer.handle for answer in answers if isinstance(answer, Submitted)]

    def state(self, handle: Handle) -> SchedulerState:
        return self.scheduler.observe([handle])[handle].state

    def register(self, client_id: str, slots: int = 1) -> None:
        with self.database.writing() as session:
            session.add(ClientLease(client_id=client_id, node="here", slots=slots, started_at=self.clock.now))

    def beat(self, client_id: str) -> None:
        with self.database.writing() as session:
            session.get_one(ClientLease, client_id).heartbeats += 1

    def take(self, client_id: str = "c1") -> str | None:
        with self.database.writing() as session:
            job = take_next(session, client_id, "here", self.clock.now)
            return job.name if job else None

    def end(self, name: str, state: SchedulerState = SchedulerState.COMPLETED) -> None:
        with self.database.writing() as session:
            job = session.scalars(select(RunningJob).where(RunningJob.name == name)).one()
            end_job(session, job, state, self.clock.now, exit_code=0)

    def put_back(self, name: str) -> None:
        with self.database.writing() as session:
            put_back(session, session.scalars(select(RunningJob).where(RunningJob.name == name)).one(), self.clock.now)


def spec(name: str) -> JobSpec:
    return JobSpec(name, Path(f"/jobs/{name}/job.sh"), Path(f"/jobs/{name}/work"), 5, memory_mib=64, cpus=1)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_name_keeps_its_id_whether_it_waits_runs_or_has_ended(bench: Bench) -> None:
    [handle] = bench.submit("a")
    assert bench.submit("a", "a") == [handle, handle]
    assert bench.state(handle) is SchedulerState.PENDING
    assert bench.take() == "a"
    assert bench.submit("a") == [handle]
    assert bench.state(handle) is SchedulerState.RUNNING
    bench.end("a")
    assert bench.submit("a") == [handle]
    assert bench.state(handle) is SchedulerState.COMPLETED
    assert bench.take() is None


def test_ids_are_never_used_again(bench: Bench) -> None:
    ids = [int(handle.scheduler_id) for handle in bench.submit("a", "b")]
    bench.take()
    bench.take()
    bench.end("a")
    bench.end("b")
    with bench.database.writing() as session:
        session.execute(delete(EndedJob))
    [again] = bench.submit("a")
    assert int(again.scheduler_id) > max(ids)


def test_jobs_are_taken_in_their_order_and_one_put_back_is_the_next(bench: Bench) -> None:
    first, second = bench.submit("a", "b")
    assert bench.take() == "a"
    bench.put_back("a")
    assert bench.state(first) is SchedulerState.PENDING
    assert [bench.take(), bench.take(), bench.take()] == ["a", "b", None]
    assert [bench.state(first), bench.state(second)] == [SchedulerState.RUNNING] * 2


def test_what_was_to_be_cancelled_is_not_put_back(bench: Bench) -> None:
    [handle] = bench.submit("a")
    bench.take()
    bench.scheduler.cancel([handle])
    assert bench.state(handle) is SchedulerState.RUNNING
    bench.put_back("a")
    assert bench.state(handle) is SchedulerState.CANCELLED


def test_what_is_observed(bench: Bench) -> None:
    ended, runs, waits = bench.submit("ends", "runs", "waits")
    bench.take()
    bench.take()
    bench.end("ends", SchedulerState.FAILED)
    now = bench.clock.now
    assert bench.scheduler.observe([waits, runs, ended]) == {
        waits: Observation(SchedulerState.PENDING, "QUEUED"),
        runs: Observation(SchedulerState.RUNNING, "RUNNING", node="here", started_at=now),
        ended: Observation(SchedulerState.FAILED, "FAILED", exit_code=0, node="here", started_at=now, ended_at=now),
    }


FOREIGN_IDS = ["", "0", "-1", "17_3", "pid-7@here", "١", " 1", "1" * 30]


@pytest.mark.parametrize("scheduler_id", FOREIGN_IDS)
def test_an_id_that_was_never_given_is_not_found_and_spoils_nothing(bench: Bench, scheduler_id: str) -> None:
    [known] = bench.submit("a")
    foreign = Handle(scheduler_id, "a")
    assert bench.scheduler.observe([foreign, known]) == {
        foreign: NOT_FOUND,
        known: Observation(SchedulerState.PENDING, "QUEUED"),
    }
    bench.scheduler.cancel([foreign])
    assert bench.state(known) is SchedulerState.PENDING


def test_an_id_under_another_name_is_not_found_and_not_cancelled(bench: Bench) -> None:
    [waits] = bench.submit("a")
    wrong = Handle(waits.scheduler_id, "b")
    for _ in range(2):  # while it waits, and while it runs
        assert bench.scheduler.observe([wrong]) == {wrong: NOT_FOUND}
        bench.scheduler.cancel([wrong])
        bench.take()
    assert bench.state(waits) is SchedulerState.RUNNING
    with bench.database.reading() as session:
        assert not session.scalars(select(RunningJob.cancel_asked)).one()
    bench.end("a")
    assert bench.scheduler.observe([wrong]) == {wrong: NOT_FOUND}


def test_cancelling_what_waits_ends_it_at_once_and_what_has_ended_stays(bench: Bench) -> None:
    [handle] = bench.submit("a")
    bench.scheduler.cancel([handle, Handle("999", "nobody")])
    assert bench.state(handle) is SchedulerState.CANCELLED
    assert bench.take() is None
    [other] = bench.submit("b")
    bench.take()
    bench.end("b")
    bench.scheduler.cancel([handle, other])
    assert bench.state(other) is SchedulerState.COMPLETED


def test_names_are_found_in_all_three_tables(bench: Bench) -> None:
    ended, runs, waits = bench.submit("ended", "runs", "waits")
    bench.take()
    bench.take()
    bench.end("ended")
    assert bench.scheduler.find(["ended", "runs", "waits", "nobody"]) == {
        "ended": Found((ended,)),
        "runs": Found((runs,)),
        "waits": Found((waits,)),
        "nobody": Absent(),
    }


@pytest.mark.thorough
def test_more_handles_than_one_statement_takes(bench: Bench) -> None:
    handles = bench.submit(*(f"job-{number}" for number in range(1100)))
    observations = bench.scheduler.observe(handles)
    assert len(observations) == 1100
    assert {observation.state for observation in observations.values()} == {SchedulerState.PENDING}


def test_health(bench: Bench) -> None:
    bench.submit("a", "b", "c")
    assert bench.scheduler.health() == Health(True, "No compute client is at work, so jobs wait.", 0, 3)
    bench.register("c1", slots=3)
    bench.take()
    assert bench.scheduler.health() == Health(True, "1 compute client with 3 slots", 1, 2)
    bench.register("c2", slots=2)
    assert bench.scheduler.health().detail == "2 compute clients with 5 slots"


def test_a_database_that_fails_is_never_an_answer(tmp_path: Path) -> None:
    scheduler = LocalScheduler(Database(f"sqlite:///{tmp_path / 'gone' / 'portal.db'}"), HandClock())
    handle = Handle("1", "a")
    assert [type(answer) for answer in scheduler.submit([spec("a"), spec("b")])] == [InDoubt, InDoubt]
    assert [type(answer) for answer in scheduler.find(["a"]).values()] == [Unknown]
    with pytest.raises(SchedulerError):
        scheduler.observe([handle])
    with pytest.raises(SchedulerError):
        scheduler.cancel([handle])
    health = scheduler.health()
    assert not health.ok
    assert "sqlite" not in health.detail


def test_a_lease_ends_when_the_heart_stood_still_for_its_length(bench: Bench) -> None:
    [handle] = bench.submit("a")
    bench.register("c1")
    bench.take("c1")
    assert bench.state(handle) is SchedulerState.RUNNING  # the first look, from which the silence counts
    bench.clock.advance(LEASE_SECONDS - 0.1)
    assert bench.state(handle) is SchedulerState.RUNNING
    bench.beat("c1")
    bench.clock.advance(0.1)
    assert bench.state(handle) is SchedulerState.RUNNING
    bench.clock.advance(LEASE_SECONDS)
    observation = bench.scheduler.observe([handle])[handle]
    assert (observation.state, observation.node) == (SchedulerState.NODE_FAILURE, "here")
    assert observation.reason == "its compute client stopped answering"
    assert "No compute client" in bench.scheduler.health().detail


def test_other_clients_keep_their_leases(bench: Bench) -> None:
    dead, alive = bench.submit("a", "b")
    bench.register("c1")
    bench.register("c2")
    bench.take("c1")
    bench.take("c2")
    for _ in range(3):
        bench.beat("c2")
        bench.scheduler.observe([dead, alive])
        bench.clock.advance(LEASE_SECONDS / 2)
    assert [bench.state(dead), bench.state(alive)] == [SchedulerState.NODE_FAILURE, SchedulerState.RUNNING]


def test_an_observer_that_starts_anew_waits_a_whole_lease(bench: Bench) -> None:
    [handle] = bench.submit("a")
    bench.register("c1")
    bench.take("c1")
    bench.state(handle)
    bench.clock.advance(LEASE_SECONDS - 1)
    bench.scheduler = LocalScheduler(bench.database, bench.clock)
    assert bench.state(handle) is SchedulerState.RUNNING
    bench.clock.advance(LEASE_SECONDS - 1)
    assert bench.state(handle) is SchedulerState.RUNNING
    bench.clock.advance(1)
    assert bench.state(handle) is SchedulerState.NODE_FAILURE


def test_two_observers_end_a_lease_once(bench: Bench) -> None:
    [handle] = bench.submit("a")
    bench.register("c1")
    bench.take("c1")
    other = LocalScheduler(bench.database, bench.clock)
    for _ in range(2):
        first, second = bench.scheduler.observe([handle]), other.observe([handle])
        bench.clock.advance(LEASE_SECONDS)
    assert first == second
    assert first[handle].state is SchedulerState.NODE_FAILURE


def test_what_was_to_be_cancelled_under_a_lease_that_ended_is_cancelled(bench: Bench) -> None:
    [handle] = bench.submit("a")
    bench.register("c1")
    bench.take("c1")
    bench.state(handle)
    bench.scheduler.cancel([handle])
    bench.clock.advance(LEASE_SECONDS)
    assert bench.state(handle) is SchedulerState.CANCELLED


def test_a_job_without_any_lease_comes_to_an_end(bench: Bench) -> None:
    [handle] = bench.submit("a")
    bench.take("nobody")
    assert bench.state(handle) is SchedulerState.RUNNING
    bench.clock.advance(LEASE_SECONDS)
    assert bench.state(handle) is SchedulerState.NODE_FAILURE


def test_waiting_jobs_do_not_end_with_a_client(bench: Bench) -> None:
    [handle] = bench.submit("a")
    bench.register("c1")
    bench.state(handle)
    bench.clock.advance(LEASE_SECONDS)
    assert bench.state(handle) is SchedulerState.PENDING
    with bench.database.reading() as session:
        assert session.scalars(select(QueuedJob.name)).all() == ["a"]
        assert not session.scalars(select(ClientLease.client_id)).all()


def work_that_ended(command: str, cause: Cause | None = None, *, left_orphans: bool = False) -> Work:
    process = subprocess.Popen(["/bin/sh", "-c", command])
    process.wait()
    return Work(1, "a", process, None, deadline_seconds=0, cause=cause, left_orphans=left_orphans)


STOPPED = "the portal was stopped while it ran"
OUT_OF_TOUCH = "its compute client lost touch with the queue"
LIMIT = "its time limit was reached"


@pytest.mark.parametrize(
    ("command", "cause", "end"),
    [
        ("exit 0", None, End(SchedulerState.COMPLETED, None, 0)),
        ("exit 7", None, End(SchedulerState.FAILED, None, 7)),
        ("kill -9 $$", None, End(SchedulerState.FAILED, "it died by signal 9", None, 9)),
        ("kill -9 $$", Cause.TIME_LIMIT, End(SchedulerState.TIME_LIMIT, LIMIT, None, 9)),
        ("exit 143", Cause.CANCELLED, End(SchedulerState.CANCELLED, None, 143)),
        ("kill -9 $$", Cause.STOPPING, End(SchedulerState.PREEMPTED, STOPPED, None, 9)),
        ("exit 70", Cause.STOPPING, End(SchedulerState.PREEMPTED, STOPPED, 70)),
        ("exit 70", Cause.LEASE_LOST, End(SchedulerState.NODE_FAILURE, OUT_OF_TOUCH, 70)),
        # The program came to its own end while its pipe was being closed.
        ("exit 0", Cause.STOPPING, End(SchedulerState.COMPLETED, None, 0)),
        ("exit 7", Cause.STOPPING, End(SchedulerState.FAILED, None, 7)),
        ("exit 7", Cause.LEASE_LOST, End(SchedulerState.FAILED, None, 7)),
    ],
)
def test_how_a_script_ended(command: str, cause: Cause | None, end: End) -> None:
    assert end_of(work_that_ended(command, cause)) == end
    assert end.by_portal == (end.state is SchedulerState.PREEMPTED)


def test_what_a_killed_wrapper_left_is_part_of_how_it_ended() -> None:
    end = end_of(work_that_ended("kill -9 $$", left_orphans=True))
    assert end.reason == "it died by signal 9, and the compute client ended what it had left running"


def test_what_has_ended_by_itself_keeps_its_own_end() -> None:
    work = work_that_ended("exit 7")
    work.tell(Cause.CANCELLED, 1)
    work.press(1)
    work.cut(Cause.STOPPING, 1)
    assert end_of(work) == End(SchedulerState.FAILED, None, 7)


def test_a_script_that_heeds_nothing_is_killed_with_all_below_it() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = ["/bin/sh", "-c", "trap '' TERM; sleep 300 & echo $!; wait; wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        lifeline = os.fdopen(write_end, "wb")
        work = Work(1, "a", process, lifeline, deadline_seconds=10)
        seen = []
        for seconds in (0.0, TERM_SECONDS - 0.1, TERM_SECONDS, TERM_SECONDS + WRAPPER_SECONDS - 0.1):
            work.press(10 + seconds)
            seen.append((lifeline.closed, work.has_ended()))
        assert seen == [(False, False), (False, False), (True, False), (True, False)]
        work.press(10 + TERM_SECONDS + WRAPPER_SECONDS)
        process.wait(10)
    wait_until(lambda: not is_alive(child), 10, "the end of the child")
    assert end_of(work) == End(SchedulerState.TIME_LIMIT, LIMIT, None, 9)


ORPHANS_DRIVER = """
import json, subprocess
from portal.node.descendants import become_subreaper
from portal.schedulers.orphans import children_of_this_process, end_orphans

become_subreaper()
spared = subprocess.Popen(["/bin/sh", "-c", "sleep 300 & wait"])
# A daemon in a session of its own with a child, whose parents have ended.
subprocess.run(["/bin/sh", "-c", "(setsid sh -c 'sleep 300 & echo; wait' &) | read line"], check=True)
before = children_of_this_process()
impatient = end_orphans({spared.pid}, patience_seconds=-1)
patient = end_orphans({spared.pid})
after = children_of_this_process()
spared.poll()
print(json.dumps([spared.pid, sorted(before), sorted(impatient.stuck), sorted(patient.ended), sorted(after)]))
if spared.returncode is None:
    end_orphans(frozenset())
"""


def test_orphans_are_ended_with_all_below_them_and_others_are_spared() -> None:
    driven = subprocess.run(
        [sys.executable, "-c", ORPHANS_DRIVER], cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=True
    )
    spared, before, stuck, ended, after = json.loads(driven.stdout)
    assert len(before) == 2
    assert stuck == [pid for pid in before if pid != spared]
    assert set(stuck) <= set(ended)
    assert after == [spared]
    assert not any(is_alive(pid) for pid in [spared, *ended])


def test_a_copy_that_was_restored_elsewhere_does_not_start_what_lies_where_it_came_from(tmp_path: Path) -> None:
    scheduler = Bench(tmp_path).scheduler
    here, there = tmp_path / "here", tmp_path / "there"
    for folder, name in ((here, "one"), (there, "two")):
        spec = JobSpec(name, folder / "job.sh", folder, time_limit_minutes=1, memory_mib=1, cpus=1)
        assert isinstance(scheduler.submit([spec])[0], Submitted)
    assert scheduler.forget_elsewhere(there) == ["one"]
    assert scheduler.find(["one"]) == {"one": Absent()}
    assert isinstance(scheduler.find(["two"])["two"], Found)
