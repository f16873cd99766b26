"""Ending what a killed wrapper left behind: as their subreaper, the compute client becomes the parent."""

import os
import signal
import time
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path

from portal.node.descendants import descendants, parent_in_stat

_PATIENCE_SECONDS = 5.0
_PAUSE_SECONDS = 0.01


def end_orphans(wrappers: AbstractSet[int]) -> bool:
    """SIGKILL and reap the children of this process that are not among the living `wrappers`, with all below them.

    A wrapper's own descendants never become our children while it lives, because it is their subreaper. Called where
    nothing but wrappers is ever started by this process. False where something could not be ended in time.
    """
    give_up_seconds = time.monotonic() + _PATIENCE_SECONDS
    while orphans := _children() - wrappers:
        for orphan in orphans:
            for pid in [*descendants(orphan), orphan]:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(orphan, os.WNOHANG)
        if time.monotonic() > give_up_seconds:
            return False
        time.sleep(_PAUSE_SECONDS)
    return True


def _children() -> set[int]:
    """The direct children of this process, the dead and unreaped among them."""
    own = os.getpid()
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                if parent_in_stat((folder / "stat").read_bytes()) == own:
                    found.add(int(folder.name))
    return found
