"""What qstat and qacct print, read; and what is not quite it, refused."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.errors import SchedulerError
from portal.schedulers.base import Handle, SchedulerState
from portal.schedulers.grid_engine_parse import (
    accounting_rows,
    knows_no_such_job,
    latest,
    queue_observation,
    queue_rows,
)
from tests.drmaa.recordings import recorded, recorded_id

QUEUE = {
    "running": (SchedulerState.RUNNING, "r"),
    "suspended": (SchedulerState.SUSPENDED, "s"),
    "held": (SchedulerState.HELD, "hqw"),
    "waits-for-job": (SchedulerState.HELD, "hqw"),
    "waits-for-slots": (SchedulerState.PENDING, "qw"),
    "exit-100": (SchedulerState.HELD, "Eqw"),
    "no-folder": (SchedulerState.HELD, "Eqw"),
    "no-output": (SchedulerState.HELD, "Eqw"),
}
# State, exit code, signal.
ENDS = {
    "exit-0": (SchedulerState.COMPLETED, 0, None),
    "exit-3": (SchedulerState.FAILED, 3, None),
    "exit-137": (SchedulerState.FAILED, 137, None),
    "signal-9": (SchedulerState.FAILED, None, 9),
    "signal-11": (SchedulerState.FAILED, None, 11),
    "deleted": (SchedulerState.FAILED, None, 9),
    "exit-100": (SchedulerState.FAILED, None, None),
    "no-folder": (SchedulerState.FAILED, None, None),
    "no-output": (SchedulerState.FAILED, None, None),
    "time-limit": (SchedulerState.TIME_LIMIT, None, None),
    "memory-limit": (SchedulerState.OUT_OF_MEMORY, None, None),
    "cpu-limit": (SchedulerState.FAILED, None, 9),
    "node-crash": (SchedulerState.NODE_FAILURE, None, None),
}


def handle_of(what: str) -> Handle:
    return Handle(recorded_id(what), f"portal-record-{what}-1")


@pytest.mark.parametrize("what", QUEUE)
def test_the_queue(what: str) -> None:
    row = latest(queue_rows(recorded("qstat").stdout), handle_of(what))
    assert row is not None
    seen = row.observation
    assert (seen.state, seen.raw_state) == QUEUE[what]
    assert seen.never_runs is (seen.raw_state == "Eqw")
    has_started = what in ("running", "suspended")
    assert (seen.node is not None, seen.started_at is not None) == (has_started, has_started)


def test_no_job_in_the_queue() -> None:
    assert queue_rows(recorded("qstat-empty").stdout) == []


def test_a_job_that_is_being_deleted_runs_yet() -> None:
    row = latest(queue_rows(recorded("qstat-deleting").stdout), handle_of("running"))
    assert row is not None
    assert (row.observation.state, row.observation.raw_state) == (SchedulerState.RUNNING, "dr")


@pytest.mark.parametrize("what", ENDS)
def test_accounting(what: str) -> None:
    row = latest(accounting_rows(recorded("qacct").stdout), handle_of(what))
    assert row is not None
    assert row.has_ended
    seen = row.observation
    assert (seen.state, seen.exit_code, seen.signal) == ENDS[what]
    assert seen.node


def test_a_run_after_which_it_runs_again_is_no_end() -> None:
    rows = [row for row in accounting_rows(recorded("qacct").stdout) if row.is_of(handle_of("exit-99"))]
    assert len(rows) > 1
    assert not any(row.has_ended for row in rows)
    assert {row.observation.state for row in rows} == {SchedulerState.UNKNOWN}


def test_one_job_and_its_times() -> None:
    by_id, by_name = (accounting_rows(recorded(name).stdout) for name in ("qacct-one", "qacct-by-name"))
    assert by_id == by_name
    [row] = by_id
    assert (row.scheduler_id, row.name) == (recorded_id("exit-3"), "portal-record-exit-3-1")
    assert row.observation.started_at is not None
    assert row.observation.ended_at is not None
    assert row.observation.started_at <= row.observation.ended_at
    assert row.observation.ended_at.tzinfo is UTC


def test_a_broken_line_hides_no_other() -> None:
    assert accounting_rows(recorded("qacct-broken-line").stdout) == accounting_rows(recorded("qacct-one").stdout)


@pytest.mark.parametrize(
    ("name", "is_answer"),
    [
        ("qacct-unknown-id", True),
        ("qacct-unknown-name", True),
        ("qacct-nothing-yet", True),
        ("qacct-no-file", False),
        ("qstat-qmaster-down", False),
    ],
)
def test_what_says_that_there_is_no_such_job(name: str, is_answer: bool) -> None:
    assert knows_no_such_job(recorded(name).stderr) is is_answer


def changed(**fields: str) -> str:
    """A record with other values."""
    lines = recorded("qacct-one").stdout.splitlines()
    names = [line.split(" ")[0] for line in lines]
    assert set(fields) <= set(names)
    return "".join(
        f"{name} {fields[name]}\n" if name in fields else f"{line}\n" for name, line in zip(names, lines, strict=True)
    )


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"ru_wallclock": "60s", "category": "-l h_rt=60"}, SchedulerState.TIME_LIMIT),
        ({"ru_wallclock": "59s", "category": "-l h_rt=60"}, SchedulerState.FAILED),
        ({"ru_wallclock": "61.002s", "category": "-q all.q -l h_vmem=1G,h_rt=60 -P x"}, SchedulerState.TIME_LIMIT),
        ({"ru_wallclock": "600s", "category": "-l s_rt=60"}, SchedulerState.FAILED),
        ({"maxvmem": "1.001GB", "category": "-l h_rt=60,h_vmem=1G"}, SchedulerState.OUT_OF_MEMORY),
        ({"maxvmem": "1.001GB", "category": "-l h_vmem=512M", "slots": "3"}, SchedulerState.FAILED),
        ({"maxvmem": "1.500GB", "category": "-l h_vmem=512M", "slots": "3"}, SchedulerState.OUT_OF_MEMORY),
        ({"maxvmem": "lots", "category": "-l h_vmem=1G"}, SchedulerState.FAILED),
        ({"category": "NONE"}, SchedulerState.FAILED),
    ],
)
def test_which_limit_it_was(fields: dict[str, str], state: SchedulerState) -> None:
    text = changed(failed="37  : qmaster enforced h_rt, h_cpu, or h_vmem limit", exit_status="137", **fields)
    assert accounting_rows(text)[0].observation.state is state


def test_a_start_that_never_was() -> None:
    [row] = accounting_rows(changed(start_time="-/-", end_time="-/-", failed="1  : assumedly before job"))
    seen = row.observation
    assert (seen.state, seen.started_at, seen.ended_at) == (SchedulerState.FAILED, None, None)
    assert seen.raw_state == "failed 1 (assumedly before job)"


def test_exit_code_0_of_a_job_that_failed_is_no_success() -> None:
    for code in (1, 11, 19, 26, 100):
        [row] = accounting_rows(changed(failed=str(code), exit_status="0"))
        assert row.observation.state is not SchedulerState.COMPLETED


def test_times_are_read_as_utc() -> None:
    [row] = accounting_rows(changed(start_time="Thu Dec 31 23:59:59 2026"))
    assert row.observation.started_at == datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<job_info/>",
        "<other><queue_info/><job_info/></other>",
        "<!DOCTYPE x><job_info><queue_info/><job_info/></job_info>",
        "<job_info><queue_info><job_list/></queue_info><job_info/></job_info>",
    ],
)
def test_what_is_not_qstats_answer(text: str) -> None:
    with pytest.raises(SchedulerError):
        queue_rows(text)


@pytest.mark.parametrize(
    "text",
    ["words\n", changed(failed="x"), changed(exit_status="x"), changed().replace("jobname", "name"), changed()[:-1]],
)
def test_what_is_not_qaccts_answer(text: str) -> None:
    with pytest.raises(SchedulerError):
        accounting_rows(text)


@given(st.integers(min_value=1, max_value=len(recorded("qstat").stdout) - 2))
def test_half_an_answer_of_qstat_is_none(length: int) -> None:
    with pytest.raises(SchedulerError):
        queue_rows(recorded("qstat").stdout[:length])


@given(st.integers(min_value=1, max_value=len(recorded("qacct").stdout)))
def test_half_an_answer_of_qacct_never_changes_what_is_said(length: int) -> None:
    """Either it is refused, or what is there are whole records of the whole answer, in their order."""
    whole = accounting_rows(recorded("qacct").stdout)
    try:
        rows = accounting_rows(recorded("qacct").stdout[:length])
    except SchedulerError:
        return
    assert rows == whole[: len(rows)]


@pytest.mark.parametrize(
    ("letters", "state"),
    [
        ("t", SchedulerState.PENDING),
        ("Rq", SchedulerState.PENDING),
        ("Rr", SchedulerState.RUNNING),
        ("hr", SchedulerState.RUNNING),
        ("hRwq", SchedulerState.HELD),
        ("S", SchedulerState.SUSPENDED),
        ("T", SchedulerState.SUSPENDED),
        ("dr", SchedulerState.RUNNING),
        ("dqw", SchedulerState.PENDING),
        ("EhRqw", SchedulerState.HELD),
        ("z", SchedulerState.UNKNOWN),
    ],
)
def test_the_letters_of_states(letters: str, state: SchedulerState) -> None:
    assert queue_observation(letters).state is state
