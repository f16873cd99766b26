"""Guessing job ids is rate-limited, in the memory of this process."""

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from portal.errors import TooManyRequestsError


class Misses:
    """Counts, by network address, the requests for jobs that do not exist or may not be seen."""

    def __init__(self, per_minute: int) -> None:
        self._limit = RateLimitItemPerMinute(per_minute)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def check(self, address: str) -> None:
        """Raise TooManyRequestsError where this address has used up its misses.

        It is called before the job is looked up, so that a right id is answered no differently from a wrong one.
        """
        if not self._limiter.test(self._limit, address):
            raise TooManyRequestsError(
                f"More than {self._limit.amount} unknown job ids were asked for from your network within a minute. "
                "Please try again in a minute."
            )

    def note(self, address: str) -> None:
        """One more miss."""
        self._limiter.hit(self._limit, address)
