"""The DRMAA backend against a real Grid Engine. Its scheduler runs in a process of its own, as the jobs' account."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from portal.errors import SchedulerError
from portal.jobs.ids import new_job_id
from portal.jobs.node_files import install_node_files
from portal.schedulers.base import (
    Absent,
    Deferred,
    Found,
    Handle,
    InDoubt,
    JobSpec,
    Observation,
    Rejected,
    Scheduler,
    SchedulerState,
    Submitted,
    Unknown,
)
from portal.schedulers.drmaa_scheduler import RESERVED_EXIT_CODES
from portal.schedulers.drmaa_session import NoSuchJobError
from tests.drmaa.cell import ACCOUNT, SLOTS, Dispatching, GridEngineCell, dispatching
from tests.waiting import wait_until
from tests.wrapper_attempts import Attempt

pytestmark = pytest.mark.daemon

# An execd that was started anew looks after its old jobs each minute.
OLD_JOBS_SECONDS = 150
STRANGER = Handle("999999", "portal-nobody-tcfnctbq-1")


class Bench:
    """Scripts that lie where the portal's would, and what becomes of them."""

    def __init__(self, cell: GridEngineCell, process: Dispatching) -> None:
        self.cell = cell
        self.process = process
        self.scheduler: Scheduler = process.scheduler

    def spec(self, script: str, **fields: object) -> JobSpec:
        """A script of a new attempt."""
        job_id = new_job_id()
        folder = self.cell.jobs_dir / f"job-{job_id}"
        work = folder / "attempts" / "1" / "work"
        work.mkdir(parents=True)
        job_script = work.parent / "job.sh"
        job_script.write_text(f"#!/bin/sh\n{script}\n")
        self._own(folder)
        spec = JobSpec(f"portal-testab-{job_id}-1", job_script, work, 5, memory_mib=50, cpus=1)
        return replace(spec, **fields)  # type: ignore[arg-type]

    def wrapped(self, program: str, **settings: str) -> JobSpec:
        """The same, for a program under the wrapper."""
        wrapper = install_node_files(self.cell.jobs_dir, []).wrapper
        spec = self.spec("")
        folder = spec.script.parents[2]
        shutil.rmtree(folder)
        attempt = Attempt(folder, program, settings=settings)
        spec.script.write_text(f"#!/bin/sh\nexec /usr/bin/python3 -I {wrapper} {attempt.config}\n")
        self._own(folder)
        return spec

    def _own(self, folder: Path) -> None:
        for path in (folder, *folder.rglob("*")):
            shutil.chown(path, ACCOUNT, ACCOUNT)

    def submit(self, *specs: JobSpec) -> list[Handle]:
        """Their handles; all of them were taken."""
        answers = self.scheduler.submit(list(specs))
        assert all(isinstance(answer, Submitted) for answer in answers), answers
        return [answer.handle for answer in answers if isinstance(answer, Submitted)]

    def submit_when_it_takes_jobs(self, spec: JobSpec) -> Handle:
        """Its handle. Put off, it certainly did not go in, and is handed in again; as by the portal."""
        answers: list[object] = []

        def is_settled() -> bool:
            answers[:] = self.scheduler.submit([spec])
            return not isinstance(answers[0], Deferred)

        wait_until(is_settled, 60, lambda: f"the library to reach the qmaster: {answers}")
        [answer] = answers
        assert isinstance(answer, Submitted), answer
        return answer.handle

    def state(self, handle: Handle) -> SchedulerState:
        return self.scheduler.observe([handle])[handle].state

    def wait_for(self, handle: Handle, *states: SchedulerState, seconds: float = 60) -> Observation:
        """What is said of the job once it is in one of these states."""
        seen = [Observation(SchedulerState.UNKNOWN)]

        def is_there() -> bool:
            seen[0] = self.scheduler.observe([handle])[handle]
            return seen[0].state in states

        try:
            wait_until(is_there, seconds, f"job {handle.scheduler_id} to be {states}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {seen[0]}") from None
        return seen[0]


@pytest.fixture
def bench(cell: GridEngineCell) -> Iterator[Bench]:
    with dispatching(cell) as process:
        yield Bench(cell, process)


def test_a_job_from_its_submission_to_its_end(bench: Bench) -> None:
    [handle] = bench.submit(bench.spec("pwd; until [ -e go ]; do sleep 0.1; done"))
    running = bench.wait_for(handle, SchedulerState.RUNNING)
    assert running.node == os.uname().nodename
    assert running.started_at is not None
    work = bench.cell.jobs_dir / f"job-{handle.name.split('-')[2]}" / "attempts" / "1" / "work"
    (work / "go").touch()
    done = bench.wait_for(handle, SchedulerState.COMPLETED)
    assert (done.exit_code, done.signal, done.node) == (0, None, running.node)
    assert done.started_at is not None
    assert done.ended_at is not None
    assert (work / "scheduler.out").read_text() == f"{work}\n"
    assert "DRMAA" in bench.scheduler.health().detail


@pytest.mark.parametrize("code", [3, 137])
def test_the_exit_code_of_a_script(bench: Bench, code: int) -> None:
    [handle] = bench.submit(bench.spec(f"exit {code}"))
    seen = bench.wait_for(handle, SchedulerState.FAILED)
    assert (seen.exit_code, seen.signal) == (code, None)


@pytest.mark.parametrize("code", [0, 3, 99, 100])
def test_an_exit_code_of_a_program_under_the_wrapper_is_the_end(bench: Bench, code: int) -> None:
    """99 and 100 would have Grid Engine run it again, or keep it: the wrapper says 1 instead."""
    reserved = " ".join(map(str, RESERVED_EXIT_CODES))
    spec = bench.wrapped(f"echo ran >> runs; exit {code}\n", reserved_exit_codes=reserved)
    [handle] = bench.submit(spec)
    seen = bench.wait_for(handle, SchedulerState.COMPLETED, SchedulerState.FAILED)
    assert seen.exit_code == {99: 1, 100: 1}.get(code, code)
    assert (spec.working_dir / "runs").read_text() == "ran\n"
    marker = "ERROR" if code else "SUCCESS"
    assert (spec.working_dir / marker).exists()


def test_what_the_wrapper_spares_us(bench: Bench) -> None:
    """A script of its own that ends so: it runs again and again, and its exit code is an error of Grid Engine's."""
    again, error = bench.spec("echo ran >> runs; exit 99"), bench.spec("exit 100")
    handles = bench.submit(again, error)
    runs = again.working_dir / "runs"
    wait_until(lambda: runs.exists() and runs.read_text().count("ran") > 1, 60, "a second run")
    seen = bench.wait_for(handles[1], SchedulerState.FAILED)
    assert (seen.raw_state, seen.exit_code) == ("failed 30 (application error returned)", None)
    bench.scheduler.cancel(handles)
    bench.wait_for(handles[0], SchedulerState.NOT_FOUND, seconds=90)


def test_a_death_by_a_signal(bench: Bench) -> None:
    [handle] = bench.submit(bench.spec("kill -SEGV $$"))
    seen = bench.wait_for(handle, SchedulerState.FAILED)
    assert (seen.exit_code, seen.signal) == (None, signal.SIGSEGV)


def test_a_time_limit(bench: Bench) -> None:
    # The shortest that the portal knows is a minute: a later request outweighs it.
    with dispatching(bench.cell, "-l h_rt=2") as process:
        impatient = Bench(bench.cell, process)
        [handle] = impatient.submit(impatient.spec("sleep 60"))
        seen = impatient.wait_for(handle, SchedulerState.TIME_LIMIT)
    assert "37" in seen.raw_state


def test_memory(bench: Bench) -> None:
    program = "import time; x = b'1' * 60_000_000; time.sleep(60)"
    two = f'/usr/bin/python3 -c "{program}" & /usr/bin/python3 -c "{program}" & wait'
    [handle] = bench.submit(bench.spec(two, memory_mib=100))
    seen = bench.wait_for(handle, SchedulerState.OUT_OF_MEMORY, seconds=90)
    assert "37" in seen.raw_state


def test_several_cpus(bench: Bench) -> None:
    [handle] = bench.submit(bench.spec("echo $NSLOTS; ulimit -v", cpus=3, memory_mib=300))
    spec_work = bench.cell.jobs_dir / f"job-{handle.name.split('-')[2]}" / "attempts" / "1" / "work"
    bench.wait_for(handle, SchedulerState.COMPLETED)
    assert (spec_work / "scheduler.out").read_text().split() == ["3", str(300 * 1024)]


def test_cancelling_held_running_and_finished_jobs(bench: Bench) -> None:
    with dispatching(bench.cell, "-h") as process:
        [held] = process.scheduler.submit([bench.spec("exit 0")])
    assert isinstance(held, Submitted)
    running, finished = bench.submit(bench.spec("exec sleep 300"), bench.spec("exit 0"))
    bench.wait_for(held.handle, SchedulerState.HELD)
    bench.wait_for(running, SchedulerState.RUNNING)
    bench.wait_for(finished, SchedulerState.COMPLETED)
    bench.scheduler.cancel([held.handle, running, finished, STRANGER])
    # What never ran leaves no word. Who has not asked for it cannot tell qdel's SIGKILL from another.
    bench.wait_for(held.handle, SchedulerState.NOT_FOUND, seconds=90)
    assert bench.wait_for(running, SchedulerState.CANCELLED).signal == signal.SIGKILL
    with dispatching(bench.cell) as process:
        assert process.scheduler.observe([running])[running].state is SchedulerState.FAILED
    assert bench.state(finished) is SchedulerState.COMPLETED
    bench.scheduler.cancel([held.handle, running, finished])


def test_ids_that_are_unknown_or_another_names(bench: Bench) -> None:
    [own] = bench.submit(bench.spec("exec sleep 300"))
    bench.wait_for(own, SchedulerState.RUNNING)
    other = replace(own, name=STRANGER.name)
    foreign = replace(own, scheduler_id="12_3")
    seen = bench.scheduler.observe([STRANGER, other, foreign, own])
    assert {seen[handle].state for handle in (STRANGER, other, foreign)} == {SchedulerState.NOT_FOUND}
    bench.scheduler.cancel([STRANGER, other, foreign])
    assert bench.state(own) is SchedulerState.RUNNING
    with pytest.raises(NoSuchJobError):
        bench.process.call("status", STRANGER.scheduler_id)


def test_a_system_that_the_portal_does_not_know(cell: GridEngineCell) -> None:
    """The library alone: alive or gone."""
    native = "-b n -S /bin/sh -r n -l h_rt={time_limit_seconds},h_vmem={memory_mib}M"
    with dispatching(cell, native, "as-unknown") as process:
        bench = Bench(cell, process)
        runs, fails, ends = bench.submit(*[bench.spec(script) for script in ("exec sleep 300", "exit 4", ":")])
        bench.wait_for(runs, SchedulerState.RUNNING)
        for gone in (fails, ends):
            seen = bench.wait_for(gone, SchedulerState.NOT_FOUND)
            assert (seen.raw_state, seen.exit_code) == ("done", None)
    with dispatching(cell, native, "as-unknown") as process:
        later = process.scheduler.observe([runs, ends, STRANGER])
        assert later[runs].state is SchedulerState.RUNNING
        # Those of an earlier session are not known to this one.
        assert {later[ends].state, later[STRANGER].state} == {SchedulerState.NOT_FOUND}
        assert isinstance(process.scheduler.find([runs.name])[runs.name], Unknown)
        process.scheduler.cancel([runs, ends])
        wait_until(lambda: not cell.queue(), 60, "an empty queue")


def test_a_host_without_the_commands_knows_what_lives_and_no_more(bench: Bench) -> None:
    runs, fails = bench.submit(bench.spec("exec sleep 300"), bench.spec("exit 4"))
    bench.wait_for(runs, SchedulerState.RUNNING)
    bench.wait_for(fails, SchedulerState.FAILED)
    with dispatching(bench.cell, "", "without-commands") as process:
        seen = process.scheduler.observe([runs, fails, STRANGER])
        assert (seen[runs].state, seen[runs].raw_state) == (SchedulerState.RUNNING, "running")
        assert {seen[fails].state, seen[STRANGER].state} == {SchedulerState.UNKNOWN}
        assert not process.scheduler.health().ok


def test_names_are_found_in_the_queue_and_in_accounting(bench: Bench) -> None:
    running, finished = bench.submit(bench.spec("exec sleep 300"), bench.spec("exit 0"))
    bench.wait_for(finished, SchedulerState.COMPLETED)
    answers = bench.scheduler.find([running.name, finished.name, STRANGER.name])
    assert answers == {
        running.name: Found((running,)),
        finished.name: Found((finished,)),
        STRANGER.name: Absent(),
    }


def test_jobs_of_an_earlier_process(bench: Bench) -> None:
    """One goes on, one ends while nobody has a session, one has ended; the process that submitted them was killed."""
    earlier = Bench(bench.cell, Dispatching(bench.cell))
    specs = [earlier.spec(script) for script in ("exec sleep 300", "until [ -e go ]; do sleep 0.1; done; exit 4", ":")]
    handles = earlier.submit(*specs)
    goes_on, ends, ended = handles
    earlier.wait_for(ends, SchedulerState.RUNNING)
    earlier.process.kill()
    (specs[1].working_dir / "go").touch()
    wait_until(lambda: list(bench.cell.queue()) == [goes_on.scheduler_id], 60, "one job to be left")
    assert bench.wait_for(goes_on, SchedulerState.RUNNING)
    assert bench.wait_for(ends, SchedulerState.FAILED).exit_code == 4
    assert bench.wait_for(ended, SchedulerState.COMPLETED)
    assert bench.process.call("status", goes_on.scheduler_id) == "running"
    bench.scheduler.cancel([goes_on])
    wait_until(lambda: not bench.cell.queue(), 60, "an empty queue")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"gres": "nonsense:1"}, "unknown resource"),
        ({"partition": "nowhere.q"}, "unknown queue"),
        ({"exclude_nodes": (os.uname().nodename,)}, "no suitable queues"),
        ({"qos": "high"}, "quality of service"),
        ({"cpus": SLOTS + 1}, "no suitable queues"),
    ],
)
def test_what_can_never_run_is_refused(bench: Bench, fields: dict[str, object], words: str) -> None:
    [answer] = bench.scheduler.submit([bench.spec(":", **fields)])
    assert isinstance(answer, Rejected)
    assert words in answer.reason


def test_what_would_be_misunderstood_is_refused(bench: Bench) -> None:
    """Grid Engine's library takes such a line for an option, and expands such a path."""
    spec = bench.spec("#$ -q nowhere.q")
    answers = bench.scheduler.submit([spec, replace(bench.spec(":"), working_dir=spec.working_dir / "$HOME")])
    assert [type(answer) for answer in answers] == [Rejected, Rejected]


@contextmanager
def _at_most(cell: GridEngineCell, jobs: int) -> Iterator[None]:
    """So many jobs of one account are let in."""
    folder = cell.home / "limit"
    folder.mkdir()

    def set_limit(number: int) -> None:
        text = cell.run("qconf", "-sconf", account="root").stdout
        lines = [f"max_u_jobs {number}" if line.startswith("max_u_jobs") else line for line in text.splitlines()]
        # qconf takes the name of the configuration from the file's.
        (folder / "global").write_text("\n".join(line for line in lines if not line.startswith("#")) + "\n")
        done = cell.run("qconf", "-Mconf", str(folder / "global"), account="root")
        assert done.returncode == 0, done.stderr

    set_limit(jobs)
    try:
        yield
    finally:
        set_limit(0)
        shutil.rmtree(folder)


def test_a_full_queue_puts_off(bench: Bench) -> None:
    with _at_most(bench.cell, 2):
        answers = bench.scheduler.submit([bench.spec("exec sleep 300") for _ in range(3)])
    assert [type(answer) for answer in answers] == [Submitted, Submitted, Deferred]


def test_a_script_without_a_place_to_write_to_fails(bench: Bench) -> None:
    """By qsub it would stay in the queue, in error state; what comes by DRMAA ends."""
    spec = bench.spec(":")
    [handle] = bench.submit(replace(spec, working_dir=spec.working_dir / "missing"))
    seen = bench.wait_for(handle, SchedulerState.FAILED)
    assert (seen.raw_state, seen.started_at) == ("failed 28 (changing into working directory)", None)


def test_the_script_that_runs_is_the_one_that_was_submitted(bench: Bench) -> None:
    """The qmaster keeps a copy, byte for byte."""
    with dispatching(bench.cell, "-h") as process:
        spec = bench.spec("until [ -e go ]; do sleep 0.1; done; exit 5")
        [answer] = process.scheduler.submit([spec])
    assert isinstance(answer, Submitted)
    before = spec.script.read_bytes()
    spec.script.write_text("#!/bin/sh\nexit 6\n")
    bench.cell.run("qrls", answer.handle.scheduler_id)
    bench.wait_for(answer.handle, SchedulerState.RUNNING)
    [copy] = bench.cell.home.glob(f"execd/*/job_scripts/{answer.handle.scheduler_id}")
    assert copy.read_bytes() == before
    (spec.working_dir / "go").touch()
    assert bench.wait_for(answer.handle, SchedulerState.FAILED).exit_code == 5


@pytest.mark.parametrize("name", ["a b", "it's", 'say "x"', "a:b", "a;b", "a,b=c", "back\\slash", "%", "ü"])
def test_any_jobs_folder(bench: Bench, name: str) -> None:
    spec = bench.spec("pwd")
    work = spec.working_dir / name
    work.mkdir()
    shutil.chown(work, ACCOUNT, ACCOUNT)
    script = work / "job.sh"
    script.write_bytes(spec.script.read_bytes())
    [handle] = bench.submit(replace(spec, script=script, working_dir=work))
    bench.wait_for(handle, SchedulerState.COMPLETED)
    assert (work / "scheduler.out").read_text() == f"{work}\n"


def test_jobs_do_not_see_how_the_library_was_loaded(bench: Bench) -> None:
    assert not [name for name in bench.process.call("environment") if "TUNABLES" in name]
    spec = bench.spec("env")
    [handle] = bench.submit(spec)
    bench.wait_for(handle, SchedulerState.COMPLETED)
    seen = (spec.working_dir / "scheduler.out").read_text()
    assert "TUNABLES" not in seen
    assert "DRMAA" not in seen


def test_the_execd_dies_and_the_job_goes_on(bench: Bench) -> None:
    spec = bench.spec("until [ -e go ]; do sleep 0.1; done; exit 3")
    [handle] = bench.submit(spec)
    bench.wait_for(handle, SchedulerState.RUNNING)
    bench.cell.stop_daemon("execd", signal.SIGKILL)
    (spec.working_dir / "go").touch()
    assert bench.state(handle) is SchedulerState.RUNNING
    bench.cell.start_daemon("execd")
    assert bench.wait_for(handle, SchedulerState.FAILED, seconds=OLD_JOBS_SECONDS).exit_code == 3


def test_a_node_that_crashes_and_comes_back(bench: Bench) -> None:
    [handle] = bench.submit(bench.spec("exec sleep 300"))
    bench.wait_for(handle, SchedulerState.RUNNING)
    bench.cell.stop_daemon("execd", signal.SIGKILL)
    bench.cell.kill_jobs()
    # It does not know yet, and says what it last heard.
    assert bench.state(handle) is SchedulerState.RUNNING
    bench.cell.start_daemon("execd")
    seen = bench.wait_for(handle, SchedulerState.NODE_FAILURE, seconds=OLD_JOBS_SECONDS)
    assert "19" in seen.raw_state


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_qmaster_goes_and_comes_back(bench: Bench, how: signal.Signals) -> None:
    running, waiting = bench.submit(bench.spec("exec sleep 300"), bench.spec("exec sleep 300", cpus=SLOTS))
    bench.wait_for(running, SchedulerState.RUNNING)
    bench.cell.stop_daemon("qmaster", how)
    answers = bench.scheduler.submit([bench.spec(":") for _ in range(3)])
    assert all(isinstance(answer, InDoubt | Deferred) for answer in answers), answers
    assert sum(isinstance(answer, InDoubt) for answer in answers) <= 1
    for ask in (bench.scheduler.observe, bench.scheduler.cancel):
        with pytest.raises(SchedulerError):
            ask([running])
    assert not bench.scheduler.health().ok
    assert isinstance(bench.scheduler.find([running.name])[running.name], Unknown)

    bench.cell.start_daemon("qmaster")
    wait_until(lambda: bench.scheduler.health().ok, 30, "it to answer")
    assert bench.state(running) is SchedulerState.RUNNING
    assert bench.state(waiting) is SchedulerState.PENDING
    new = bench.submit_when_it_takes_jobs(bench.spec("exit 3"))
    bench.scheduler.cancel([running, waiting])
    # An execd that lives through a qmaster's absence may not report for minutes (seen with 8.1.9); a new one does.
    bench.cell.stop_daemon("execd")
    bench.cell.start_daemon("execd")
    killed = bench.wait_for(running, SchedulerState.CANCELLED, seconds=OLD_JOBS_SECONDS)
    assert killed.signal == signal.SIGKILL
    assert bench.wait_for(new, SchedulerState.FAILED, seconds=OLD_JOBS_SECONDS).exit_code == 3


def test_a_qmaster_that_hangs_is_waited_for_for_a_time_only(bench: Bench) -> None:
    spec, other = bench.spec(":"), bench.spec(":")
    bench.submit(bench.spec(":"))
    pid = bench.cell.pid_of("qmaster")
    os.kill(pid, signal.SIGSTOP)
    try:
        answers = bench.scheduler.submit([spec, other])
        assert [type(answer) for answer in answers] == [InDoubt, Deferred]
        [again] = bench.scheduler.submit([other])
        assert isinstance(again, Deferred)
    finally:
        os.kill(pid, signal.SIGCONT)
    # The request lay in the qmaster's socket: that is what `lost_call_seconds` is for.
    found: list[object] = []

    def is_found() -> bool:
        found[:] = [bench.scheduler.find([spec.name])[spec.name]]
        return isinstance(found[0], Found)

    wait_until(is_found, 60, "the lost submission")
    assert isinstance(bench.scheduler.find([other.name])[other.name], Absent)


def test_two_hundred_jobs_from_a_cold_start(cell: GridEngineCell) -> None:
    for daemon in ("execd", "qmaster"):
        cell.stop_daemon(daemon)
    for daemon in ("qmaster", "execd"):
        cell.start_daemon(daemon)
    with dispatching(cell) as process:
        bench = Bench(cell, process)
        specs = [bench.spec("echo ran >> runs") for _ in range(200)]
        handles = bench.submit(*specs[:100]) + bench.submit(*specs[100:])
        assert len({handle.scheduler_id for handle in handles}) == 200

        def all_done() -> bool:
            states = [seen.state for seen in bench.scheduler.observe(handles).values()]
            return states.count(SchedulerState.COMPLETED) == 200

        wait_until(all_done, 240, "200 ends")
    assert all((spec.working_dir / "runs").read_text() == "ran\n" for spec in specs)
