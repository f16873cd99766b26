"""Guessing job ids and sign-in links is rate-limited, in the memory of this process."""

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from portal.errors import TooManyRequestsError


class Misses:
    """Counts, by network address, the requests for what does not exist or may not be seen."""

    def __init__(self, per_minute: int) -> None:
        self._limit = RateLimitItemPerMinute(per_minute)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def count(self, address: str) -> None:
        """One more miss. Raises TooManyRequestsError where this address had used up its misses already.

        Only who may not see a job is counted, so that a guesser locks nobody out who shares the address; an unknown id
        and a forbidden one are answered alike all the same.
        """
        if not self._limiter.hit(self._limit, address):
            raise TooManyRequestsError(
                f"More than {self._limit.amount} unknown ids or links were tried from your network within a minute. "
                "Please try again in a minute."
            )
