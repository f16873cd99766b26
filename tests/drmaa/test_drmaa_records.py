"""What queue and accounting say together: over recorded answers, and over commands that fail."""

from collections.abc import Callable

import pytest

from portal.errors import SchedulerError
from portal.schedulers import drmaa_records
from portal.schedulers.base import Absent, Found, Handle, SchedulerState, Unknown
from portal.schedulers.drmaa_records import ACCOUNTING_LAG_SECONDS, MOST_LOOKED_UP, GridEngineRecords
from portal.schedulers.grid_engine_calls import (
    Call,
    GridEngineCommands,
    accounting_by_name_call,
    accounting_call,
    environment_of_grid_engine,
    queue_call,
)
from portal.schedulers.helper import Result
from tests.drmaa.recordings import recorded, recorded_id
from tests.fake_clock import FakeClock

STRANGER = Handle("999999", "portal-nobody-tcfnctbq-1")
SILENCE = Result(None, "", "", "timed_out")


class FakeCommands(GridEngineCommands):
    """Answers by what is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.queue = recorded("qstat")
        self.accounting: Callable[[str], Result] = lambda _asked: recorded("qacct-unknown-id")

    def call(self, calls: list[Call]) -> list[Result]:
        self.calls += calls
        return [self.queue if call[0] == "qstat" else self.accounting(call[-1]) for call in calls]


@pytest.fixture
def commands() -> FakeCommands:
    return FakeCommands()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def records(commands: FakeCommands, clock: FakeClock) -> GridEngineRecords:
    return GridEngineRecords(commands, clock, "portal-cell")


def handle_of(what: str) -> Handle:
    return Handle(recorded_id(what), f"portal-record-{what}-1")


def test_what_is_in_the_queue_needs_no_accounting(records: GridEngineRecords, commands: FakeCommands) -> None:
    handles = [handle_of("running"), handle_of("held")]
    seen = records.observe(handles)
    assert [seen[handle].state for handle in handles] == [SchedulerState.RUNNING, SchedulerState.HELD]
    assert commands.calls == [queue_call("portal-cell")]


def test_what_left_the_queue_is_in_accounting(records: GridEngineRecords, commands: FakeCommands) -> None:
    commands.accounting = lambda _asked: recorded("qacct-one")
    ended = handle_of("exit-3")
    assert records.observe([ended])[ended].exit_code == 3
    # An id of another time, or another scheduler's job.
    other = Handle(ended.scheduler_id, STRANGER.name)
    assert records.observe([other])[other].state is SchedulerState.NOT_FOUND


def test_an_id_that_is_none_of_grid_engines_is_not_asked_for(
    records: GridEngineRecords, commands: FakeCommands
) -> None:
    odd = [Handle(text, STRANGER.name) for text in ("12_3", "", "*", "-j", "0")]
    assert {seen.state for seen in records.observe(odd).values()} == {SchedulerState.NOT_FOUND}
    assert len(commands.calls) == 1


def test_a_job_that_was_alive_is_waited_for_in_accounting(
    records: GridEngineRecords, commands: FakeCommands, clock: FakeClock
) -> None:
    handle = handle_of("running")
    assert records.observe([handle])[handle].state is SchedulerState.RUNNING
    commands.queue = recorded("qstat-empty")
    assert records.observe([handle, STRANGER])[handle].state is SchedulerState.UNKNOWN
    assert records.observe([STRANGER, handle])[STRANGER].state is SchedulerState.NOT_FOUND
    clock.advance(ACCOUNTING_LAG_SECONDS)
    assert records.observe([handle])[handle].state is SchedulerState.NOT_FOUND


def test_a_job_that_was_put_back_and_taken_away_is_not_found(
    records: GridEngineRecords, commands: FakeCommands
) -> None:
    commands.accounting = lambda _asked: recorded("qacct")
    handle = handle_of("exit-99")
    assert records.observe([handle])[handle].state is SchedulerState.NOT_FOUND


@pytest.mark.parametrize("answer", [SILENCE, recorded("qacct-no-file"), Result(0, "half of it", "", None)])
def test_accounting_that_does_not_answer_ends_nothing(
    records: GridEngineRecords, commands: FakeCommands, answer: Result
) -> None:
    commands.accounting = lambda _asked: answer
    assert records.observe([STRANGER])[STRANGER].state is SchedulerState.UNKNOWN
    found = records.find([STRANGER.name, "portal-record-running-1"])
    assert isinstance(found[STRANGER.name], Unknown)
    assert found["portal-record-running-1"] == Found((handle_of("running"),))


@pytest.mark.parametrize("answer", [SILENCE, recorded("qstat-qmaster-down"), Result(0, "", "", None)])
def test_a_queue_that_does_not_answer(records: GridEngineRecords, commands: FakeCommands, answer: Result) -> None:
    commands.queue = answer
    with pytest.raises(SchedulerError):
        records.observe([STRANGER])
    assert isinstance(records.find([STRANGER.name])[STRANGER.name], Unknown)
    health = records.health()
    assert not health.ok
    assert health.log_detail


def test_names(records: GridEngineRecords, commands: FakeCommands) -> None:
    # qacct takes a record with the number 0, or another of the same number, for an answer: names decide.
    commands.accounting = lambda asked: recorded("qacct-unknown-name" if "nobody" in asked else "qacct-by-name")
    names = [STRANGER.name, "portal-record-exit-3-1", "portal-record-running-1", "portal-other-1"]
    assert records.find(names) == {
        STRANGER.name: Absent(),
        "portal-record-exit-3-1": Found((handle_of("exit-3"),)),
        "portal-record-running-1": Found((handle_of("running"),)),
        "portal-other-1": Absent(),
    }


def test_many_that_ended_have_their_turns(records: GridEngineRecords, commands: FakeCommands, clock: FakeClock) -> None:
    commands.queue = recorded("qstat-empty")
    handles = [Handle(str(number), f"portal-many-{number}-1") for number in range(1000, 1000 + MOST_LOOKED_UP + 5)]
    states = [seen.state for seen in records.observe(handles).values()]
    assert states.count(SchedulerState.UNKNOWN) == 5
    assert len(commands.calls) == 1 + MOST_LOOKED_UP
    clock.advance(1)
    seen = records.observe(handles)
    assert {seen[handle].state for handle in handles[-5:]} == {SchedulerState.NOT_FOUND}


def test_an_end_is_asked_for_once(records: GridEngineRecords, commands: FakeCommands) -> None:
    commands.accounting = lambda _asked: recorded("qacct-one")
    ended = handle_of("exit-3")
    first = records.observe([ended])
    assert records.observe([ended]) == first
    assert [call[0] for call in commands.calls] == ["qstat", "qacct", "qstat"]


def test_what_is_remembered_is_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drmaa_records, "MOST_REMEMBERED", 2)
    memory: dict[Handle, int] = {}
    for number in (1, 2, 1, 3):
        drmaa_records.remember(memory, Handle(str(number), "portal-a-b-1"), number)
    assert list(memory.values()) == [1, 3]


def test_counts(records: GridEngineRecords) -> None:
    health = records.health()
    assert (health.ok, health.running, health.waiting) == (True, 2, 7)


@pytest.mark.parametrize("name", ["", "1", "*", "a b", "-j", "a|b"])
def test_a_name_that_is_no_jobs_of_ours_is_not_asked_for(name: str) -> None:
    with pytest.raises(SchedulerError):
        accounting_by_name_call(name)


@pytest.mark.parametrize("scheduler_id", ["", "0", "1.1", "*", "portal"])
def test_an_id_that_cannot_be_is_not_asked_for(scheduler_id: str) -> None:
    with pytest.raises(SchedulerError):
        accounting_call(scheduler_id)


def test_the_environment_of_the_commands() -> None:
    environ = {
        "PATH": "/usr/bin", "SGE_ROOT": "/sge", "SGE_CELL": "main", "SGE_ARCH": "lx-amd64", "TZ": "Asia/Tokyo",
        "SGE_SINGLE_LINE": "1", "PORTAL_SECRET": "x", "GLIBC_TUNABLES": "x",
    }  # fmt: skip
    environment = environment_of_grid_engine(environ)
    assert environment["PATH"].endswith(":/sge/bin/lx-amd64")
    assert {name: environment[name] for name in ("SGE_ROOT", "SGE_CELL", "TZ", "LC_ALL")} == {
        "SGE_ROOT": "/sge", "SGE_CELL": "main", "TZ": "UTC", "LC_ALL": "C",
    }  # fmt: skip
    assert not environment.keys() & {"SGE_SINGLE_LINE", "PORTAL_SECRET", "GLIBC_TUNABLES"}


def test_commands_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    [one] = GridEngineCommands().call([["no-such-command-of-grid-engine"]])
    two = GridEngineCommands().call([["true"], ["sleep", "0"]])
    assert (one.failure, [result.is_good for result in two]) == ("cannot be started", [True, True])
    monkeypatch.setenv("SGE_ROOT", "/nowhere")
    [answer] = GridEngineCommands(call_seconds=0.1).call([["sleep", "5"]])
    assert answer.failure == "timed_out"
