"""The time, passed in wherever it matters, so that tests and simulations can turn the hands."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What the portal asks of a clock."""

    def now_utc(self) -> datetime:
        """The wall clock, aware, in UTC. It may jump: use it for what people read."""
        ...

    def monotonic_seconds(self) -> float:
        """Seconds since some fixed moment of this process; never jumps: use it to measure silence."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now_utc(self) -> datetime:
        return datetime.now(UTC)

    def monotonic_seconds(self) -> float:
        return time.monotonic()


def utc_text(moment: datetime) -> str:
    """`2026-11-24T06:00:00Z`: UTC in whole seconds, as in the REST object, `config.ini` and every JSON file."""
    return moment.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"


def parse_utc_text(text: str) -> datetime:
    """The moment that `utc_text` (or a status file, with fractions of a second) wrote; ValueError otherwise."""
    if not text.endswith("Z"):
        raise ValueError(f"not a UTC time: {text!r}")
    return datetime.fromisoformat(text[:-1]).replace(tzinfo=UTC)
