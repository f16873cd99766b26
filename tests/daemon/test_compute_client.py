"""Compute clients as real processes: each script runs once, and ends when it should, whatever is killed.

What ran, and how often, is counted by a witness file that the scripts themselves append to, not by the tables.
"""

import os
import resource
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from portal import app
from portal.app import Parts
from portal.jobs.states import FailureReason, JobState
from portal.schedulers.base import Handle, Scheduler, SchedulerState
from portal.schedulers.local import LEASE_SECONDS, LocalScheduler
from tests.compute_clients import ClientFamily, Queue, Witness, open_files, pipes
from tests.portal_runs import PortalRun
from tests.waiting import wait_until
from tests.wrapper_attempts import is_alive

pytestmark = pytest.mark.daemon

PROMPTLY_SECONDS = 5
SHORT_LEASE_SECONDS = 5.0

LEAVES_CHILDREN = """
sleep 300 &
echo child $! >> "$witness"
setsid sh -c 'echo child $$ >> "$0"; sleep 300' "$witness" &
(sh -c '(setsid sh -c "echo child \\$\\$ >> \\"\\$0\\"; trap : TERM HUP; sleep 300; sleep 300" "$0" &)' "$witness")
while [ "$(grep -c child "$witness")" -lt 3 ]; do sleep 0.02; done
echo ready $$ >> "$witness"
"""
"""Starts one child in the background, one in another session and one daemon that no parent knows."""


@pytest.fixture
def clients(tmp_path: Path) -> Iterator[ClientFamily]:
    family = ClientFamily(tmp_path)
    yield family
    family.end_all()


@pytest.fixture
def queue(tmp_path: Path, clients: ClientFamily) -> Queue:
    return Queue(tmp_path, clients)


def most_at_once(witness: Witness) -> dict[str, int]:
    """For each client, by process id, how many of its scripts ran at the same time at most."""
    running: Counter[str] = Counter()
    most: dict[str, int] = {}
    for word, _, _, client in witness.lines():
        running[client] += 1 if word == "start" else -1
        most[client] = max(most.get(client, 0), running[client])
    return most


def all_gone(pids: list[int]) -> bool:
    return not any(is_alive(pid) for pid in pids)


def test_200_jobs_on_4_clients_each_run_once_and_within_the_slots(queue: Queue) -> None:
    slots = {str(queue.clients.start(slots=number).pid): number for number in (2, 3, 4, 5)}
    queue.wait_for_clients(4)
    commands = "sleep 0.02\necho end $$ $$ $PPID >> $witness"
    specs = [queue.script(f"job-{number}", commands) for number in range(200)]
    first = queue.submit(*specs[:20])
    _wait_for_all(queue, first)
    files_before = [len(client.open_files()) for client in queue.clients.processes]
    handles = first + queue.submit(*specs[20:])
    _wait_for_all(queue, handles)
    assert queue.scheduler.health().detail == "4 compute clients with 14 slots"
    assert queue.witness.starts() == Counter({spec.name: 1 for spec in specs})
    most = most_at_once(queue.witness)
    assert most.keys() == slots.keys()
    assert all(most[client] <= slots[client] for client in slots)
    assert [len(client.open_files()) for client in queue.clients.processes] == files_before


def _wait_for_all(queue: Queue, handles: list[Handle]) -> None:
    # The tables are asked at the end only: the clients need them, and the processors.
    wait_until(lambda: len(queue.witness.lines()) >= 2 * len(handles), 60, f"the ends of {len(handles)} scripts")
    for handle in handles:
        queue.wait_for(handle, SchedulerState.COMPLETED)


def test_jobs_of_a_whole_portal_run_once_each(tmp_path: Path, clients: ClientFamily) -> None:
    portal = PortalRun(tmp_path, "echo 'The answer'")
    clients.start(slots=2)
    clients.start(slots=2)
    with portal.dispatching():
        job_ids = [portal.submit(number) for number in range(16)]
        for job_id in job_ids:
            portal.wait_for_state(job_id, JobState.SUCCEEDED)
        wait_until(lambda: len(portal.mails()) == len(job_ids), 20, "the mail of each")
    assert portal.witness.starts() == Counter({portal.attempt_folder(job_id, 1): 1 for job_id in job_ids})
    assert portal.owed_mails() == len(job_ids)


SECOND_RUN_SUCCEEDS = 'if [ "$(grep -c start "$witness")" -gt 1 ]; then exit 0; fi\n'


def test_a_killed_client_takes_its_program_along_and_the_job_finishes_elsewhere(
    tmp_path: Path, clients: ClientFamily, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "build_scheduler", _scheduler_with_short_leases)
    portal = PortalRun(tmp_path, f"{SECOND_RUN_SUCCEEDS}{LEAVES_CHILDREN}\nwait")
    killed = clients.start()
    with portal.dispatching():
        job_id = portal.submit()
        portal.witness.wait_for("ready")
        pids = portal.witness.pids("child") + portal.witness.pids("ready")
        assert len(pids) == 4
        killed.kill()
        wait_until(lambda: all_gone(pids), PROMPTLY_SECONDS, "the end of the program and all its children")
        clients.start()
        record = portal.wait_for_state(job_id, JobState.SUCCEEDED)
        wait_until(portal.mails, 20, "the mail")
    assert portal.witness.starts() == Counter({portal.attempt_folder(job_id, number): 1 for number in (1, 2)})
    assert [(a.state, a.failure_reason) for a in record.attempts] == [
        (JobState.FAILED, FailureReason.NODE_FAILURE),
        (JobState.SUCCEEDED, None),
    ]
    job_folder = portal.parts.folder.job(job_id).path
    assert (job_folder / "SUCCESS").exists()
    assert not (job_folder / "ERROR").exists()
    assert portal.owed_mails() == 1
    assert len(portal.mails()) == 1


def _scheduler_with_short_leases(parts: Parts) -> Scheduler:
    return LocalScheduler(parts.database, parts.clock, SHORT_LEASE_SECONDS)


def test_a_killed_wrapper_leaves_nothing_running_and_a_new_attempt_is_opened(
    tmp_path: Path, clients: ClientFamily
) -> None:
    portal = PortalRun(tmp_path, f"{SECOND_RUN_SUCCEEDS}{LEAVES_CHILDREN}\nwait")
    clients.start()
    with portal.dispatching():
        job_id = portal.submit()
        portal.witness.wait_for("ready")
        wrapper = int(portal.witness.lines()[0][-1])
        os.kill(wrapper, signal.SIGKILL)
        pids = portal.witness.pids("child") + portal.witness.pids("ready")
        wait_until(lambda: all_gone(pids), PROMPTLY_SECONDS, "the end of what the wrapper left")
        record = portal.wait_for_state(job_id, JobState.SUCCEEDED)
    assert [(a.state, a.failure_reason, a.signal) for a in record.attempts] == [
        (JobState.FAILED, FailureReason.LOST, signal.SIGKILL),
        (JobState.SUCCEEDED, None, None),
    ]
    reason = "it died by signal 9, and the compute client ended what it had left running"
    assert record.attempts[0].reason == reason
    assert any(reason in event.detail for event in record.events)
    assert sum(portal.witness.starts().values()) == 2


def test_sigterm_lets_programs_end_and_takes_nothing_more(queue: Queue) -> None:
    client = queue.clients.start(slots=2, stop_seconds=1.5)
    ends, _ = queue.wrapped("ends", 'while [ ! -e "$witness.go" ]; do sleep 0.05; done; exit 3')
    stays, _ = queue.wrapped("stays", f"{LEAVES_CHILDREN}\nwait")
    ending, staying, waiting = queue.submit(ends, stays, queue.script("waits", ""))
    queue.witness.wait_for("start", "ends")
    queue.witness.wait_for("ready")
    client.send(signal.SIGTERM)
    Path(f"{queue.witness.path}.go").touch()
    assert client.process.wait(20) == 0
    ended = queue.observe(ending)
    assert (ended.state, ended.exit_code, ended.ended_by_portal) == (SchedulerState.FAILED, 3, False)
    taken = queue.observe(staying)
    assert (taken.state, taken.ended_by_portal) == (SchedulerState.PREEMPTED, True)
    assert all_gone(queue.witness.pids("child") + queue.witness.pids("ready"))
    assert queue.observe(waiting).state is SchedulerState.PENDING
    assert queue.witness.starts() == Counter({"ends": 1, "stays": 1})
    assert not queue.client_ids()


def test_what_a_stop_took_away_runs_again_even_on_hold_and_with_one_attempt(
    tmp_path: Path, clients: ClientFamily
) -> None:
    policy = 'on_node_failure = "hold"\nmax_attempts = 1'
    portal = PortalRun(tmp_path, f"{SECOND_RUN_SUCCEEDS}sleep 300", policy)
    first = clients.start(stop_seconds=0.1)
    with portal.dispatching():
        job_id = portal.submit()
        portal.witness.wait_for("start")
        assert first.stop() == 0
        clients.start()
        record = portal.wait_for_state(job_id, JobState.SUCCEEDED)
    assert [(a.failure_reason, a.counts) for a in record.attempts] == [(FailureReason.PREEMPTED, False), (None, True)]
    assert portal.witness.starts() == Counter({portal.attempt_folder(job_id, number): 1 for number in (1, 2)})
    assert portal.owed_mails() == 1


def test_the_time_limit_ends_a_script_and_one_that_ignores_it_is_killed(queue: Queue) -> None:
    obeys = queue.script("obeys", "exec sleep 300", minutes=0)
    ignores, _ = queue.wrapped("ignores", "trap '' TERM\necho ready $$ >> $witness\nsleep 300\nsleep 300")
    obeying, ignoring = queue.submit(obeys, ignores)
    # SQLite keeps the fraction: this test has no minute to spare.
    queue.execute("UPDATE job_queue SET time_limit_minutes = 0.03 WHERE name = 'ignores'")
    queue.clients.start(slots=2)
    ended = queue.wait_for(obeying, SchedulerState.TIME_LIMIT)
    assert ended.reason == "its time limit was reached"
    queue.wait_for(ignoring, SchedulerState.TIME_LIMIT)
    assert queue.witness.pids("ready")
    assert all_gone(queue.witness.pids("ready"))


def test_cancelling(queue: Queue) -> None:
    commands = 'trap "echo told >> $witness; exit 9" TERM\necho ready $$ >> $witness\nsleep 300 & wait'
    runs, attempt = queue.wrapped("runs", commands)
    running, waiting = queue.submit(runs, queue.script("waits", ""))
    queue.clients.start()
    queue.witness.wait_for("ready")
    queue.scheduler.cancel([waiting])
    assert queue.observe(waiting).state is SchedulerState.CANCELLED
    queue.scheduler.cancel([running, waiting])
    queue.wait_for(running, SchedulerState.CANCELLED)
    assert queue.witness.says("told")
    assert attempt.status().got_sigterm
    assert queue.witness.starts() == Counter({"runs": 1})
    queue.scheduler.cancel([running])
    assert queue.observe(running).state is SchedulerState.CANCELLED


def test_a_client_that_stood_still_ends_its_programs_and_goes_on_under_a_new_lease(
    tmp_path: Path, clients: ClientFamily
) -> None:
    queue = Queue(tmp_path, clients, lease_seconds=3)
    client = clients.start()
    stuck, attempt = queue.wrapped("stuck", f"{LEAVES_CHILDREN}\nwait")
    [handle] = queue.submit(stuck)
    queue.witness.wait_for("ready")
    leases = queue.client_ids()
    queue.stop_between_transactions(client)
    lost = queue.wait_for(handle, SchedulerState.NODE_FAILURE)
    assert lost.reason == "its compute client stopped answering"
    assert not queue.client_ids()
    client.send(signal.SIGCONT)
    pids = queue.witness.pids("child") + queue.witness.pids("ready")
    wait_until(lambda: all_gone(pids), PROMPTLY_SECONDS, "the end of what runs without a lease")
    [next_handle] = queue.submit(queue.script("next", ""))
    queue.wait_for(next_handle, SchedulerState.COMPLETED)
    assert queue.observe(handle) == lost
    assert attempt.status().phase == "started"
    assert not queue.client_ids() & leases
    assert queue.witness.starts() == Counter({"stuck": 1, "next": 1})


def test_a_client_without_its_database_ends_its_programs_before_the_lease_can_run_out(queue: Queue) -> None:
    queue.clients.start()
    stuck, _ = queue.wrapped("stuck", f"{LEAVES_CHILDREN}\nwait")
    [handle] = queue.submit(stuck)
    queue.witness.wait_for("ready")
    pids = queue.witness.pids("child") + queue.witness.pids("ready")
    with closing(queue.connect(seconds=30)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        wait_until(lambda: all_gone(pids), LEASE_SECONDS, "the end of what may soon have no lease")
        connection.rollback()
    lost = queue.wait_for(handle, SchedulerState.NODE_FAILURE)
    assert lost.reason == "its compute client lost touch with the queue"
    [next_handle] = queue.submit(queue.script("next", ""))
    queue.wait_for(next_handle, SchedulerState.COMPLETED)


def test_how_scripts_end_is_written_down(queue: Queue) -> None:
    names = ("homeless", "seven", "dies", "good")
    specs = [queue.script(n, c) for n, c in zip(names, ("", "exit 7", "kill -SEGV $$", "echo seen"), strict=True)]
    homeless, seven, dies, good = queue.submit(*specs)
    shutil.rmtree(specs[0].working_dir)
    queue.clients.start(slots=4)
    observation = queue.wait_for(homeless, SchedulerState.FAILED)
    assert (observation.exit_code, observation.signal) == (None, None)
    assert observation.reason == "it could not be started: No such file or directory"
    observation = queue.wait_for(seven, SchedulerState.FAILED)
    assert (observation.exit_code, observation.signal, observation.reason) == (7, None, None)
    observation = queue.wait_for(dies, SchedulerState.FAILED)
    assert (observation.exit_code, observation.signal) == (None, signal.SIGSEGV)
    assert observation.reason == "it died by signal 11"
    observation = queue.wait_for(good, SchedulerState.COMPLETED)
    assert observation.exit_code == 0
    assert observation.started_at is not None
    assert observation.ended_at is not None
    assert observation.started_at <= observation.ended_at
    assert (specs[3].working_dir / "scheduler.out").read_text() == "seen\n"
    assert queue.witness.starts() == Counter({"seven": 1, "dies": 1, "good": 1})


def test_a_program_inherits_nothing_of_another_job_or_of_the_client(queue: Queue) -> None:
    client = queue.clients.start(slots=2)
    specs = [queue.wrapped(name, "exec sleep 300")[0] for name in ("one", "two")]
    queue.submit(*specs)
    for spec in specs:
        queue.witness.wait_for("start", spec.name)
    programs = [int(line[2]) for line in queue.witness.lines()]
    wrappers = [int(line[3]) for line in queue.witness.lines()]
    for program in programs:
        wait_until(partial(_sleeps_with_three_files, program), 10, "the shell to become sleep")
        assert not pipes(program)
    assert not pipes(wrappers[0]) & pipes(wrappers[1])
    for wrapper in wrappers:
        assert len(pipes(wrapper) & pipes(client.pid)) == 1
    database = str(queue.folder / "portal.db")
    assert not any(target.startswith(database) for pid in wrappers for target in open_files(pid))


def _sleeps_with_three_files(pid: int) -> bool:
    """Its loader opens files for a moment, too."""
    return Path(f"/proc/{pid}/exe").readlink().name == "sleep" and len(open_files(pid)) == 3


def test_a_job_that_was_taken_and_not_started_goes_back(queue: Queue) -> None:
    """As after a commit whose answer was lost."""
    queue.clients.start()
    queue.wait_for_clients(1)
    [client_id] = queue.client_ids()
    taken, unwanted = queue.script("taken", ""), queue.script("unwanted", "")
    with closing(queue.connect(seconds=30)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        for spec in (taken, unwanted):
            connection.execute(
                "INSERT INTO job_running (queue_id, name, script, working_dir, time_limit_minutes, queued_at, "
                "client_id, node, started_at, cancel_asked) VALUES "
                "(?, ?, ?, ?, 5, '2026-11-24 06:00:00', ?, 'here', '2026-11-24 06:00:00', ?)",
                (
                    70 if spec is taken else 71,
                    spec.name,
                    str(spec.script),
                    str(spec.working_dir),
                    client_id,
                    spec is unwanted,
                ),
            )
        connection.commit()
    queue.wait_for(Handle("70", "taken"), SchedulerState.COMPLETED)
    queue.wait_for(Handle("71", "unwanted"), SchedulerState.CANCELLED)
    assert queue.witness.starts() == Counter({"taken": 1})


def test_a_client_that_is_short_of_something_leaves_the_job_to_others(queue: Queue) -> None:
    poor = queue.clients.start()
    queue.wait_for_clients(1)
    _, hard = resource.prlimit(poor.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(poor.pid, resource.RLIMIT_NOFILE, (len(poor.open_files()), hard))
    [handle] = queue.submit(queue.script("patient", ""))
    wait_until(lambda: "goes back" in poor.log(), 20, "the client to notice")
    queue.wait_for(handle, SchedulerState.PENDING)
    rich = queue.clients.start()
    queue.wait_for(handle, SchedulerState.COMPLETED)
    assert queue.witness.says("start", "patient", queue.witness.lines()[0][2], str(rich.pid))
