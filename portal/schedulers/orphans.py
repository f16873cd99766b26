"""Ending what a killed wrapper left behind: as their subreaper, the compute client becomes the parent."""

import os
import signal
import time
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from portal.node.descendants import descendants, parent_in_stat

PATIENCE_SECONDS = 2.0
"""Much less than a client may be silent: its heart stands still meanwhile."""

_PAUSE_SECONDS = 0.01


@dataclass(frozen=True)
class Orphans:
    """What became of them, by process id."""

    ended: frozenset[int]
    stuck: frozenset[int]
    """Not ended in time: another account's, or waiting in the kernel, which they never leave alive."""


def end_orphans(spared: AbstractSet[int], patience_seconds: float = PATIENCE_SECONDS) -> Orphans:
    """SIGKILL and reap the children of this process that are not among the `spared`, with all below them.

    A living wrapper's descendants never become our children, because it is their subreaper. Called where nothing but
    wrappers is ever started by this process.
    """
    give_up_seconds = time.monotonic() + patience_seconds
    seen: set[int] = set()
    while orphans := children_of_this_process() - spared:
        seen |= orphans
        if time.monotonic() > give_up_seconds:
            return Orphans(frozenset(seen - orphans), frozenset(orphans))
        for orphan in orphans:
            # Again and again, parents first: a process may fork between being listed and being killed.
            for pid in [orphan, *descendants(orphan)]:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(orphan, os.WNOHANG)
        time.sleep(_PAUSE_SECONDS)
    return Orphans(frozenset(seen), frozenset())


def children_of_this_process() -> set[int]:
    """The direct children of this process, the dead and unreaped among them."""
    own = os.getpid()
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                if parent_in_stat((folder / "stat").read_bytes()) == own:
                    found.add(int(folder.name))
    return found
