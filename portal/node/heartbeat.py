"""The heart: a counter in a file that goes up as long as the wrapper lives."""

import os
import time

FILE_NAME = "heartbeat"

# Without O_NONBLOCK a FIFO that the job puts there would stop the wrapper.
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Heart:
    """Beats at most every so many seconds, when asked to."""

    def __init__(self, work_dir: str, seconds: float) -> None:
        self._path = os.path.join(work_dir, FILE_NAME)
        self._seconds = seconds
        self._count = 0
        self._next = time.monotonic()

    def beat_if_due(self) -> float:
        """Write the next count if its time has come; the seconds until the next one is due.

        A beat that cannot be written is left out: a full disk must not end a program that could still
        succeed.
        """
        now = time.monotonic()
        if now >= self._next:
            self._count += 1
            _write(self._path, self._count)
            self._next = now + self._seconds
        return max(self._next - time.monotonic(), 0.0)


def _write(path: str, count: int) -> None:
    # Opened anew each time, because NFS shows other machines what was written when a file is closed. In
    # place: a number never gets shorter, so that no reader sees an empty file.
    try:
        descriptor = os.open(path, _FLAGS, 0o640)
    except OSError:
        return
    try:
        os.write(descriptor, "{}\n".format(count).encode("ascii"))
    except OSError:
        pass
    finally:
        _close(descriptor)


def _close(descriptor: int) -> None:
    # Over NFS, close may report that the write failed.
    try:
        os.close(descriptor)
    except OSError:
        pass
