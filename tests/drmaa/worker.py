"""A dispatcher in miniature: a `DrmaaScheduler` whose verbs are called through standard input and output.

Each request and each answer is a pickle: (verb, arguments), and (whether it is an answer, that or the error).
Its arguments are the native specification, and `as-unknown` to take the cell for a system nobody knows, or
`without-commands` to find neither qstat nor qacct.
"""

import os
import pickle
import pwd
import sys
from collections.abc import Callable
from unittest import mock

from portal.clock import SystemClock
from portal.schedulers import drmaa_scheduler, grid_engine_calls
from portal.schedulers.drmaa_loading import make_room_for_library
from portal.schedulers.drmaa_native import Drms
from portal.schedulers.drmaa_records import GridEngineRecords, Records
from portal.schedulers.drmaa_scheduler import DrmaaScheduler
from portal.schedulers.drmaa_session import DrmaaSession
from portal.schedulers.drmaa_status import LibraryRecords
from portal.schedulers.grid_engine_calls import GridEngineCommands


def main() -> None:
    """Until standard input ends."""
    make_room_for_library()
    # Standard output is for pickles alone, whatever a library writes there.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    session = DrmaaSession()
    user = pwd.getpwuid(os.geteuid()).pw_name
    records: dict[Drms, Callable[[], Records]] = {
        Drms.GRID_ENGINE: lambda: GridEngineRecords(GridEngineCommands(), SystemClock(), user),
        Drms.OTHER: lambda: LibraryRecords(session),
    }
    if sys.argv[2:] == ["as-unknown"]:
        mock.patch.object(drmaa_scheduler, "drms_of", return_value=Drms.OTHER).start()
    if sys.argv[2:] == ["without-commands"]:
        mock.patch.object(grid_engine_calls, "environment_of_grid_engine", return_value={"PATH": "/nowhere"}).start()
    scheduler = DrmaaScheduler(session, records, sys.argv[1], "smp")
    owners: dict[str, object] = dict.fromkeys(("submit", "observe", "cancel", "find", "health"), scheduler) | {
        "status": session
    }
    while True:
        try:
            verb, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            break
        try:
            answer = dict(os.environ) if verb == "environment" else getattr(owners[verb], verb)(*arguments)
            pickle.dump((True, answer), answers)
        except Exception as error:
            pickle.dump((False, error), answers)
        answers.flush()
    scheduler.close()


if __name__ == "__main__":
    main()
