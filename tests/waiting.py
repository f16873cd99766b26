"""Waiting for a condition instead of sleeping for a time."""

import time
from collections.abc import Callable

_SHORTEST_POLL_SECONDS = 0.01
_LONGEST_POLL_SECONDS = 0.5
_REST_FACTOR = 4
"""A look is followed by a rest of four times its length: who waits leaves the machine to what is waited for."""


def wait_until(condition: Callable[[], object], seconds: float, what: str | Callable[[], str]) -> None:
    """Return as soon as `condition()` is true; AssertionError that names `what`, as it is then, after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        looked_at = time.monotonic()
        if condition():
            return
        now = time.monotonic()
        if now >= deadline:
            raise AssertionError(f"waited {seconds} s in vain: {what if isinstance(what, str) else what()}")
        rest_seconds = min(_REST_FACTOR * (now - looked_at), _LONGEST_POLL_SECONDS, deadline - now)
        time.sleep(max(rest_seconds, _SHORTEST_POLL_SECONDS))
