"""One thread for all calls of the DRMAA library, and a limit to how long anybody waits for it.

A call into the library cannot be interrupted: while a qmaster hangs, it does not return. So whoever calls waits for a
time only, and until the stuck call returns, all others are refused at once. The thread is the only one that ever
touches the library, whose error text is one buffer for all threads, too.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class StuckError(Exception):
    """The call was made and has not returned in time: it may yet take effect."""


class BusyError(Exception):
    """An earlier call has not returned yet; this one was not made."""


class LibraryThread:
    """Runs one call at a time. It is a daemon: a stuck call keeps no process alive."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._work: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stuck: Future[Any] | None = None

    def call(self, function: Callable[[], T]) -> T:
        """What `function` answers or raises; StuckError or BusyError where it does not come to that."""
        if self._stuck is not None and not self._stuck.done():
            raise BusyError
        self._stuck = None
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="drmaa", daemon=True)
            self._thread.start()
        future: Future[T] = Future()
        self._work.put((function, future))
        try:
            return future.result(self._timeout_seconds)
        except TimeoutError as error:
            if future.done():
                raise  # the function's own
            self._stuck = future
            raise StuckError from error

    def close(self) -> None:
        """Let the thread end, after what it is at."""
        if self._thread is not None:
            self._work.put(None)
            self._thread = None

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            function, future = item
            try:
                future.set_result(function())
            except BaseException as error:  # StopIteration is among them: it is the caller's to judge
                future.set_exception(error)
