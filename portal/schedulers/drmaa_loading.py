"""Room for a DRMAA library in this process.

Grid Engine's library pulls in jemalloc, which wants more static thread-local storage than glibc leaves to what is
loaded later: "cannot allocate memory in static TLS block". How much it leaves is fixed when a process starts, by a
variable. So the dispatcher starts itself once more, with that variable, before it does anything else.
"""

import os
import sys
from collections.abc import Callable, Mapping, MutableMapping

TUNABLES = "GLIBC_TUNABLES"
_ROOM = "glibc.rtld.optional_static_tls=4096"
"""Bytes; glibc leaves 512 otherwise (its manual, "Dynamic Linking Tunables")."""
_BEFORE = "PORTAL_TUNABLES_BEFORE"
"""What the variable was before the restart; that this one is there says that the restart has been."""

Execute = Callable[[str, list[str], Mapping[str, str]], object]


def make_room_for_library(environ: MutableMapping[str, str] = os.environ, execute: Execute = os.execve) -> None:
    """Start this program again with room for the library, once; the second time, return.

    Call it first of all: open files that are not to be inherited are closed by it, and threads end. The process id
    stays. After it the variable is again what it was, so that neither commands nor jobs see it. Raises OSError.
    """
    before = environ.pop(_BEFORE, None)
    if before is not None:
        _put_back(environ, before)
        return
    own = environ.get(TUNABLES, "")
    if _ROOM.partition("=")[0] in own:
        # Somebody has chosen a number; it is theirs to choose.
        return
    tunables = f"{own}:{_ROOM}" if own else _ROOM
    execute(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**environ, TUNABLES: tunables, _BEFORE: own})


def _put_back(environ: MutableMapping[str, str], before: str) -> None:
    environ.pop(TUNABLES, None)
    if before:
        environ[TUNABLES] = before
