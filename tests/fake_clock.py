"""A clock whose hands the test turns: `portal.clock.Clock`."""

from datetime import UTC, datetime, timedelta

START = datetime(2026, 11, 24, 6, 0, 0, 123456, tzinfo=UTC)


class FakeClock:
    """Stands still until it is turned."""

    def __init__(self, start: datetime = START) -> None:
        self._now = start
        self._monotonic_seconds = 1000.0

    def now_utc(self) -> datetime:
        return self._now

    def monotonic_seconds(self) -> float:
        return self._monotonic_seconds

    def advance(self, seconds: float) -> None:
        """Let time go by."""
        self._now += timedelta(seconds=seconds)
        self._monotonic_seconds += seconds

    def set_wall_clock(self, now: datetime) -> None:
        """Put the wall clock right or wrong, as an administrator does; no time goes by."""
        self._now = now
