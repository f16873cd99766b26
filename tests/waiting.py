"""Waiting for a condition instead of sleeping for a time."""

import time
from collections.abc import Callable

_POLL_SECONDS = 0.01


def wait_until(
    condition: Callable[[], object],
    seconds: float,
    what: str | Callable[[], str],
    poll_seconds: float = _POLL_SECONDS,
) -> None:
    """Return as soon as `condition()` is true; AssertionError that names `what`, as it is then, after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {seconds} s in vain: {what if isinstance(what, str) else what()}")
        time.sleep(poll_seconds)
