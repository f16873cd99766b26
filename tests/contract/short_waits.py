"""A command of the portal that waits for less long than at a real site: `python short_waits.py dispatcher`.

What is cut short are times only, each of which no test could sit out: nothing is decided in another way.
"""

from unittest import mock

from portal import app
from portal.cli import main
from portal.clock import Clock
from portal.database import Database
from portal.dispatch import answers
from portal.schedulers import drmaa_scheduler, slurm_scheduler
from portal.schedulers.local import LocalScheduler

LEASE_SECONDS = 5.0


class ShortLeases(LocalScheduler):
    """A compute client that says nothing for five seconds counts as dead."""

    def __init__(self, database: Database, clock: Clock) -> None:
        super().__init__(database, clock, LEASE_SECONDS)


def cut_waits_short() -> None:
    """For the rest of this process."""
    for where, name, value in (
        (answers, "RETRY_SECONDS", 2.0),
        (answers, "LOOK_AGAIN_SECONDS", 1.0),
        (slurm_scheduler, "CONTROLLER_SECONDS", 5.0),
        (drmaa_scheduler, "LIBRARY_SECONDS", 5.0),
        (drmaa_scheduler, "CALL_SECONDS", 5.0),
        (app, "LOCAL_CALL_SECONDS", 6.0),
        (app, "LocalScheduler", ShortLeases),
    ):
        mock.patch.object(where, name, value).start()


if __name__ == "__main__":
    cut_waits_short()
    main()
