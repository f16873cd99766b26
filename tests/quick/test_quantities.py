"""What people type for memory, time, moments and nodes."""

from datetime import UTC, datetime, timedelta

import pytest

from portal.jobs.quantities import parse_memory_mib, parse_minutes, parse_moment, parse_node

NOW = datetime(2026, 11, 24, 6, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "mib"),
    [("16G", 16384), ("512M", 512), ("512", 512), (" 2 tib ", 2 * 1024**2), ("1gb", 1024), ("2048K", 2)],
)
def test_memory(text: str, mib: int) -> None:
    assert parse_memory_mib(text) == mib


@pytest.mark.parametrize("text", ["", "16Q", "G", "-1G", "0", "1K", "1.5G", "1e3", "١G", "9" * 13])
def test_what_is_no_memory_is_explained(text: str) -> None:
    with pytest.raises(ValueError, match="such as 512M"):
        parse_memory_mib(text)


@pytest.mark.parametrize(("text", "minutes"), [("90", 90), ("90m", 90), ("2H", 120), ("1d", 1440), ("1 w", 10080)])
def test_times(text: str, minutes: int) -> None:
    assert parse_minutes(text) == minutes


@pytest.mark.parametrize("text", ["", "0", "soon", "-5m", "1:30", "1y"])
def test_what_is_no_time_is_explained(text: str) -> None:
    with pytest.raises(ValueError, match="such as 90m"):
        parse_minutes(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("30m", NOW - timedelta(minutes=30)),
        ("1d", NOW - timedelta(days=1)),
        ("2w", NOW - timedelta(weeks=2)),
        ("2026-11-23", datetime(2026, 11, 23, tzinfo=UTC)),
        ("2026-11-23T05:30", datetime(2026, 11, 23, 5, 30, tzinfo=UTC)),
        ("2026-11-23T05:30:00Z", datetime(2026, 11, 23, 5, 30, tzinfo=UTC)),
        ("2026-11-23T05:30+02:00", datetime(2026, 11, 23, 3, 30, tzinfo=UTC)),
    ],
)
def test_moments(text: str, moment: datetime) -> None:
    assert parse_moment(text, NOW) == moment


@pytest.mark.parametrize(
    "text", ["", "yesterday", "1", "999999999w", "2026-13-01", "0001-01-01T00:00+23:00", "9" * 1000 + "d"]
)
def test_what_is_no_moment_is_explained(text: str) -> None:
    with pytest.raises(ValueError, match="a time ago such as 30m"):
        parse_moment(text, NOW)


def test_nodes() -> None:
    assert parse_node(" node-7.cluster ") == "node-7.cluster"
    for text in ("", "a b", "node[1-3]", "-x", "a;b", "n" * 300):
        with pytest.raises(ValueError, match="the name of one node"):
            parse_node(text)
