"""The backend over a session and records that are not real: what it makes of what they say."""

import signal
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest

from portal.errors import DefinitionError, SchedulerError
from portal.schedulers.base import (
    Deferred,
    FindAnswer,
    Found,
    Handle,
    Health,
    InDoubt,
    JobSpec,
    Observation,
    Rejected,
    SchedulerState,
    Submitted,
    Unknown,
)
from portal.schedulers.drmaa_native import Drms
from portal.schedulers.drmaa_scheduler import DrmaaScheduler
from portal.schedulers.drmaa_session import CALL_SECONDS, DrmaaSession, NoSuchJobError, Template
from portal.schedulers.drmaa_status import LibraryRecords

HANDLE = Handle("17", "portal-abcdef-tcfnctbq-1")
OTHER = Handle("18", "portal-abcdef-tcfnctbq-2")


def spec(number: int = 1, **fields: object) -> JobSpec:
    name = f"portal-abcdef-tcfnctbq-{number}"
    return JobSpec(name, Path("/dev/null"), Path("/j/work"), 5, 50, 1, **fields)  # type: ignore[arg-type]


class FakeSession(DrmaaSession):
    """Answers as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.info: str | SchedulerError = "SGE 8.1.9"
        self.answers: list[str | Rejected | Deferred | InDoubt] = []
        self.templates: list[Template] = []
        self.terminated: list[str] = []
        self.failure: Exception | None = None
        self.statuses: dict[str, str | Exception] = {}

    def system(self) -> str:
        if isinstance(self.info, SchedulerError):
            raise self.info
        return self.info

    def origin(self) -> str:
        return "libdrmaa.so, DRMAA 1.0, contact 'x'"

    def submit(self, template: Template) -> str | Rejected | Deferred | InDoubt:
        self.templates.append(template)
        return self.answers.pop(0)

    def status(self, scheduler_id: str) -> str:
        answer = self.statuses.get(scheduler_id, NoSuchJobError())
        if isinstance(answer, Exception):
            raise answer
        return answer

    def terminate(self, scheduler_id: str) -> None:
        self.terminated.append(scheduler_id)
        if self.failure is not None:
            raise self.failure


class FakeRecords:
    def __init__(self) -> None:
        self.states: dict[Handle, Observation] = {}
        self.answer: Health = Health(True, "", 2, 3)
        self.failure: SchedulerError | None = None

    def observe(self, handles: Collection[Handle]) -> dict[Handle, Observation]:
        if self.failure is not None:
            raise self.failure
        return {handle: self.states.get(handle, Observation(SchedulerState.NOT_FOUND)) for handle in handles}

    def find(self, names: Collection[str]) -> dict[str, FindAnswer]:
        return {name: Found((HANDLE,)) for name in names}

    def health(self) -> Health:
        return self.answer

    def close(self) -> None:
        pass


@pytest.fixture
def session() -> FakeSession:
    return FakeSession()


@pytest.fixture
def records() -> FakeRecords:
    return FakeRecords()


@pytest.fixture
def scheduler(session: FakeSession, records: FakeRecords) -> DrmaaScheduler:
    return DrmaaScheduler(session, {Drms.GRID_ENGINE: lambda: records, Drms.SLURM: lambda: records}, "-P bio")


def test_a_submission(scheduler: DrmaaScheduler, session: FakeSession) -> None:
    session.answers = ["17", Rejected("no")]
    assert scheduler.submit([spec(), spec(2)]) == [Submitted(HANDLE), Rejected("no")]
    first = session.templates[0]
    assert (first.name, first.script, first.working_dir) == (HANDLE.name, Path("/dev/null"), Path("/j/work"))
    assert first.output == Path("/j/work/scheduler.out")
    assert first.native_specification.endswith("-l h_rt=300,h_vmem=50M -P bio")


def test_slurm_gets_its_own_words(scheduler: DrmaaScheduler, session: FakeSession) -> None:
    session.info, session.answers = "SLURM 22.05.8", ["17"]
    scheduler.submit([spec()])
    assert session.templates[0].native_specification.startswith("--time=00:05:00 --mem=50")


def test_a_script_that_cannot_be_read_goes_in_later(scheduler: DrmaaScheduler, session: FakeSession) -> None:
    [answer] = scheduler.submit([replace(spec(), script=Path("/nowhere/job.sh"))])
    assert isinstance(answer, Deferred)
    assert session.templates == []


def test_after_one_in_doubt_the_others_are_put_off(scheduler: DrmaaScheduler, session: FakeSession) -> None:
    session.answers = ["17", InDoubt("lost"), "19"]
    answers = scheduler.submit([spec(number) for number in range(1, 5)])
    assert [type(answer) for answer in answers] == [Submitted, InDoubt, Deferred, Deferred]
    assert len(session.templates) == 2


def test_what_cannot_be_said_is_refused(scheduler: DrmaaScheduler, session: FakeSession) -> None:
    assert scheduler.directives(spec(qos="high")) == []  # it is not known yet what the library is for
    [answer] = scheduler.submit([spec(qos="high")])
    assert isinstance(answer, Rejected)
    with pytest.raises(DefinitionError):
        scheduler.directives(spec(qos="high"))
    assert scheduler.directives(spec()) == []


def test_without_a_cluster_nothing_is_known(scheduler: DrmaaScheduler, session: FakeSession) -> None:
    session.info = SchedulerError("away")
    assert [type(answer) for answer in scheduler.submit([spec()])] == [Deferred]
    assert isinstance(scheduler.find(["x"])["x"], Unknown)
    assert not scheduler.health().ok
    for ask in (scheduler.observe, scheduler.cancel):
        with pytest.raises(SchedulerError):
            ask([HANDLE])
    assert session.templates == []


def test_where_the_commands_do_not_answer_the_library_says_what_lives(
    scheduler: DrmaaScheduler, session: FakeSession, records: FakeRecords
) -> None:
    records.failure = SchedulerError("qstat: not found")
    session.statuses = {"17": "running", "18": "done"}
    seen = scheduler.observe([HANDLE, OTHER])
    assert [seen[handle].state for handle in (HANDLE, OTHER)] == [SchedulerState.RUNNING, SchedulerState.UNKNOWN]
    # Whose id it is, only the commands can say: nothing is ended by an id alone.
    with pytest.raises(SchedulerError):
        scheduler.cancel([HANDLE])
    assert session.terminated == []
    session.statuses = {"17": SchedulerError("away")}
    with pytest.raises(SchedulerError, match="away"):
        scheduler.observe([HANDLE])


@pytest.fixture
def of_torque(session: FakeSession) -> DrmaaScheduler:
    session.info = "Torque"
    native = "-l walltime={time_limit_seconds},mem={memory_mib}mb"
    return DrmaaScheduler(session, {Drms.OTHER: lambda: LibraryRecords(session)}, native)


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("queued_active", SchedulerState.PENDING),
        ("user_on_hold", SchedulerState.HELD),
        ("running", SchedulerState.RUNNING),
        ("system_suspended", SchedulerState.SUSPENDED),
        ("done", SchedulerState.NOT_FOUND),
        ("failed", SchedulerState.NOT_FOUND),
        ("undetermined", SchedulerState.UNKNOWN),
        ("a new word", SchedulerState.UNKNOWN),
        (NoSuchJobError(), SchedulerState.NOT_FOUND),
    ],
)
def test_of_another_system_the_library_says_alive_or_gone(
    of_torque: DrmaaScheduler, session: FakeSession, word: str | Exception, state: SchedulerState
) -> None:
    session.statuses["17"] = word
    seen = of_torque.observe([HANDLE])[HANDLE]
    assert (seen.state, seen.exit_code) == (state, None)
    assert seen.raw_state == (word if isinstance(word, str) else "")
    # So that "gone" alone is never told as an end.
    assert not of_torque.capabilities.has_accounting


def test_a_library_that_stops_answering_is_not_asked_on_and_on(of_torque: DrmaaScheduler, session: FakeSession) -> None:
    third = replace(OTHER, scheduler_id="19")
    session.statuses = {"17": "running", "18": SchedulerError("away"), "19": "running"}
    seen = of_torque.observe([HANDLE, OTHER, third])
    assert [seen[handle].state for handle in (HANDLE, OTHER, third)] == [
        SchedulerState.RUNNING,
        SchedulerState.UNKNOWN,
        SchedulerState.UNKNOWN,
    ]
    with pytest.raises(SchedulerError):
        of_torque.observe([OTHER])


def test_of_another_system_no_name_is_known_and_what_lives_is_ended(
    of_torque: DrmaaScheduler, session: FakeSession
) -> None:
    assert isinstance(of_torque.find(["x"])["x"], Unknown)
    session.statuses = {"17": "queued_active", "18": "done"}
    of_torque.cancel([HANDLE, OTHER])
    assert session.terminated == ["17"]
    session.answers = ["20"]
    of_torque.submit([spec(3)])
    assert session.templates[0].native_specification == "-l walltime=300,mem=50mb"
    assert of_torque.health().ok


def test_nothing_asked_is_nothing_answered(scheduler: DrmaaScheduler, session: FakeSession) -> None:
    session.info = SchedulerError("away")
    assert (scheduler.observe([]), scheduler.find([])) == ({}, {})


def test_only_what_bears_our_name_and_lives_is_ended(
    scheduler: DrmaaScheduler, session: FakeSession, records: FakeRecords
) -> None:
    records.states[HANDLE] = Observation(SchedulerState.RUNNING)
    scheduler.cancel([HANDLE, OTHER])
    assert session.terminated == ["17"]


def test_an_end_that_was_asked_for_is_a_cancellation(scheduler: DrmaaScheduler, records: FakeRecords) -> None:
    for handle in (HANDLE, OTHER):
        records.states[handle] = Observation(SchedulerState.RUNNING)
    scheduler.cancel([HANDLE])
    scheduler.observe([OTHER])
    killed = Observation(SchedulerState.FAILED, signal=signal.SIGKILL)
    records.states = {HANDLE: killed, OTHER: killed}
    seen = scheduler.observe([HANDLE, OTHER])
    assert [seen[handle].state for handle in (HANDLE, OTHER)] == [SchedulerState.CANCELLED, SchedulerState.FAILED]
    records.states = {HANDLE: Observation(SchedulerState.COMPLETED, exit_code=0)}
    assert scheduler.observe([HANDLE])[HANDLE].state is SchedulerState.COMPLETED


def test_what_is_gone_meanwhile_is_no_error(
    scheduler: DrmaaScheduler, session: FakeSession, records: FakeRecords
) -> None:
    records.states[HANDLE] = Observation(SchedulerState.RUNNING)
    session.failure = NoSuchJobError()
    scheduler.cancel([HANDLE])


def test_what_was_not_heard_is_one_and_the_others_are_ended(
    scheduler: DrmaaScheduler, session: FakeSession, records: FakeRecords
) -> None:
    records.states = dict.fromkeys([HANDLE, OTHER], Observation(SchedulerState.RUNNING))
    session.failure = SchedulerError("away")
    with pytest.raises(SchedulerError, match="2 of 2 were not cancelled"):
        scheduler.cancel([HANDLE, OTHER])
    assert session.terminated == ["17", "18"]


def test_health(scheduler: DrmaaScheduler, records: FakeRecords) -> None:
    assert scheduler.health() == Health(True, "SGE 8.1.9 by libdrmaa.so, DRMAA 1.0, contact 'x'", 2, 3)
    records.answer = Health(False, "away", log_detail="qstat: timed_out")
    assert scheduler.health() == records.answer
    scheduler.close()


def test_what_is_promised(scheduler: DrmaaScheduler) -> None:
    assert scheduler.reserved_exit_codes == (99, 100)
    assert scheduler.capabilities.lost_call_seconds > CALL_SECONDS
    assert not scheduler.capabilities.sees_node_failures
