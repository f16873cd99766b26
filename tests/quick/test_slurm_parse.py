"""What squeue, sacct and the others print, read; and what is not quite it, refused."""

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.errors import SchedulerError
from portal.schedulers.base import Handle, Observation, SchedulerState
from portal.schedulers.slurm_parse import (
    Row,
    accounting_rows,
    has_no_accounting,
    is_gone,
    is_up,
    latest,
    queue_rows,
    submitted_id,
    version_of,
)
from tests.slurm_recordings import (
    RECORDED_SEPARATOR,
    SEPARATOR,
    VERSIONS,
    accounting_answer,
    queue_answer,
    record,
    recorded,
)

PREFIX = "portal-word-"
each_version = pytest.mark.parametrize("version", VERSIONS)


def by_word(rows: list[Row]) -> dict[str, Observation]:
    """The last observation of each of the recorded jobs, by the word in its name."""
    return {row.name.removeprefix(PREFIX).removesuffix("-1"): row.observation for row in rows if PREFIX in row.name}


def handle_of(word: str, rows: list[Row]) -> Handle:
    [scheduler_id] = {row.scheduler_id for row in rows if row.name == f"{PREFIX}{word}-1"}
    return Handle(scheduler_id, f"{PREFIX}{word}-1")


QUEUE_STATES = {
    "dependency-killed": SchedulerState.CANCELLED,
    "cancelled-while-held": SchedulerState.CANCELLED,
    "completed": SchedulerState.COMPLETED,
    "completing": SchedulerState.COMPLETING,
    "deadline": SchedulerState.TIME_LIMIT,
    "exit-code-7": SchedulerState.FAILED,
    "signal-11": SchedulerState.FAILED,
    "launch-failed": SchedulerState.FAILED,
    "node-failed": SchedulerState.NODE_FAILURE,
    "dependency-never-satisfied": SchedulerState.PENDING,
    "limited-2": SchedulerState.PENDING,
    "waits-for-resources": SchedulerState.PENDING,
    "held-by-admin": SchedulerState.HELD,
    "held-by-user": SchedulerState.HELD,
    "preempted": SchedulerState.PREEMPTED,
    "running": SchedulerState.RUNNING,
    "suspended": SchedulerState.SUSPENDED,
}


@each_version
def test_the_recorded_queue_in_every_state(version: str) -> None:
    seen = by_word(queue_rows(queue_answer("squeue", version=version), SEPARATOR))
    assert {word: seen[word].state for word in QUEUE_STATES} == QUEUE_STATES
    assert re.fullmatch("node[1-3]", seen["running"].node or "")
    assert seen["running"].started_at is not None
    assert seen["running"].ended_at is None
    later = by_word(queue_rows(queue_answer("squeue-later", version=version), SEPARATOR))
    assert later["time-limit"].state is SchedulerState.TIME_LIMIT
    dead = by_word(queue_rows(queue_answer("squeue-node-failed", version=version), SEPARATOR))["node-failed"]
    assert (dead.state, dead.raw_state, dead.exit_code, dead.reason) == (
        SchedulerState.NODE_FAILURE, "NODE_FAIL", None, None,
    )  # fmt: skip
    memory = by_word(queue_rows(queue_answer("squeue-out-of-memory", version=version), SEPARATOR))["out-of-memory"]
    assert memory.state is SchedulerState.OUT_OF_MEMORY


@each_version
def test_the_recorded_queue_tells_exit_codes_and_signals(version: str) -> None:
    seen = by_word(queue_rows(recorded("portal-queue", version)[1], RECORDED_SEPARATOR))
    ended = ACCOUNTED.keys() - {"time-limit"}
    assert {word: (seen[word].raw_state, seen[word].exit_code, seen[word].signal) for word in ended} == {
        word: ACCOUNTED[word] for word in ended
    }
    assert (seen["launch-failed"].reason or "").startswith("it could not be started on its node (")
    assert seen["signal-11"].reason is None


@each_version
def test_a_job_that_waits_says_why_and_when_it_is_to_start(version: str) -> None:
    seen = by_word(queue_rows(queue_answer("squeue", version=version), SEPARATOR))
    waits = seen["waits-for-resources"]
    assert waits.reason == "it waits for free nodes (Resources)"
    assert waits.expected_start_at is not None
    assert waits.started_at is None
    assert waits.node is None
    assert seen["dependency-never-satisfied"].never_runs
    assert not seen["waits-for-job"].never_runs


ACCOUNTED = {
    "completed": ("COMPLETED", 0, None),
    "exit-code-7": ("FAILED", 7, None),
    "signal-11": ("FAILED", None, 11),
    "signal-9-from-outside": ("FAILED", None, 9),
    "over-memory": ("FAILED", None, 9),
    "launch-failed": ("FAILED", None, None),
    "interpreter-missing": ("FAILED", 2, None),
    "time-limit": ("TIMEOUT", None, None),
    "deadline": ("DEADLINE", None, None),
    "node-failed": ("NODE_FAIL", None, None),
    "preempted": ("PREEMPTED", None, None),
}


@each_version
def test_recorded_accounting_with_exit_codes_and_signals(version: str) -> None:
    seen = by_word(accounting_rows(accounting_answer("sacct", version=version), SEPARATOR))
    found = {word: (seen[word].raw_state, seen[word].exit_code, seen[word].signal) for word in ACCOUNTED}
    assert found == ACCOUNTED
    by_root = seen["cancelled-by-root"]
    assert (by_root.state, by_root.raw_state, by_root.cancelled_by) == (SchedulerState.CANCELLED, "CANCELLED", "uid 0")
    assert by_root.started_at is not None
    assert by_root.ended_at is not None
    assert by_root.node is not None
    assert re.fullmatch("uid [1-9][0-9]*", seen["cancelled-by-owner"].cancelled_by or "")


@each_version
def test_out_of_memory_in_accounting_is_no_signal_125(version: str) -> None:
    seen = by_word(accounting_rows(accounting_answer("sacct-out-of-memory", version=version), SEPARATOR))[
        "out-of-memory"
    ]
    assert (seen.state, seen.exit_code, seen.signal) == (SchedulerState.OUT_OF_MEMORY, None, None)


def test_of_a_requeued_job_the_last_run_counts_whatever_the_order() -> None:
    lines = accounting_answer("sacct").splitlines(keepends=True)
    handle = handle_of("node-failed-requeued", accounting_rows("".join(lines), SEPARATOR))
    for text in ("".join(lines), "".join(reversed(lines))):
        row = latest(accounting_rows(text, SEPARATOR), handle)
        assert row is not None
        assert row.observation.state is SchedulerState.COMPLETED


def queue_record(exit_code: str, state: str = "FAILED", reason: str = "None") -> str:
    return record(SEPARATOR, "1", "a", state, reason, exit_code, "node1", "2026-11-24T08:00:00", "2026-11-24T08:00:01")


@pytest.mark.parametrize(
    ("exit_code", "state", "reason", "code", "signal"),
    [
        ("1792", "FAILED", "NonZeroExitCode", 7, None),
        ("9", "FAILED", "JobLaunchFailure", None, 9),
        ("4021", "FAILED", "JobLaunchFailure", None, None),  # 15:53, no such working directory
        ("0", "COMPLETED", "None", 0, None),
        ("15", "CANCELLED", "None", None, None),
        ("125", "OUT_OF_MEMORY", "OutOfMemory", None, None),
        ("1", "FAILED", "BadConstraints", None, None),
        ("", "FAILED", "None", None, None),
        # 24.11's form.
        ("7:0", "FAILED", "NonZeroExitCode", 7, None),
        ("0:9", "FAILED", "RaisedSignal:9(Killed)", None, 9),
        ("0:53", "FAILED", "RaisedSignal:53(Real-time signal 19)", None, None),
        ("0:0", "COMPLETED", "None", 0, None),
        ("0:125", "OUT_OF_MEMORY", "OutOfMemory", None, None),
    ],
)
def test_the_queues_exit_code_is_a_wait_status_or_code_and_signal(
    exit_code: str, state: str, reason: str, code: int | None, signal: int | None
) -> None:
    [row] = queue_rows(queue_record(exit_code, state, reason), SEPARATOR)
    assert (row.observation.exit_code, row.observation.signal) == (code, signal)


def test_a_launch_failure_is_told_from_a_death_by_signal() -> None:
    [launch] = queue_rows(queue_record("4021", "FAILED", "JobLaunchFailure"), SEPARATOR)
    [died] = queue_rows(queue_record("9", "FAILED", "JobLaunchFailure"), SEPARATOR)
    assert launch.observation.reason == "it could not be started on its node (JobLaunchFailure)"
    assert died.observation.reason is None


def test_no_jobs_is_an_answer() -> None:
    assert queue_rows("", SEPARATOR) == []
    assert accounting_rows("", SEPARATOR) == []


def test_a_name_made_to_look_like_other_jobs_is_a_name() -> None:
    evil = "x|COMPLETED|\n2|portal-word-running-1|COMPLETED|None|0|node1|N/A|N/A|"
    answer = record(SEPARATOR, "1", evil, "RUNNING", "None", "0", "node1", "N/A", "N/A") + queue_record("0", "RUNNING")
    assert [(row.scheduler_id, row.name) for row in queue_rows(answer, SEPARATOR)] == [("1", evil), ("1", "a")]


@given(st.integers(min_value=1))
def test_a_cut_answer_is_none(length: int) -> None:
    whole = queue_answer("squeue")
    cut = whole[: length % len(whole)]
    if cut and not cut.endswith(f"{SEPARATOR}\n"):
        with pytest.raises(SchedulerError):
            queue_rows(cut, SEPARATOR)


@pytest.mark.parametrize(
    "text",
    [
        "Last login: yesterday\n",
        "1|a|RUNNING\n",
        record(SEPARATOR, "1", "a", "RUNNING"),
        record(SEPARATOR, *"123456789012"),
        "\n",
        "\x00",
        queue_record("0") + "slurm_load_jobs error: Unable to contact slurm controller\n",
    ],
)
def test_garbage_is_no_answer(text: str) -> None:
    for read in (queue_rows, accounting_rows):
        with pytest.raises(SchedulerError) as caught:
            read(text, SEPARATOR)
        assert "\n" not in caught.value.log_detail


@given(st.text(max_size=80))
def test_whatever_is_printed_is_read_or_refused(text: str) -> None:
    for read in (queue_rows, accounting_rows):
        with suppress(SchedulerError):
            read(text, SEPARATOR)


def test_an_id_is_of_a_job_only_with_its_name() -> None:
    rows = queue_rows(queue_answer("squeue"), SEPARATOR)
    running, completed = handle_of("running", rows), handle_of("completed", rows)
    assert latest(rows, running) is not None
    assert latest(rows, Handle(running.scheduler_id, completed.name)) is None
    assert latest(rows, Handle(completed.scheduler_id, running.name)) is None


@pytest.mark.parametrize(
    ("stdout", "answer"),
    [
        (recorded("sbatch-success")[1], (recorded("sbatch-success")[1].strip(), "")),
        ("17\n", ("17", "")),
        ("17;lab\n", ("17", "lab")),
        ("", None),
        ("Submitted batch job 17\n", None),
        ("17\n18\n", None),
        ("-1\n", None),
    ],
)
def test_the_id_that_sbatch_gives(stdout: str, answer: tuple[str, str] | None) -> None:
    assert submitted_id(stdout) == answer


@each_version
def test_the_recorded_controller_is_up_or_down(version: str) -> None:
    assert is_up(recorded("scontrol-ping", version)[1])
    assert not is_up(recorded("scontrol-ping-controller-down", version)[1])


def test_whether_the_controller_is_up() -> None:
    assert is_up("Slurmctld(primary) at a is DOWN\nSlurmctld(backup) at b is UP\n")
    assert not is_up("")


def test_versions_of_slurm_and_of_debians() -> None:
    assert version_of("slurm-wlm 22.05.8\n") == "22.05.8"
    assert version_of("slurm 23.11.4\n") == "23.11.4"
    assert version_of("slurm-wlm 26.05.5\n") == "26.05.5"
    assert version_of("bash: scontrol: not found\n") is None


@each_version
def test_which_failures_of_scancel_mean_that_it_is_gone(version: str) -> None:
    assert is_gone("scancel: error: Kill job error on job id 99999: Invalid job id specified\n")
    assert is_gone("scancel: error: Kill job error on job id 1: Job/step already completing or completed\n")
    for name in ("scancel-controller-down", "scancel-munge-down", "scancel-of-somebody-else"):
        assert not is_gone(recorded(name, version)[2])
    assert not is_gone("")


def test_a_cluster_without_accounting_says_so() -> None:
    assert has_no_accounting("Slurm accounting storage is disabled\n")
    assert not has_no_accounting(recorded("sacct-dbd-down")[2])
