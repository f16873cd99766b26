"""Points in time as the node's files write them: UTC, with milliseconds, `2026-11-24T06:00:00.000Z`."""

import re
from datetime import datetime, timezone

_UTC = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]{1,6})?Z")


def utc_now_text() -> str:
    """The time now, by this machine's clock."""
    now = datetime.now(timezone.utc)
    return "{}.{:03d}Z".format(now.strftime("%Y-%m-%dT%H:%M:%S"), now.microsecond // 1000)


def is_utc_text(text: str) -> bool:
    """True where `text` is a moment that exists, in UTC, with or without a fraction of a second."""
    match = _UTC.fullmatch(text)
    if match is None:
        return False
    try:
        datetime.strptime(match.group(1) + "+0000", "%Y-%m-%dT%H:%M:%S%z")
    except ValueError:
        return False
    return True
