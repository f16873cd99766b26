"""The wrapper's main loop: one thread that waits for the program, signals, its client and time."""

import os
import select
import signal
from typing import Mapping, Optional

from .descendants import reap_all
from .heartbeat import Heart
from .signals import SignalPipe

LIFELINE_VARIABLE = "PORTAL_LIFELINE_FD"


class LifelineLostError(Exception):
    """The compute client that started this wrapper has died."""


def open_lifeline(environ: Mapping[str, str]) -> Optional[int]:
    """The read end of the pipe to the compute client, hidden from the program; None where there is no client.

    ValueError where the variable does not name an open file.
    """
    text = environ.get(LIFELINE_VARIABLE)
    if text is None:
        return None
    try:
        descriptor = int(text)
        os.set_inheritable(descriptor, False)
    except (ValueError, OverflowError, OSError) as error:
        raise ValueError("{} does not name an open file".format(LIFELINE_VARIABLE)) from error
    return descriptor


def supervise(pid: int, signals: SignalPipe, lifeline: Optional[int], heart: Heart) -> int:
    """Wait until the program has ended; its wait status.

    Meanwhile the heart beats, each SIGTERM goes on to the program's process group (which has the number
    `pid`), and orphans are reaped. LifelineLostError where the client died; the program may still run then.
    """
    poll = select.poll()
    poll.register(signals.reader, select.POLLIN)
    if lifeline is not None:
        poll.register(lifeline, select.POLLIN)
    while True:
        due_in_seconds = heart.beat_if_due()
        ready = [descriptor for descriptor, _ in poll.poll(due_in_seconds * 1000)]
        if lifeline in ready and not os.read(lifeline, 4096):
            raise LifelineLostError
        # Before reaping: as long as the program is not reaped, its number cannot belong to anybody else.
        _forward_sigterm(pid, signals)
        ended = reap_all()
        if pid in ended:
            return ended[pid]


def _forward_sigterm(pid: int, signals: SignalPipe) -> None:
    for number in signals.drain():
        if number == signal.SIGTERM:
            try:
                os.killpg(pid, signal.SIGTERM)
            except OSError:
                # All of the group has ended, or runs as somebody else; the note of the signal stays.
                pass
