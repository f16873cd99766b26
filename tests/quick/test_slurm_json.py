"""`squeue --json` and `sacct --json`: as recorded they say what the text says; what is not quite it is refused."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.errors import SchedulerError
from portal.schedulers import slurm_parse
from portal.schedulers.base import SchedulerState
from portal.schedulers.slurm_json import accounting_rows, queue_rows
from portal.schedulers.slurm_parse import NotUnderstoodError, Row
from tests.slurm_recordings import RECORDED_SEPARATOR, recorded, recordings

Json = dict[str, Any]
Change = Callable[[Json], object]

AT = 1795507200
"""2026-11-24, 08:00 UTC."""


def from_text(name: str, version: str) -> list[Row]:
    read = slurm_parse.queue_rows if "queue" in name else slurm_parse.accounting_rows
    return read(recorded(name, version)[1], RECORDED_SEPARATOR)


def by_id(rows: list[Row]) -> dict[tuple[str, object], Row]:
    """Without the account that cancelled, of which text has the number and JSON the name."""
    return {
        (row.scheduler_id, row.submitted_at): replace(row, observation=replace(row.observation, cancelled_by=None))
        for row in rows
    }


@pytest.mark.parametrize(("version", "name"), recordings("pair-queue*-json*"))
def test_the_recorded_queue_says_in_json_what_it_says_as_text(version: str, name: str) -> None:
    text = by_id(from_text(name.partition("-json")[0], version))
    in_json = by_id(queue_rows(recorded(name, version)[1]))
    assert len(in_json) > 1
    assert in_json == {which: text[which] for which in in_json}
    if name.endswith("-json"):
        assert in_json.keys() == text.keys()


@pytest.mark.parametrize(("version", "name"), recordings("pair-accounting*-json*"))
def test_recorded_accounting_says_in_json_what_it_says_as_text(version: str, name: str) -> None:
    # A pending array's name for its elements (`19_[0-3%1]`) is nothing that anybody asks for.
    text = {which: row for which, row in by_id(from_text(name.partition("-json")[0], version)).items()
            if "[" not in which[0]}  # fmt: skip
    in_json = by_id([row for row in accounting_rows(recorded(name, version)[1]) if "array-waiting" not in row.name])
    assert len(in_json) > 1
    if version == "22.05.8":
        # It says exit code 0 of a job that exited with 7: no exit code is claimed, and no signal.
        text = {which: without_ending(row) for which, row in text.items()}
    assert in_json == {which: text[which] for which in in_json}
    if name.endswith("-json"):
        assert in_json.keys() == text.keys()


def without_ending(row: Row) -> Row:
    if row.observation.state is not SchedulerState.FAILED:
        return row
    return replace(row, observation=replace(row.observation, exit_code=None, signal=None))


@pytest.mark.parametrize(("version", "name"), recordings("pair-accounting-json"))
def test_who_cancelled_it_is_a_name(version: str, name: str) -> None:
    by = {row.name: row.observation.cancelled_by for row in accounting_rows(recorded(name, version)[1])}
    assert by["portal-word-cancelled-by-owner-1"] == "user portal-jobs"
    assert by["portal-word-cancelled-by-root-1"] == "user root"
    assert by["portal-word-completed-1"] is None


@pytest.mark.parametrize(("version", "name"), recordings("*json-controller-down") + recordings("*json-dbd-down"))
def test_a_daemon_that_is_down_is_no_empty_answer(version: str, name: str) -> None:
    """22.05's squeue exits with 0; the others do not, and print nothing."""
    _, stdout, _ = recorded(name, version)
    with pytest.raises(SchedulerError) as caught:
        (queue_rows if name.startswith("squeue") else accounting_rows)(stdout)
    assert "--json" in caught.value.log_detail


@pytest.mark.parametrize(("version", "name"), recordings("sacct-json-by-unknown-name"))
def test_no_jobs_is_an_answer(version: str, name: str) -> None:
    _, stdout, _ = recorded(name, version)
    if version != "22.05.8":
        assert accounting_rows(stdout) == []
        return
    # It calls that an error; which errors are harmless is not for the portal to guess.
    with pytest.raises(SchedulerError, match="Nothing found"):
        accounting_rows(stdout)


def number(value: int | None) -> Json:
    return {"set": value is not None, "infinite": False, "number": value or 0}


def exit_code(code: int | None, signal: int | None = None) -> Json:
    return {"status": ["ERROR"], "return_code": number(code), "signal": {"id": number(signal), "name": ""}}


def queue_job(**fields: object) -> Json:
    """As 24.11 has it, and only what is read."""
    job = {
        "job_id": 17, "name": "a", "job_state": ["FAILED"], "state_reason": "None", "exit_code": exit_code(7),
        "nodes": "node1", "start_time": number(AT), "end_time": number(AT + 9), "user_name": "portal-jobs",
    }  # fmt: skip
    return job | fields


def accounting_job(**fields: object) -> Json:
    job = {
        "job_id": 17, "name": "a", "state": {"current": ["FAILED"], "reason": "None"}, "exit_code": exit_code(7),
        "nodes": "node1", "time": {"start": AT, "end": AT + 9, "submission": AT - 1}, "user": "portal-jobs",
        "array": {"job_id": 0, "task_id": number(None)}, "kill_request_user": "",
    }  # fmt: skip
    return job | fields


def answer(*jobs: Json, **fields: object) -> str:
    whole = {"jobs": list(jobs), "meta": {"client": {"user": "portal-jobs"}}, "errors": [], "warnings": []}
    return json.dumps(whole | fields)


def test_times_and_numbers() -> None:
    [row] = queue_rows(answer(queue_job()))
    seen = row.observation
    assert (row.scheduler_id, row.name, seen.node, seen.exit_code) == ("17", "a", "node1", 7)
    assert seen.started_at == datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
    assert seen.ended_at == datetime(2026, 11, 24, 8, 0, 9, tzinfo=UTC)
    for none in (0, None, number(0), number(None), {"set": True, "infinite": True, "number": 5}):
        [row] = queue_rows(answer(queue_job(start_time=none)))
        assert row.observation.started_at is None


@pytest.mark.parametrize(
    ("ending", "code", "signal"),
    [
        (1792, 7, None),
        (9, None, 9),
        (exit_code(7), 7, None),
        (exit_code(None, 9), None, 9),
        (exit_code(None, 53), None, None),
        ({"status": "SUCCESS", "return_code": 7}, None, None),
        ({"status": "SIGNALED", "return_code": None, "signal": {"signal_id": 11, "name": ""}}, None, None),
    ],
)
def test_how_it_ended(ending: object, code: int | None, signal: int | None) -> None:
    [row] = queue_rows(answer(queue_job(exit_code=ending)))
    assert (row.observation.exit_code, row.observation.signal) == (code, signal)


def test_an_exit_code_that_is_a_plain_number_is_not_believed() -> None:
    [row] = accounting_rows(answer(accounting_job(exit_code={"status": "SUCCESS", "return_code": 7})))
    assert (row.observation.state, row.observation.exit_code) == (SchedulerState.FAILED, None)


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("RUNNING", SchedulerState.RUNNING),
        (["RUNNING", "COMPLETING"], SchedulerState.COMPLETING),
        (["COMPLETED", "DREAMING"], SchedulerState.UNKNOWN),
        ("DREAMING", SchedulerState.UNKNOWN),
        ([], SchedulerState.UNKNOWN),
    ],
)
def test_a_state_is_a_word_or_a_list(word: object, state: SchedulerState) -> None:
    [row] = queue_rows(answer(queue_job(job_state=word)))
    assert row.observation.state is state


def test_a_launch_that_failed_says_so() -> None:
    [row] = queue_rows(answer(queue_job(state_reason="RaisedSignal", exit_code=exit_code(None, 53))))
    assert row.observation.reason == "it could not be started on its node (RaisedSignal:53)"


def test_an_element_of_an_array_has_the_id_that_text_has() -> None:
    [row] = accounting_rows(answer(accounting_job(array={"job_id": 10, "task_id": number(0)})))
    assert row.scheduler_id == "10_0"


def test_the_latest_submission_is_the_last() -> None:
    first, last = (accounting_job(time={"start": AT, "end": AT, "submission": at}) for at in (AT, AT + 5))
    assert accounting_rows(answer(last, first)) == accounting_rows(answer(first, last))


def test_only_the_jobs_of_the_account_that_asked() -> None:
    stranger = queue_job(user_name="mallory", job_id=18)
    assert [row.scheduler_id for row in queue_rows(answer(stranger, queue_job()))] == ["17"]
    with pytest.raises(NotUnderstoodError, match="several accounts"):
        queue_rows(answer(stranger, queue_job(), meta={}))
    assert len(queue_rows(answer(queue_job(), meta={}))) == 1


def test_an_error_is_no_answer_whatever_it_lists() -> None:
    with pytest.raises(SchedulerError) as caught:
        queue_rows(answer(queue_job(), errors=[{"error": "Unspecified error"}]))
    assert "Unspecified error" in caught.value.log_detail
    assert "Unspecified" not in caught.value.visitor_message


WRONG: dict[str, Change] = {
    "no id": lambda job: job.pop("job_id"),
    "id 0": lambda job: job.update(job_id=0),
    "an id that is text": lambda job: job.update(job_id="17"),
    "an id that is true": lambda job: job.update(job_id=True),
    "an id that is not whole": lambda job: job.update(job_id=17.5),
    "no name": lambda job: job.pop("name"),
    "a name that is none": lambda job: job.update(name=None),
    "no nodes": lambda job: job.pop("nodes"),
    "no exit code": lambda job: job.pop("exit_code"),
    "an exit code that is text": lambda job: job.update(exit_code="7:0"),
    "an exit code below zero": lambda job: job.update(exit_code=exit_code(-127)),
    "a signal that is missing": lambda job: job.update(exit_code={"return_code": number(0)}),
    "a number without set": lambda job: job.update(exit_code={**exit_code(0), "return_code": {"number": 7}}),
    "a number whose set is a number": lambda job: job.update(
        exit_code={**exit_code(0), "return_code": {"set": 1, "infinite": False, "number": 7}}
    ),
}
WRONG_IN_QUEUE: dict[str, Change] = {
    "no state": lambda job: job.pop("job_state"),
    "a state that is a number": lambda job: job.update(job_state=3),
    "a state of numbers": lambda job: job.update(job_state=[3]),
    "no owner": lambda job: job.pop("user_name"),
    "an owner without a name": lambda job: job.update(user_name=""),
    "a time after all times": lambda job: job.update(start_time=10**15),
    "a time below zero": lambda job: job.update(end_time=-1),
}
WRONG_IN_ACCOUNTING: dict[str, Change] = {
    "no state": lambda job: job.update(state={}),
    "a state that is a word only": lambda job: job.update(state="FAILED"),
    "no owner": lambda job: job.pop("user"),
    "no times": lambda job: job.pop("time"),
    "no array": lambda job: job.pop("array"),
    "somebody who is a number": lambda job: job.update(state={"current": ["CANCELLED"]}, kill_request_user=5),
}


@pytest.mark.parametrize("change", WRONG | WRONG_IN_QUEUE)
def test_a_queue_with_one_wrong_job_is_no_answer(change: str) -> None:
    job = queue_job()
    (WRONG | WRONG_IN_QUEUE)[change](job)
    with pytest.raises(NotUnderstoodError):
        queue_rows(answer(queue_job(job_id=5), job))


@pytest.mark.parametrize("change", WRONG | WRONG_IN_ACCOUNTING)
def test_accounting_with_one_wrong_job_neither(change: str) -> None:
    job = accounting_job()
    (WRONG | WRONG_IN_ACCOUNTING)[change](job)
    with pytest.raises(NotUnderstoodError):
        accounting_rows(answer(accounting_job(job_id=5), job))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Last login: yesterday\n",
        "Last login: yesterday\n" + answer(queue_job()),
        answer(queue_job())[:-1],
        answer(queue_job()) * 2,
        "[]",
        "null",
        "[" * 100_000,
        "9" * 10_000,
        "{}",
        '{"jobs": []}',
        '{"errors": []}',
        answer(jobs={}),
        answer(errors=None),
        answer(meta=None),
        answer(meta={"client": {}}),
        answer(jobs=[None]),
        answer(jobs=["17"]),
    ],
)
def test_garbage_is_no_answer(text: str) -> None:
    for read in (queue_rows, accounting_rows):
        with pytest.raises(NotUnderstoodError) as caught:
            read(text)
        assert caught.value.log_detail
        assert "\n" not in caught.value.log_detail
        assert len(caught.value.log_detail) < 500


def test_a_name_made_to_look_like_another_job_is_a_name() -> None:
    evil = '"}, {"job_id": 2, "name": "b'
    assert [row.name for row in queue_rows(answer(queue_job(name=evil)))] == [evil]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["set", "number", "id"]), inner),
    max_leaves=5,
)


@given(st.sampled_from(sorted(queue_job())), JSON)
def test_whatever_stands_in_a_field_is_read_or_refused(field: str, value: object) -> None:
    with suppress(SchedulerError):
        queue_rows(answer(queue_job(**{field: value})))


@given(st.sampled_from(sorted(accounting_job())), JSON)
def test_whatever_accounting_has_in_a_field_neither(field: str, value: object) -> None:
    with suppress(SchedulerError):
        accounting_rows(answer(accounting_job(**{field: value})))
