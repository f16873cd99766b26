"""The signals that ask a process to stop, as bytes in a pipe: none is missed, and no handler does any work.

(A handler that sets an Event can deadlock: it runs in the main thread, which may hold the Event's own lock.)
"""

import os
import select
import signal
import threading
from types import FrameType

_STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


class SignalPipe:
    """From its creation on, SIGTERM, SIGINT and SIGHUP arrive here. One for each process, made by the main thread."""

    def __init__(self, *, with_children: bool = False) -> None:
        """`with_children`: the end of a child ends a wait as well."""
        self._reader, writer = os.pipe()
        for descriptor in (self._reader, writer):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, *((signal.SIGCHLD,) if with_children else ())):
            signal.signal(number, _do_nothing)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # `nohup` means it
            signal.signal(signal.SIGHUP, _do_nothing)

    def wait(self, seconds: float | None) -> int:
        """Wait for any signal, at most so long (None: however long); how many of them ask to stop."""
        select.select([self._reader], [], [], seconds)
        try:
            numbers = os.read(self._reader, 4096)
        except BlockingIOError:
            return 0
        return sum(number in _STOP_SIGNALS for number in numbers)


def stop_on_signals() -> threading.Event:
    """An event that is set when this process is asked to stop. To be called once, by the main thread."""
    stop = threading.Event()
    pipe = SignalPipe()

    def set_when_asked() -> None:
        while not pipe.wait(None):
            pass
        stop.set()

    threading.Thread(target=set_when_asked, name="signals", daemon=True).start()
    return stop


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    pass
