"""What people type for memory, time, moments and nodes: `16G`, `2h`, `1d`, `node7`.

Every function raises ValueError with the end of a sentence that says what would be right.
"""

import re
from datetime import UTC, datetime, timedelta

_MEMORY = re.compile(r"([0-9]{1,12})\s*(|[kmgt](?:i?b)?)", re.IGNORECASE)
_MIB_PER_UNIT = {"": 1.0, "k": 1 / 1024, "m": 1.0, "g": 1024.0, "t": 1024.0 * 1024.0}
_TIME = re.compile(r"([0-9]{1,9})\s*(|m|min|h|d|w)", re.IGNORECASE)
_MINUTES_PER_UNIT = {"": 1, "m": 1, "min": 1, "h": 60, "d": 24 * 60, "w": 7 * 24 * 60}
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_MOST_DAYS_BACK = 36_500


def parse_memory_mib(text: str) -> int:
    """Whole MiB of `16G`, `512M`, `2T` or `512`."""
    match = _MEMORY.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} should be an amount of memory such as 512M, 16G or 2T (a bare number is MiB)")
    mib = int(match[1]) * _MIB_PER_UNIT[match[2][:1].lower()]
    if mib < 1 or mib != int(mib):
        raise ValueError(f"{text!r} should be a whole number of MiB, such as 512M or 16G")
    return int(mib)


def parse_minutes(text: str) -> int:
    """Minutes of `90`, `90m`, `2h` or `1d`."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} should be a time such as 90m, 2h or 1d (a bare number is minutes)")
    minutes = int(match[1]) * _MINUTES_PER_UNIT[match[2].lower()]
    if minutes < 1:
        raise ValueError(f"{text!r} should be at least one minute, such as 90m or 2h")
    return minutes


def parse_moment(text: str, now: datetime) -> datetime:
    """The moment of `2026-11-24`, `2026-11-24T06:00` (UTC), or so long before now as `30m`, `6h`, `1d`, `2w` says."""
    stripped = text.strip()
    if re.fullmatch(r"[0-9]+\s*(m|min|h|d|w)", stripped, re.IGNORECASE) and _TIME.fullmatch(stripped):
        minutes = parse_minutes(stripped)
        if minutes <= _MOST_DAYS_BACK * 24 * 60:
            return now - timedelta(minutes=minutes)
    try:
        moment = datetime.fromisoformat(stripped)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} should be a time ago such as 30m, 6h, 1d or 2w, or a day such as 2026-11-24 (UTC)"
        ) from None


def parse_node(text: str) -> str:
    """The name of one node."""
    stripped = text.strip()
    if not _NODE.fullmatch(stripped):
        raise ValueError(f"{text!r} should be the name of one node, such as node7")
    return stripped
