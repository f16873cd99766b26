"""Signals to the wrapper, as bytes in a pipe that the main loop waits on; the handlers do nothing."""

import os
import signal
from types import FrameType
from typing import List, Optional

# A handler that does nothing, not SIG_IGN, which the program would inherit. Some schedulers announce a limit
# by USR1 or USR2; what they mean by it, they say by TERM as well.
_CAUGHT = (
    signal.SIGCHLD,
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
# Python ignores these two for itself, and `subprocess` gives them back their default in the program.
_PYTHONS_OWN = (signal.SIGPIPE, signal.SIGXFSZ)


class SignalPipe:
    """From its creation on, signals that would end the wrapper arrive here instead. One for each process."""

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe()
        self.got_sigterm = False
        for descriptor in (self.reader, self._writer):
            os.set_blocking(descriptor, False)
        _restore_defaults()
        signal.set_wakeup_fd(self._writer)
        for number in _CAUGHT:
            signal.signal(number, _do_nothing)
        # After the handlers: a TERM that was blocked and waiting must find them.
        signal.pthread_sigmask(signal.SIG_SETMASK, [])

    def drain(self) -> List[int]:
        """The signals that came since the last call, in their order; takes note of SIGTERM."""
        numbers = []  # type: List[int]
        while True:
            try:
                received = os.read(self.reader, 4096)
            except BlockingIOError:
                break
            numbers.extend(received)
        self.got_sigterm = self.got_sigterm or signal.SIGTERM in numbers
        return numbers


def _restore_defaults() -> None:
    """What the parent of the wrapper ignored (`nohup` …) the program would ignore as well."""
    for number in range(1, signal.NSIG):
        if number not in _PYTHONS_OWN and signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def _do_nothing(_number: int, _frame: Optional[FrameType]) -> None:
    pass
