"""What the dispatcher is told of Slurm, by a helper that answers as the test wants: above all, when it is told none."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from portal.errors import SchedulerError
from portal.schedulers.base import (
    Absent,
    Deferred,
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
from portal.schedulers.commands import NotReachedError
from portal.schedulers.helper import Helper, Result, parse_answer
from portal.schedulers.slurm_scheduler import ACCOUNTING_LAG_SECONDS, CONTROLLER_SECONDS, SlurmScheduler
from tests.fake_clock import FakeClock
from tests.slurm_recordings import VERSIONS, accounting_answer, queue_answer, record, recorded

JOBS = Path("/jobs")
Answer = dict[str, Any]
Command = Callable[[list[str]], Answer]

NOT_FOUND = Observation(SchedulerState.NOT_FOUND)


def said(stdout: str = "", stderr: str = "", exit_code: int = 0) -> Answer:
    return {"exit_code": exit_code, "stdout": stdout, "stderr": stderr, "failure": None}


def failed(failure: str) -> Answer:
    return {"exit_code": None, "stdout": "", "stderr": "", "failure": failure}


def as_recorded(name: str) -> Command:
    exit_code, stdout, stderr = recorded(name)
    return lambda _: said(stdout, stderr, exit_code)


def separator_of(call: list[str]) -> str:
    """The separator that a call asks for; a new one each time."""
    match = re.search(r"--delimiter=(\S+)", " ".join(call)) or re.search(r"JobID:([^,]+)", " ".join(call))
    assert match is not None
    return match[1]


class FakeRunner:
    """The helper and all of Slurm's commands."""

    def __init__(self) -> None:
        self.commands: dict[str, Command] = {
            "squeue": lambda _: said(),
            "sacct": lambda _: said(),
            "scancel": lambda _: said(),
            "sbatch": lambda _: said("17\n"),
            "scontrol": lambda call: said("slurm 23.11.4\n" if "--version" in call else recorded("scontrol-ping")[1]),
        }
        self.error: SchedulerError | None = None
        self.calls: list[list[str]] = []
        self.requests = 0
        self.is_closed = False

    def run(self, request: bytes, timeout_seconds: float) -> bytes:
        asked = json.loads(request)
        assert asked["timeout_seconds"] < timeout_seconds
        self.requests += 1
        calls = [call["run"] for call in asked["calls"]]
        self.calls += calls
        if self.error is not None:
            raise self.error
        answers = [self.commands[call[0]](call) for call in calls]
        return json.dumps({"version": 1, "id": asked["id"], "answers": answers}).encode()

    def close(self) -> None:
        self.is_closed = True

    def queue(self, *rows: tuple[str, ...]) -> None:
        """What squeue has: id, name, state, reason."""

        def answer(call: list[str]) -> Answer:
            tail = ("0", "node1", "2026-11-24T08:00:00", "N/A")
            return said("".join(record(separator_of(call), *row, *tail) for row in rows))

        self.commands["squeue"] = answer

    def accounting(self, *rows: tuple[str, ...]) -> None:
        """What sacct has: id, name, state, exit code."""

        def answer(call: list[str]) -> Answer:
            tail = ("None", "node1", "2026-11-24T08:00:00", "2026-11-24T08:00:09", "2026-11-24T07:59:59")
            return said("".join(record(separator_of(call), *row, *tail) for row in rows))

        self.commands["sacct"] = answer

    def asked(self, command: str) -> list[list[str]]:
        return [call[1:] for call in self.calls if call[0] == command]


class Bench:
    def __init__(self) -> None:
        self.runner = FakeRunner()
        self.clock = FakeClock()
        self.scheduler = SlurmScheduler(Helper(self.runner, JOBS, 30), self.clock)

    def see(self, handle: Handle) -> Observation:
        return self.scheduler.observe([handle])[handle]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def spec(name: str = "a") -> JobSpec:
    return JobSpec(name, JOBS / name / "job.sh", JOBS / name / "work", 5, memory_mib=64, cpus=1)


A, B, C = Handle("1", "a"), Handle("2", "b"), Handle("3", "c")


def test_a_batch_is_one_round_trip_and_each_gets_its_own_answer(bench: Bench) -> None:
    answers = {
        "good": said("21\n"),
        "elsewhere": said("22;other\n"),
        "refused": said("", recorded("sbatch-invalid-partition")[2], 1),
        "limit": said("", recorded("sbatch-too-many-submitted")[2], 1),
        "down": said("", recorded("sbatch-controller-down")[2], 1),
        "munge": said("", recorded("sbatch-munge-down")[2], 1),
        "garbage": said("hello\n"),
        "hung": failed("timed_out"),
        "endless": failed("too_long"),
        "late": failed("not_started"),
        "full": failed("busy"),
        "linked": failed("refused"),
        "nowhere": failed("not_found"),
    }
    bench.runner.commands["sbatch"] = lambda call: answers[Path(call[-1]).parent.name]
    got = dict(zip(answers, bench.scheduler.submit([spec(name) for name in answers]), strict=True))
    assert bench.runner.requests == 1
    assert got["good"] == Submitted(Handle("21", "good"))
    assert got["elsewhere"] == Submitted(Handle("22", "elsewhere", "other"))
    assert isinstance(got["refused"], Rejected)
    kinds = {name: type(answer) for name, answer in got.items()}
    assert {name for name, kind in kinds.items() if kind is Deferred} == {
        "limit", "down", "late", "full", "linked", "nowhere",
    }  # fmt: skip
    assert {name for name, kind in kinds.items() if kind is InDoubt} == {"munge", "garbage", "hung", "endless"}


def test_what_stands_on_the_command_line_of_sbatch(bench: Bench) -> None:
    bench.scheduler.submit([spec("a")])
    assert bench.runner.asked("sbatch") == [["--parsable", "--chdir=/jobs/a/work", "/jobs/a/job.sh"]]
    assert bench.scheduler.submit([]) == []


def test_a_submission_that_never_left_is_deferred_and_one_that_may_have_is_in_doubt(bench: Bench) -> None:
    bench.runner.error = NotReachedError("The cluster cannot be reached.", log_detail="no route")
    assert bench.scheduler.submit([spec(), spec("b")]) == [Deferred("The cluster cannot be reached.")] * 2
    bench.runner.error = SchedulerError("No answer.", log_detail="cut")
    assert all(isinstance(answer, InDoubt) for answer in bench.scheduler.submit([spec(), spec("b")]))


def test_a_lost_call_is_waited_for_longer_than_it_can_work(bench: Bench) -> None:
    assert bench.scheduler.capabilities.lost_call_seconds > 2 * 30 + CONTROLLER_SECONDS


def test_the_queue_alone_answers_for_what_it_knows(bench: Bench) -> None:
    bench.runner.queue(("1", "a", "RUNNING", "None"), ("2", "b", "PENDING", "Resources"), ("9", "x", "RUNNING", ""))
    answers = bench.scheduler.observe([A, B])
    assert (answers[A].state, answers[B].state) == (SchedulerState.RUNNING, SchedulerState.PENDING)
    assert set(answers) == {A, B}
    [asked] = bench.runner.asked("squeue")
    assert {"--me", "--all", "--states=all"} < set(asked)
    assert not bench.runner.asked("sacct")


def test_accounting_is_asked_for_those_that_left_and_for_nobody_else(bench: Bench) -> None:
    bench.runner.queue(("1", "a", "RUNNING", "None"))
    bench.runner.accounting(("2", "b", "FAILED", "7:0"))
    answers = bench.scheduler.observe([A, B, C])
    assert answers[A].state is SchedulerState.RUNNING
    assert (answers[B].state, answers[B].exit_code) == (SchedulerState.FAILED, 7)
    assert answers[C] == NOT_FOUND
    [asked] = bench.runner.asked("sacct")
    assert "--jobs=2,3" in asked
    assert "--starttime=1970-01-01T00:00:00" in asked
    assert "--duplicates" in asked


def test_an_id_with_another_name_is_another_job(bench: Bench) -> None:
    bench.runner.queue(("1", "stranger", "RUNNING", "None"))
    bench.runner.accounting(("1", "stranger", "RUNNING", "0:0"))
    assert bench.see(A) == NOT_FOUND
    bench.runner.accounting(("1", "stranger", "RUNNING", "0:0"), ("1", "a", "NODE_FAIL", "0:0"))
    assert bench.see(A).state is SchedulerState.NODE_FAILURE


@pytest.mark.parametrize("name", ["squeue-controller-down", "squeue-munge-down"])
def test_a_queue_that_does_not_answer_is_no_answer_about_any_job(bench: Bench, name: str) -> None:
    bench.runner.commands["squeue"] = as_recorded(name)
    with pytest.raises(SchedulerError) as caught:
        bench.scheduler.observe([A])
    assert "squeue" in caught.value.log_detail
    assert "squeue" not in caught.value.visitor_message


@pytest.mark.parametrize("answer", [failed("timed_out"), failed("too_long"), said("1|a|RUNNING\n"), said("MOTD\n")])
def test_a_queue_whose_answer_is_not_whole_neither(bench: Bench, answer: Answer) -> None:
    bench.runner.commands["squeue"] = lambda _: answer
    with pytest.raises(SchedulerError):
        bench.scheduler.observe([A])


@pytest.mark.parametrize("name", ["sacct-dbd-down", "sacct-munge-down", "sacct-bad-field"])
def test_without_accounting_what_left_the_queue_is_unknown_and_the_rest_is_not(bench: Bench, name: str) -> None:
    bench.runner.queue(("1", "a", "RUNNING", "None"), ("3", "c", "CANCELLED", "None"))
    bench.runner.commands["sacct"] = as_recorded(name)
    answers = bench.scheduler.observe([A, B, C])
    assert answers[A].state is SchedulerState.RUNNING
    assert answers[B].state is SchedulerState.UNKNOWN
    assert answers[C].state is SchedulerState.CANCELLED
    assert bench.scheduler.capabilities.has_accounting
    assert (bench.scheduler.health().ok, bench.scheduler.health().accounting_ok) == (True, False)
    bench.scheduler.observe([A])
    assert bench.scheduler.health().accounting_ok


def test_who_cancelled_it_comes_from_accounting(bench: Bench) -> None:
    bench.runner.queue(("1", "a", "CANCELLED", "None"), ("2", "b", "CANCELLED", "None"))
    bench.runner.accounting(("1", "a", "CANCELLED by 0", "0:0"))
    answers = bench.scheduler.observe([A, B])
    assert [answers[handle].cancelled_by for handle in (A, B)] == ["uid 0", None]
    assert answers[B].state is SchedulerState.CANCELLED


def test_what_accounting_calls_alive_and_the_queue_does_not_know_is_unknown_for_a_while(bench: Bench) -> None:
    bench.runner.accounting(("1", "a", "RUNNING", "0:0"))
    assert bench.see(A).state is SchedulerState.UNKNOWN
    bench.clock.advance(ACCOUNTING_LAG_SECONDS - 1)
    assert bench.see(A).state is SchedulerState.UNKNOWN
    bench.clock.advance(2)
    lost = bench.see(A)
    assert lost.state is SchedulerState.NOT_FOUND
    assert "RUNNING for ever" in (lost.reason or "")
    bench.runner.queue(("1", "a", "RUNNING", "None"))
    assert bench.see(A).state is SchedulerState.RUNNING
    bench.runner.queue()
    assert bench.see(A).state is SchedulerState.UNKNOWN


def test_what_nobody_cancelled_was_lost_by_the_controller(bench: Bench) -> None:
    bench.runner.accounting(("1", "a", "CANCELLED", "0:0"), ("2", "b", "CANCELLED by 1001", "0:0"))
    answers = bench.scheduler.observe([A, B])
    assert (answers[A].state, answers[A].reason) == (SchedulerState.NOT_FOUND, "the controller lost it")
    assert (answers[B].state, answers[B].cancelled_by) == (SchedulerState.CANCELLED, "uid 1001")


def test_a_cluster_without_accounting_is_noticed(bench: Bench) -> None:
    bench.runner.commands["sacct"] = lambda _: said("", "Slurm accounting storage is disabled\n", 1)
    assert bench.see(A) == NOT_FOUND
    assert not bench.scheduler.capabilities.has_accounting
    assert isinstance(bench.scheduler.find(["a"])["a"], Unknown)


def test_ids_of_another_scheduler_are_known_to_nobody(bench: Bench) -> None:
    stranger = Handle("pid-7@host", "a")
    assert bench.see(stranger) == NOT_FOUND
    bench.scheduler.cancel([stranger])
    assert not bench.runner.asked("sacct")
    assert not bench.runner.asked("scancel")


def test_ten_thousand_jobs_are_one_query_and_their_ids_fit_into_arguments(bench: Bench) -> None:
    handles = [Handle(str(1_000_000_000 + n), f"portal-abcdef-tcfnctbq-{n}") for n in range(10_000)]
    rows = [(handle.scheduler_id, handle.name, "RUNNING", "None") for handle in handles[:5000]]
    bench.runner.queue(*rows)
    answers = bench.scheduler.observe(handles)
    assert len(answers) == len(handles)
    assert bench.runner.requests == 2
    assert len(bench.runner.asked("squeue")) == 1
    assert max(len(word) for call in bench.runner.calls for word in call) < 100_000
    assert bench.scheduler.health() == Health(True, "Slurm 23.11.4", 5000, 0)


def test_cancelling_names_the_job_and_what_is_gone_is_no_error(bench: Bench) -> None:
    gone = "scancel: error: Kill job error on job id 1: Invalid job id specified\n"
    bench.runner.commands["scancel"] = lambda call: said("", gone, 1) if call[-1] == "1" else said()
    bench.scheduler.cancel([A, B])
    assert bench.runner.asked("scancel") == [["--name=a", "1"], ["--name=b", "2"]]
    bench.scheduler.cancel([])


@pytest.mark.parametrize(
    "answer", [failed("timed_out"), failed("not_started"), said("", recorded("scancel-controller-down")[2], 8)]
)
def test_a_wish_to_cancel_that_was_not_heard_is_an_error(bench: Bench, answer: Answer) -> None:
    bench.runner.commands["scancel"] = lambda call: answer if call[-1] == "1" else said()
    with pytest.raises(SchedulerError, match="1 of 2"):
        bench.scheduler.cancel([A, B])


def test_a_name_is_found_in_either_and_absent_only_where_both_answered(bench: Bench) -> None:
    bench.runner.queue(("12", "a", "RUNNING", "None"), ("7", "x", "RUNNING", "None"))
    bench.runner.accounting(("9", "a", "FAILED", "1:0"), ("12", "a", "RUNNING", "0:0"), ("8", "b", "COMPLETED", "0:0"))
    assert bench.scheduler.find(["a", "b", "c"]) == {
        "a": Found((Handle("9", "a"), Handle("12", "a"))),
        "b": Found((Handle("8", "b"),)),
        "c": Absent(),
    }
    assert bench.runner.requests == 1
    assert [call[0] for call in bench.runner.calls] == ["squeue", "sacct"]
    assert "--states=all" in bench.runner.calls[0]
    assert any(word.startswith("--starttime=") for word in bench.runner.calls[1])


@pytest.mark.parametrize(
    ("command", "name"),
    [("squeue", "squeue-controller-down"), ("sacct", "sacct-dbd-down"), ("sacct", "sacct-munge-down")],
)
def test_a_name_that_was_not_looked_up_everywhere_is_unknown(bench: Bench, command: str, name: str) -> None:
    bench.runner.queue(("1", "a", "RUNNING", "None"))
    bench.runner.accounting(("1", "a", "RUNNING", "0:0"))
    bench.runner.commands[command] = as_recorded(name)
    answers = bench.scheduler.find(["a", "b"])
    assert answers["a"] == Found((A,))
    assert isinstance(answers["b"], Unknown)


def test_names_that_nobody_could_ask_for_are_unknown(bench: Bench) -> None:
    bench.runner.error = SchedulerError("No answer.")
    assert isinstance(bench.scheduler.find(["a"])["a"], Unknown)
    assert bench.scheduler.find([]) == {}


def test_health_is_a_ping_a_version_and_what_the_last_look_counted(bench: Bench) -> None:
    assert bench.scheduler.health() == Health(True, "Slurm 23.11.4", None, None)
    bench.runner.queue(("1", "a", "RUNNING", "None"), ("2", "b", "PENDING", "Priority"), ("3", "c", "FAILED", "None"))
    bench.scheduler.observe([A])
    assert bench.scheduler.health() == Health(True, "Slurm 23.11.4", 1, 1)
    assert bench.runner.asked("scontrol").count(["--version"]) == 1


def test_an_unhealthy_cluster_says_so_and_raises_nothing(bench: Bench) -> None:
    for name in ("scontrol-ping-controller-down", "scontrol-ping-munge-down"):
        bench.runner.commands["scontrol"] = as_recorded(name)
        assert not bench.scheduler.health().ok
    bench.runner.error = NotReachedError("The cluster cannot be reached.", log_detail="secret.example.org")
    health = bench.scheduler.health()
    assert health == Health(False, "The cluster cannot be reached.", log_detail="secret.example.org")


def test_closing_closes_the_connection(bench: Bench) -> None:
    bench.scheduler.close()
    assert bench.runner.is_closed


class OtherVersion:
    """squeue and sacct of a version whose text has another form, and whose JSON is 24.11's, as recorded."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        bench.runner.commands["squeue"] = self.squeue
        bench.runner.commands["sacct"] = self.sacct
        rows = [line.split("|recorded|") for line in recorded("pair-queue", "24.11.5")[1].splitlines()]
        self.handles = {row[1].removeprefix("portal-word-").removesuffix("-1"): Handle(row[0], row[1]) for row in rows}

    def squeue(self, call: list[str]) -> Answer:
        return said(recorded("pair-queue-json", "24.11.5")[1] if "--json" in call else "17 a RUNNING\n")

    def sacct(self, call: list[str]) -> Answer:
        return said(recorded("pair-accounting-json", "24.11.5")[1] if "--json" in call else "17 a FAILED 7\n")

    def see(self, word: str) -> Observation:
        return self.bench.see(self.handles[word])


def test_text_that_is_not_understood_is_asked_for_in_json(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    other = OtherVersion(bench)
    assert other.see("running").state is SchedulerState.RUNNING
    assert other.see("exit-code-7").exit_code == 7
    cancelled = other.see("cancelled-by-root")
    assert (cancelled.state, cancelled.cancelled_by) == (SchedulerState.CANCELLED, "user root")
    assert bench.see(Handle("999999", "portal-nobody-1")) == NOT_FOUND
    asked = bench.runner.asked("squeue")
    assert [("--json" in call, "--me" in call, "--states=all" in call) for call in asked[:2]] == [
        (False, True, True), (True, True, True),
    ]  # fmt: skip
    assert not any(word.startswith("--Format") or word == "--noheader" for word in asked[1])
    in_json = bench.runner.asked("sacct")[1]
    assert {"--duplicates", "--allocations", "--starttime=1970-01-01T00:00:00", "--json"} < set(in_json)
    assert not any(word.startswith(("--format", "--delimiter", "--parsable")) for word in in_json)
    said_so = [line for line in capsys.readouterr().out.splitlines() if "asking for JSON" in line]
    assert len(said_so) == 2  # once for squeue and once for sacct, whatever the number of polls


def test_what_left_the_queue_is_read_from_accountings_json(bench: Bench) -> None:
    other = OtherVersion(bench)
    bench.runner.queue()
    assert other.see("exit-code-7").exit_code == 7
    assert other.see("signal-11").signal == 11
    assert other.see("cancelled-by-owner").cancelled_by == "user portal-jobs"


def test_names_are_found_in_json_too(bench: Bench) -> None:
    other = OtherVersion(bench)
    handle = other.handles["running"]
    assert bench.scheduler.find([handle.name, "portal-nobody-1"]) == {
        handle.name: Found((handle,)),
        "portal-nobody-1": Absent(),
    }
    assert bench.runner.requests == 3


@pytest.mark.parametrize(
    "in_json",
    [
        said("garbage\n"),
        said(),
        failed("timed_out"),
        said(recorded("squeue-json-controller-down")[1]),
        said("", "Unable to contact slurm controller", 1),
    ],
)
def test_without_json_either_nothing_is_known(bench: Bench, in_json: Answer) -> None:
    other = OtherVersion(bench)
    bench.runner.commands["squeue"] = lambda call: in_json if "--json" in call else other.squeue(call)
    with pytest.raises(SchedulerError):
        other.see("running")
    assert isinstance(bench.scheduler.find(["portal-nobody-1"])["portal-nobody-1"], Unknown)


def test_without_accountings_json_either_what_left_the_queue_is_unknown(bench: Bench) -> None:
    other = OtherVersion(bench)
    bench.runner.queue()
    bench.runner.commands["sacct"] = lambda _: said("garbage\n")
    assert other.see("exit-code-7").state is SchedulerState.UNKNOWN


@pytest.mark.parametrize("name", ["squeue-controller-down", "squeue-munge-down"])
def test_a_command_that_failed_is_not_asked_again(bench: Bench, name: str) -> None:
    bench.runner.commands["squeue"] = as_recorded(name)
    with pytest.raises(SchedulerError):
        bench.scheduler.observe([A])
    assert len(bench.runner.asked("squeue")) == 1


@pytest.mark.parametrize("version", VERSIONS)
def test_the_recorded_jobs_from_submission_to_accounting(bench: Bench, version: str) -> None:
    """All that were recorded are found again in accounting after they left the queue."""
    bench.runner.commands["squeue"] = lambda call: said(queue_answer("squeue", separator_of(call), version))
    bench.runner.commands["sacct"] = lambda call: said(accounting_answer("sacct", separator_of(call), version))
    rows = [line.split("|") for line in recorded("sacct", version)[1].splitlines()]
    handles = {Handle(row[0], row[1]) for row in rows}
    seen = bench.scheduler.observe(handles)
    assert set(seen) == handles
    assert SchedulerState.NOT_FOUND not in {found.state for found in seen.values()}
    bench.runner.queue()
    left = bench.scheduler.observe(handles)
    for handle in handles:
        if seen[handle].state.is_final:
            assert left[handle].state is seen[handle].state, handle.name


GOOD = {"exit_code": 0, "stdout": "", "stderr": "", "failure": None}
WHOLE = {"version": 1, "id": "x", "answers": [GOOD]}


def test_an_answer_of_the_helper() -> None:
    assert parse_answer(json.dumps(WHOLE).encode(), "x", 1) == [Result(0, "", "", None)]


CHANGES: tuple[dict[str, object], ...] = (
    {"version": 2},
    {"id": "y"},
    {"answers": []},
    {"answers": [GOOD, GOOD]},
    {"answers": ["x"]},
    {"answers": [{**GOOD, "stdout": None}]},
    {"answers": [{**GOOD, "exit_code": None}]},
    {"answers": [{**GOOD, "exit_code": "0"}]},
    {"answers": [{**GOOD, "failure": "timed_out"}]},
    {"answers": [{**GOOD, "failure": 1}]},
    {"id": "y", "error": "not to this request"},
)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"Welcome to the cluster!\n" + json.dumps(WHOLE).encode(),
        json.dumps(WHOLE).encode()[:-1],
        json.dumps(WHOLE).encode() * 2,
        b"[" * 100_000,
        json.dumps([WHOLE]).encode(),
        *(json.dumps({**WHOLE, **change}).encode() for change in CHANGES),
    ],
)
def test_what_is_not_an_answer_to_this_request(data: bytes) -> None:
    with pytest.raises(SchedulerError) as caught:
        parse_answer(data, "x", 1)
    assert not isinstance(caught.value, NotReachedError)
    assert "\n" not in caught.value.log_detail


def test_a_request_that_the_helper_refuses_was_certainly_not_carried_out() -> None:
    with pytest.raises(NotReachedError, match="another version"):
        parse_answer(b'{"version": 1, "id": "", "error": "another version"}', "x", 1)
