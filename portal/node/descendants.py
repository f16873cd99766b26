"""The processes that come from this one, whatever session or parent they gave themselves."""

import ctypes
import os
import signal
import time
from typing import Dict, List, Optional, Tuple

_PR_SET_CHILD_SUBREAPER = 36
_PAUSE_SECONDS = 0.01


def become_subreaper() -> bool:
    """Make orphans below this process its children, so that none is lost; False where that cannot be."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        # Variadic: without declared types the zeros would go in as 32 bits, with rubbish above them.
        libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
        return bool(libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def descendants(pid: int) -> List[int]:
    """The processes below `pid`, parents before children, without it; zombies count until they are reaped."""
    children = {}  # type: Dict[int, List[int]]
    for child, parent in _all_parents():
        children.setdefault(parent, []).append(child)
    found = []  # type: List[int]
    waiting = [pid]
    while waiting:
        below = children.pop(waiting.pop(0), [])
        found.extend(below)
        waiting.extend(below)
    return found


def end_descendants(seconds: float = 10.0) -> bool:
    """Kill and reap everything below this process; True where none is left.

    False after `seconds`: something is stuck in the kernel (state D) or belongs to another user.
    """
    deadline = time.monotonic() + seconds
    while True:
        # Again and again: a process may fork between being listed and being killed.
        left = descendants(os.getpid())
        for pid in left:
            _kill(pid)
        reap_all()
        if not left:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE_SECONDS)


def reap_all() -> Dict[int, int]:
    """Reap every child that has ended, without waiting: process id -> wait status."""
    ended = {}  # type: Dict[int, int]
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = status


def parent_in_stat(stat: bytes) -> Optional[int]:
    """The parent in the content of a `/proc/<pid>/stat`; None where it is not to be found.

    The second field is the program's name in parentheses, and may itself hold spaces and parentheses.
    """
    fields = stat[stat.rfind(b")") + 1 :].split()
    try:
        return int(fields[1])
    except (IndexError, ValueError):
        return None


def _all_parents() -> List[Tuple[int, int]]:
    pairs = []  # type: List[Tuple[int, int]]
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open("/proc/{}/stat".format(name), "rb") as file:
                parent = parent_in_stat(file.read())
        except OSError:
            continue
        if parent is not None:
            pairs.append((int(name), parent))
    return pairs


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        pass
