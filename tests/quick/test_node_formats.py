"""`status.json` and `claim`: what a wrapper writes is read back exactly, and nothing else is believed."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.clock import parse_utc_text
from portal.node import claim, status_file
from portal.node.claim import Claim
from portal.node.status_file import StatusFile
from portal.node.strict_json import printable, read_capped
from portal.node.times import is_utc_text, utc_now_text
from tests import status_files

STARTED = status_files.STARTED._replace(started_at="2026-11-24T06:00:00.000Z")
SUCCEEDED = STARTED._replace(
    phase="ended",
    ended_at="2026-11-24T06:00:05.250Z",
    exit_code=0,
    wall_seconds=5.25,
    peak_memory_mib=12.5,
    succeeded=True,
)
FAILED = SUCCEEDED._replace(exit_code=2, succeeded=False, failure="The program ended with exit code 2.")
CLAIM = Claim("wrapper", "17", "portal-abcd-tcfnctbq-1", "node1", 4711, "2026-11-24T06:00:00.000Z")

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=255).filter(str.isprintable)
moments = st.datetimes().map(lambda moment: moment.isoformat(timespec="milliseconds") + "Z")
amounts = st.floats(0, 1e10, allow_nan=False)


def as_json(record: StatusFile | Claim, **changes: object) -> bytes:
    return json.dumps({**record._asdict(), **changes}).encode()


@st.composite
def statuses(draw: st.DrawFn) -> StatusFile:
    status = STARTED._replace(
        job_id=draw(texts),
        attempt=draw(st.integers(1, 1000)),
        scheduler_id=draw(texts),
        restart_count=draw(st.integers(0, 9)),
        host=draw(texts),
        pid=draw(st.integers(1, 2**31 - 1)),
        started_at=draw(moments),
    )
    if draw(st.booleans()):
        return status
    succeeded = draw(st.booleans())
    signal = None if succeeded else draw(st.none() | st.integers(1, 64))
    return status._replace(
        phase="ended",
        ended_at=draw(moments),
        exit_code=draw(st.integers(0, 255)) if signal is None else None,
        signal=signal,
        wall_seconds=draw(amounts),
        peak_memory_mib=draw(amounts),
        got_sigterm=draw(st.booleans()),
        succeeded=succeeded,
        failure=None if succeeded else draw(texts),
    )


@given(statuses())
def test_a_status_file_is_read_back_as_it_was_written(status: StatusFile) -> None:
    assert status_file.parse(status_file.encode(status)) == status


@given(
    st.builds(
        Claim,
        by=st.just("wrapper"),
        scheduler_id=texts,
        name=texts,
        host=texts,
        pid=st.integers(1, 2**31 - 1),
        at=moments,
    )
)
def test_a_claim_is_read_back_as_it_was_written(written: Claim) -> None:
    assert claim.parse(claim.encode(written)) == written


def test_a_dispatchers_claim_needs_no_scheduler_id() -> None:
    written = CLAIM._replace(by="dispatcher", scheduler_id=None)
    assert claim.parse(claim.encode(written)) == written


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_with_one_kind_of_error(data: bytes) -> None:
    for parse in (status_file.parse, claim.parse):
        with pytest.raises(ValueError):
            parse(data)


NOT_AN_OBJECT = {
    "nothing": b"",
    "binary": b"\x80\x04\x95",
    "no object": b"[1]",
    "half of it": as_json(SUCCEEDED)[:-1],
    "more after it": as_json(SUCCEEDED) + b"{}",
    "UTF-16": as_json(SUCCEEDED).decode().encode("utf-16"),
    "deep nesting": b"[" * 60000,
    "too long": as_json(SUCCEEDED) + b" " * status_file.MAX_BYTES,
    "a number with 60000 digits": as_json(SUCCEEDED).replace(b"4711", b"9" * 60000),
    "a key twice": b'{"phase": "ended", ' + as_json(SUCCEEDED)[1:],
    "a key more": as_json(SUCCEEDED, more=1),
}


@pytest.mark.parametrize("data", NOT_AN_OBJECT.values(), ids=NOT_AN_OBJECT)
@pytest.mark.parametrize("parse", [status_file.parse, claim.parse], ids=["status", "claim"])
def test_what_is_not_one_whole_object_is_refused(data: bytes, parse: Callable[[bytes], object]) -> None:
    with pytest.raises(ValueError, match=r"^(status\.json|claim): "):
        parse(data)


@pytest.mark.parametrize("key", SUCCEEDED._fields)
def test_a_status_file_that_lacks_a_key_is_refused(key: str) -> None:
    fields = SUCCEEDED._asdict()
    del fields[key]
    with pytest.raises(ValueError, match=key):
        status_file.parse(json.dumps(fields).encode())


WRONG_STATUS: list[tuple[str, object]] = [
    ("schema", 2),
    ("schema", True),
    ("schema", 1.0),
    ("job_id", ""),
    ("job_id", 7),
    ("job_id", None),
    ("job_id", "a\nb"),
    ("job_id", "a" * 256),
    ("attempt", 0),
    ("attempt", True),
    ("attempt", "1"),
    ("attempt", 1e0),
    ("phase", "running"),
    ("phase", ["ended"]),
    ("phase", None),
    ("scheduler_id", "17\x00"),
    ("scheduler_id", {"id": 17}),
    ("restart_count", -1),
    ("restart_count", 2**70),
    ("host", "node\u202e1"),
    ("host", "\ud800"),
    ("host", "\x1b[2J"),
    ("pid", 0),
    ("started_at", "2026-11-24T06:00:00"),
    ("started_at", "2026-11-24T06:00:00Z\n"),
    ("started_at", "2026-02-30T06:00:00Z"),
    ("started_at", "0000-01-01T00:00:00Z"),
    ("started_at", "2026-11-24T06:00:60Z"),
    ("started_at", "2026-11-24T06:00:00.1234567Z"),
    ("started_at", "٢٠٢٦-11-24T06:00:00Z"),
    ("started_at", 1764000000),
    ("ended_at", None),
    ("ended_at", "yesterday"),
    ("exit_code", -1),
    ("exit_code", 256),
    ("exit_code", False),
    ("exit_code", None),
    ("signal", 9),
    ("signal", 0),
    ("wall_seconds", -0.5),
    ("wall_seconds", math.nan),
    ("wall_seconds", math.inf),
    ("wall_seconds", 10**400),
    ("wall_seconds", True),
    ("wall_seconds", "5"),
    ("wall_seconds", None),
    ("peak_memory_mib", -1),
    ("peak_memory_mib", None),
    ("got_sigterm", 0),
    ("got_sigterm", None),
    ("succeeded", 1),
    ("succeeded", None),
    ("succeeded", False),
    ("failure", "It did not work."),
    ("failure", "a\u2028b"),
    ("failure", ""),
]


@pytest.mark.parametrize(("key", "value"), WRONG_STATUS)
def test_a_wrong_value_in_a_status_file_is_refused_and_not_repeated(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"^status\.json: ") as refused:
        status_file.parse(as_json(SUCCEEDED, **{key: value}))
    assert str(refused.value).isprintable()


def test_numbers_beyond_all_floats_are_refused() -> None:
    with pytest.raises(ValueError, match="wall_seconds"):
        status_file.parse(as_json(SUCCEEDED).replace(b": 5.25", b": 1e999"))


OF_THE_END: list[tuple[str, object]] = [
    ("ended_at", "2026-11-24T06:00:05Z"),
    ("exit_code", 0),
    ("signal", 9),
    ("wall_seconds", 1.0),
    ("peak_memory_mib", 1.0),
    ("succeeded", True),
    ("succeeded", False),
    ("failure", "x"),
    ("got_sigterm", True),
]


@pytest.mark.parametrize(("key", "value"), OF_THE_END)
def test_a_status_file_of_the_start_cannot_tell_of_an_end(key: str, value: object) -> None:
    with pytest.raises(ValueError, match="started"):
        status_file.parse(as_json(STARTED, **{key: value}))


def test_nothing_succeeds_by_a_signal() -> None:
    by_signal = FAILED._replace(exit_code=None, signal=9, failure="The program was ended by signal 9.")
    assert status_file.parse(status_file.encode(by_signal)) == by_signal
    with pytest.raises(ValueError, match="signal"):
        status_file.encode(by_signal._replace(succeeded=True, failure=None))


def test_what_would_not_be_read_back_is_not_written() -> None:
    with pytest.raises(ValueError, match="host"):
        status_file.encode(STARTED._replace(host="node\n1"))
    with pytest.raises(ValueError):
        status_file.encode(SUCCEEDED._replace(wall_seconds=math.nan))


WRONG_CLAIM: list[tuple[str, object]] = [
    ("by", "somebody"),
    ("by", None),
    ("scheduler_id", None),
    ("scheduler_id", 17),
    ("scheduler_id", ""),
    ("name", "portal\n"),
    ("name", "x" * 256),
    ("host", None),
    ("pid", "4711"),
    ("pid", True),
    ("at", "now"),
]


@pytest.mark.parametrize(("key", "value"), WRONG_CLAIM)
def test_a_wrong_value_in_a_claim_is_refused(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"^claim: "):
        claim.parse(as_json(CLAIM, **{key: value}))


def test_a_claim_is_taken_once_and_stays_as_it_was(tmp_path: Path) -> None:
    assert claim.take(tmp_path, CLAIM)
    assert not claim.take(tmp_path, CLAIM._replace(by="dispatcher", scheduler_id=None))
    assert claim.parse((tmp_path / "claim").read_bytes()) == CLAIM
    assert [path.name for path in tmp_path.iterdir()] == ["claim"]


def test_times_are_understood_by_the_portal() -> None:
    text = utc_now_text()
    assert is_utc_text(text)
    assert len(text) == len("2026-11-24T06:00:00.000Z")
    assert parse_utc_text(text).utcoffset() is not None


def test_text_from_outside_is_made_printable() -> None:
    assert printable("node\n\x1b1 \udc80é", 255) == "node??1 ?é"
    assert printable("x" * 300, 255) == "x" * 255


def test_reading_does_not_follow_links_nor_wait_nor_read_on_without_end(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"x" * 100)
    (tmp_path / "link").symlink_to("long")
    assert read_capped(tmp_path / "long", 10) == b"x" * 11
    with pytest.raises(OSError):
        read_capped(tmp_path / "link", 10)
